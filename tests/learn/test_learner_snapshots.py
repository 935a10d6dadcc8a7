"""A snapshot is whole or refused: round trips, flipped bytes, full disks, sudden death."""

import errno
import math
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nestling as nl
from nestling.core.errors import CorruptSnapshot, ForeignSnapshot, SnapshotError
from nestling.store import snapshots as module
from nestling.store.snapshots import read_snapshot, write_snapshot

BASE = torch.arange(24, dtype=torch.float32).reshape(4, 6)
STATE: dict[str, object] = {
    "step": 7,
    "best": -math.inf,
    "empty": {},
    "generator": torch.Generator().manual_seed(1).get_state(),
    "levels": [{"w": BASE, "view": BASE[1:], "columns": BASE[:, ::2]}, None, True, "name"],
}

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.bool, torch.uint8]
DTYPES += [torch.int64, torch.complex64]


def make_tensor(dtype: torch.dtype, shape: list[int], seed: int) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (values * 3).to(dtype)


tensors = st.builds(
    make_tensor,
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 99),
)
keys = st.one_of(st.text(max_size=4), st.sampled_from(["$tensor", "$float", "$$", "a/b", "~1", ""]))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
trees = st.recursive(
    st.one_of(scalars, tensors),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)


def is_same(left: object, right: object) -> bool:
    """Equal in type, structure and every bit."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        if (left.dtype, left.shape) != (right.dtype, right.shape):
            return False
        one, other = (t.contiguous().reshape(-1).view(torch.uint8) for t in (left, right))
        return torch.equal(one, other)
    if type(left) is not type(right):
        return False
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(is_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(is_same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        both_nan = math.isnan(left) and math.isnan(right)
        return both_nan or struct.pack("d", left) == struct.pack("d", right)
    return left == right


def list_files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


@settings(max_examples=60, deadline=None)
@given(state=st.dictionaries(keys, trees, max_size=4))
def test_any_state_comes_back_bit_for_bit(state: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_snapshot(Path(folder) / "s", state, kind="k", schema=1)
        assert is_same(read_snapshot(Path(folder) / "s", kind="k", schema=1), state)


def test_shared_and_strided_tensors_come_back_apart(tmp_path: Path) -> None:
    write_snapshot(tmp_path, STATE, kind="k", schema=1)
    back = read_snapshot(tmp_path, kind="k", schema=1)
    assert is_same(back, STATE)
    first = back["levels"][0]
    first["w"].zero_()
    assert torch.equal(first["view"], BASE[1:])


def test_parameters_and_tuples_are_stored_plainly(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    write_snapshot(tmp_path, {"w": weight, "t": (1, 2)}, kind="k", schema=1)
    back = read_snapshot(tmp_path, kind="k", schema=1)
    assert type(back["w"]) is torch.Tensor
    assert not back["w"].requires_grad
    assert back["t"] == [1, 2]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {1: 2}}, r"key 1 \(int\) at '/a'.*use the string '1'"),
        ({"a": {"b": {1, 2}}}, "set at '/a/b'"),
        ({"a": b"raw"}, "bytes at '/a'"),
        ({"a": torch.eye(2).to_sparse()}, "sparse_coo"),
        ({"a": torch.empty(2, device="meta")}, "meta"),
        ({"a": torch.zeros(1, dtype=torch.complex128)}, "complex128"),
        ([1], "a state is a dict, not a list"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_writing(
    tmp_path: Path, state: dict[str, object], message: str
) -> None:
    write_snapshot(tmp_path / "s", STATE, kind="k", schema=1)
    before = list_files(tmp_path / "s")
    with pytest.raises(SnapshotError, match=message):
        write_snapshot(tmp_path / "s", state, kind="k", schema=1)
    assert list_files(tmp_path / "s") == before


def test_replacing_leaves_only_the_new_files(tmp_path: Path) -> None:
    for step in range(3):
        write_snapshot(tmp_path, {"w": torch.full((3,), float(step))}, kind="k", schema=1)
    assert len(list_files(tmp_path)) == 2
    assert torch.equal(read_snapshot(tmp_path, kind="k", schema=1)["w"], torch.full((3,), 2.0))


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    write_snapshot(tmp_path, {"w": torch.ones(4), "best": math.inf}, kind="k", schema=1)
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        for position in range(len(content)):
            for mask in (0x01, 0x20, 0xFF):
                changed = bytearray(content)
                changed[position] ^= mask
                file.write_bytes(changed)
                with pytest.raises(CorruptSnapshot):
                    read_snapshot(tmp_path, kind="k", schema=1)
        file.write_bytes(content)
    read_snapshot(tmp_path, kind="k", schema=1)


def test_every_truncation_and_appended_byte_is_found(tmp_path: Path) -> None:
    write_snapshot(tmp_path, {"w": torch.ones(4)}, kind="k", schema=1)
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        for changed in [content[:length] for length in range(len(content))] + [content + b"\n"]:
            file.write_bytes(changed)
            with pytest.raises(CorruptSnapshot):
                read_snapshot(tmp_path, kind="k", schema=1)
        file.write_bytes(content)


def test_another_kind_or_schema_is_foreign(tmp_path: Path) -> None:
    write_snapshot(tmp_path, STATE, kind="learner", schema=1)
    with pytest.raises(ForeignSnapshot, match="is of a 'learner', not of a 'memory'"):
        read_snapshot(tmp_path, kind="memory", schema=1)
    with pytest.raises(ForeignSnapshot, match="schema version 1, this version of nestling reads 2"):
        read_snapshot(tmp_path, kind="learner", schema=2)


def test_another_file_format_is_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "FORMAT", 2)
        write_snapshot(tmp_path, STATE, kind="k", schema=1)
    with pytest.raises(ForeignSnapshot, match="another file format than 1"):
        read_snapshot(tmp_path, kind="k", schema=1)


def test_missing_snapshot_names_its_neighbours(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "last", STATE, kind="k", schema=1)
    with pytest.raises(SnapshotError, match=r"no snapshot at '.*lost'; .*did you mean 'last'"):
        read_snapshot(tmp_path / "lost", kind="k", schema=1)
    next((tmp_path / "last").glob("tensors-*")).unlink()
    with pytest.raises(CorruptSnapshot, match="has lost its file 'tensors-"):
        read_snapshot(tmp_path / "last", kind="k", schema=1)


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(SnapshotError, match="cannot write snapshot"):
        write_snapshot(tmp_path / "s", STATE, kind="k", schema=1)
    with pytest.raises(SnapshotError, match="no snapshot at"):
        read_snapshot(tmp_path / "s", kind="k", schema=1)
    assert (tmp_path / "s").read_text() == "mine"


def test_disk_full_leaves_the_older_snapshot(tmp_path: Path) -> None:
    """A file-size limit makes write() fail for real, after the first 16 KiB."""
    write_snapshot(tmp_path / "s", STATE, kind="k", schema=1)
    before = list_files(tmp_path / "s")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, hard))
    try:
        for folder in ("s", "new"):
            with pytest.raises(SnapshotError, match=r"free 0\.4 MB") as caught:
                write_snapshot(tmp_path / folder, {"w": torch.ones(100_000)}, kind="k", schema=1)
            assert "\n" not in str(caught.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list_files(tmp_path / "s") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("nth", range(3))
def test_failure_of_any_call_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, nth: int
) -> None:
    write_snapshot(tmp_path, {"w": torch.zeros(3)}, kind="k", schema=1)
    real, count = getattr(os, call), 0

    def fail_once(*arguments: object) -> object:
        nonlocal count
        count += 1
        if count == nth + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail_once)
        if (call, nth) == ("replace", 2):  # there are only two renames: this one must work
            write_snapshot(tmp_path, {"w": torch.ones(3)}, kind="k", schema=1)
            return
        with pytest.raises(SnapshotError, match=r"No space left on device; free 0\.0 MB"):
            write_snapshot(tmp_path, {"w": torch.ones(3)}, kind="k", schema=1)
    assert torch.equal(read_snapshot(tmp_path, kind="k", schema=1)["w"], torch.zeros(3))
    assert len(list_files(tmp_path)) == 2


WRITER = """
import sys, torch
from pathlib import Path
from nestling.store.snapshots import write_snapshot
step = int(sys.argv[2])
while True:
    step += 1
    write_snapshot(Path(sys.argv[1]), {"w": torch.full((20000,), float(step)), "step": step},
                   kind="k", schema=1)
    print(step, flush=True)
"""


def test_killed_at_any_moment_it_restores(tmp_path: Path) -> None:
    """SIGKILL in the middle of writing: what is on disk is the last step or the one after it."""
    script, folder, last = tmp_path / "writer.py", tmp_path / "s", 0
    script.write_text(WRITER)
    for trial in range(4):
        process = subprocess.Popen(
            [sys.executable, str(script), str(folder), str(last)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        last = int(process.stdout.readline())
        time.sleep(0.013 * (trial + 1))
        process.send_signal(signal.SIGKILL)
        printed = process.communicate()[0].split()
        last = int(printed[-1]) if printed else last
        state = read_snapshot(folder, kind="k", schema=1)
        assert state["step"] in (last, last + 1)
        assert torch.equal(state["w"], torch.full((20000,), float(state["step"])))
        last = int(state["step"])


def test_reader_beside_a_writer_sees_whole_snapshots(tmp_path: Path) -> None:
    write_snapshot(tmp_path, {"w": torch.zeros(2000), "step": 0}, kind="k", schema=1)
    is_over = threading.Event()

    def write() -> None:
        for step in range(1, 60):
            write_snapshot(
                tmp_path, {"w": torch.full((2000,), float(step)), "step": step}, kind="k", schema=1
            )
        is_over.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not is_over.is_set():
        state = read_snapshot(tmp_path, kind="k", schema=1)
        assert torch.equal(state["w"], torch.full((2000,), float(state["step"])))
    writer.join()


def test_buffers_that_are_not_persistent_are_saved(tmp_path: Path) -> None:
    class Centred(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)
            self.mean: torch.Tensor
            self.register_buffer("mean", torch.zeros(4), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.mean.mul_(0.9).add_(0.1 * x.detach().mean(dim=0))
            return torch.as_tensor(self.layer(x - self.mean))

    torch.manual_seed(0)
    plan = nl.Plan(nl.Level("all", match=["*"]))
    learner, twin = (nl.Learner(Centred(), plan) for _ in range(2))
    x = torch.randn(20, 4) + 5.0
    learner.learn(x, (x[:, 0] > 5).long())
    learner.snapshot(tmp_path / "last")
    twin.restore(tmp_path / "last")
    assert torch.equal(learner.predict_proba(x), twin.predict_proba(x))
