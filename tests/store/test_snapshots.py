"""A snapshot is whole or refused: round trips, flipped bytes, full disks, sudden death, links."""

import errno
import hashlib
import json
import math
import os
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.core.errors import CorruptSnapshot, ForeignSnapshot, SnapshotError
from nestling.store import (
    link_snapshot,
    list_parts,
    read_kind,
    read_listed,
    read_part,
    read_snapshot,
    write_snapshot,
)

BASE = torch.arange(24, dtype=torch.float32).reshape(4, 6)
STATE: dict[str, object] = {
    "step": 7,
    "best": -math.inf,
    "empty": {},
    "generator": torch.Generator().manual_seed(1).get_state(),
    "level spine": [{"w": BASE, "view": BASE[1:], "columns": BASE[:, ::2]}, None, True, "name"],
}
OLD: dict[str, object] = {"spine": torch.zeros(50), "head": torch.zeros(3), "step": 1}
NEW: dict[str, object] = {"spine": torch.zeros(50), "head": torch.ones(3), "step": 2}

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.bool, torch.uint8]
DTYPES += [torch.int8, torch.int64, torch.complex64]


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


def read(path: Path) -> dict[str, Any]:
    return read_snapshot(path, kind="k", schema=1)


def write(path: Path, parts: Any, **how: Any) -> None:
    write_snapshot(path, parts, kind="k", schema=1, **how)


def list_inodes(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_ino for file in path.iterdir()}


@settings(max_examples=60, deadline=None)
@given(state=st.dictionaries(keys, trees, max_size=4))
def test_any_state_comes_back_bit_for_bit(state: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "s", state)
        assert is_same(read(Path(folder) / "s"), state)


def test_shared_and_strided_tensors_come_back_apart(tmp_path: Path) -> None:
    write(tmp_path, STATE)
    back = read(tmp_path)
    assert is_same(back, STATE)
    first = back["level spine"][0]
    first["w"].zero_()
    assert torch.equal(first["view"], BASE[1:])


def test_parameters_and_tuples_are_stored_plainly(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    write(tmp_path, {"w": weight, "t": (1, 2)})
    back = read(tmp_path)
    assert type(back["w"]) is torch.Tensor
    assert not back["w"].requires_grad
    assert back["t"] == [1, 2]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {1: 2}}, r"part 'a': .*key 1 \(int\) at '/'.*use the string '1'"),
        ({"a": {"b": {1, 2}}}, "part 'a': .* set at '/b'"),
        ({"a": b"raw"}, "part 'a': .* bytes at '/'"),
        ({"a": torch.eye(2).to_sparse()}, "sparse_coo"),
        ({"a": torch.empty(2, device="meta")}, "meta"),
        ({"a": torch.zeros(1, dtype=torch.complex128)}, "complex128"),
        ([1], "a dict of parts, not a list"),
        ({3: 1}, r"part called 3 \(int\).*use the string '3'"),
        ({"good": torch.ones(9), "bad": object()}, "part 'bad': .* object at '/'"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_writing(
    tmp_path: Path, state: object, message: str
) -> None:
    write(tmp_path / "s", STATE)
    before = list_files(tmp_path / "s")
    with pytest.raises(SnapshotError, match=message):
        write(tmp_path / "s", state)
    assert list_files(tmp_path / "s") == before
    with pytest.raises(SnapshotError):
        write(tmp_path / "new", state)
    assert not (tmp_path / "new").exists()


def test_replacing_leaves_only_the_new_files(tmp_path: Path) -> None:
    (tmp_path / ".old.123.part").write_text("of a writer that was killed")
    (tmp_path / "notes.safetensors").write_text("the user's")
    for step in range(3):
        write(tmp_path, {"w": torch.full((3,), float(step))})
    assert len(list_files(tmp_path)) == 3
    assert (tmp_path / "notes.safetensors").exists()
    assert torch.equal(read(tmp_path)["w"], torch.full((3,), 2.0))


# --- what is written, and what is not


def measure_written(path: Path, before: dict[str, int]) -> int:
    """Bytes of the files that are others than before."""
    return sum(
        file.stat().st_size for file in path.iterdir() if before.get(file.name) != inode_of(file)
    )


def inode_of(file: Path) -> int:
    return file.stat().st_ino


def test_a_part_that_did_not_change_is_not_written_again(tmp_path: Path) -> None:
    parts: dict[str, Any] = {
        "level spine": {"w": torch.randn(300_000), "moments": [torch.randn(300_000)]},
        "level head": {"w": torch.randn(10_000), "clock": {"steps": 1}},
        "readout": None,
    }
    write(tmp_path, parts)
    before = list_inodes(tmp_path)
    parts["level head"] = {"w": torch.randn(10_000), "clock": {"steps": 2}}
    parts["level spine"]["moments"] = tuple(
        value.clone() for value in parts["level spine"]["moments"]
    )
    write(tmp_path, parts)
    assert 40_000 < measure_written(tmp_path, before) < 1.1 * 40_000
    assert len(before.keys() & list_inodes(tmp_path).keys()) == 3
    assert torch.equal(read(tmp_path)["level head"]["w"], parts["level head"]["w"])
    before = list_inodes(tmp_path)
    write(tmp_path, parts)
    assert measure_written(tmp_path, before) == (tmp_path / "manifest.json").stat().st_size


def test_a_part_is_found_under_any_name(tmp_path: Path) -> None:
    """Two parts with the same content are one file; renamed, it is not written again."""
    write(tmp_path, {"a": torch.ones(5), "b": torch.ones(5)})
    before = list_inodes(tmp_path)
    assert len(before) == 2
    write(tmp_path, {"c": torch.ones(5)})
    assert len(before.items() & list_inodes(tmp_path).items()) == 1
    assert is_same(read(tmp_path), {"c": torch.ones(5)})


def test_a_kept_file_that_was_damaged_is_written_again(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    for file in tmp_path.glob("*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(CorruptSnapshot):
        read(tmp_path)
    write(tmp_path, OLD)
    assert is_same(read(tmp_path), OLD)


PRINTER = """
import sys, torch
from pathlib import Path
from nestling.store import write_snapshot
base = torch.arange(24.0).reshape(4, 6)
part = {"b": base[:, ::2].contiguous(), "a": [base.double(), 1.5, None], "z": base.bool()}
write_snapshot(Path(sys.argv[1]), {"part": part}, kind="k", schema=1)
"""


def test_the_same_part_has_the_same_bytes_everywhere(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PRINTER, str(tmp_path / "there")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    base = torch.nn.Parameter(torch.arange(24.0).reshape(4, 6))
    part = {"b": base[:, ::2], "a": (base.double(), 1.5, None), "z": base.bool()}
    write(tmp_path / "here", {"other": 1, "part": part})
    there = list_files(tmp_path / "there")
    (name,) = there.keys() - {"manifest.json"}
    assert list_files(tmp_path / "here")[name] == there[name]
    assert name == hashlib.sha256(there[name]).hexdigest() + ".safetensors"


@settings(max_examples=40, deadline=None)
@given(part=trees)
def test_what_was_read_is_written_with_the_same_bytes(part: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder) / "one", Path(folder) / "other"
        write(one, {"part": part})
        write(other, read(one))
        assert list_files(one) == list_files(other)


# --- one part alone


def test_one_part_alone_opens_no_other_file(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    files = json.loads((tmp_path / "manifest.json").read_text())["body"]["parts"]
    for name in ("spine", "step"):
        (tmp_path / files[name]["file"]).unlink()
    assert is_same(read_part(tmp_path, "head", kind="k", schema=1), OLD["head"])
    with pytest.raises(CorruptSnapshot, match="has lost its file"):
        read_part(tmp_path, "spine", kind="k", schema=1)


def test_one_part_is_checked_as_all_are(tmp_path: Path) -> None:
    write(tmp_path, {"head": OLD["head"]})
    with pytest.raises(SnapshotError, match=r"no part 'haed'; known: \['head'\]; did you mean"):
        read_part(tmp_path, "haed", kind="k", schema=1)
    with pytest.raises(ForeignSnapshot, match="is of a 'k', not of a 'learner'"):
        read_part(tmp_path, "head", kind="learner", schema=1)
    with pytest.raises(SnapshotError, match="no snapshot at"):
        read_part(tmp_path / "none", "head", kind="k", schema=1)
    (file,) = tmp_path.glob("*.safetensors")
    for content in (file.read_bytes()[:-1], file.read_bytes()[:-1] + b"\x01"):
        file.write_bytes(content)
        with pytest.raises(CorruptSnapshot):
            read_part(tmp_path, "head", kind="k", schema=1)


# --- links


def test_a_part_of_another_snapshot_is_linked(tmp_path: Path) -> None:
    write(tmp_path / "one", OLD)
    write(tmp_path / "two", NEW, reuse=[tmp_path / "none", tmp_path / "one"])
    one, two = list_inodes(tmp_path / "one"), list_inodes(tmp_path / "two")
    assert len(one.items() & two.items()) == 1
    assert measure_written(tmp_path / "two", one) < 2000
    shutil.rmtree(tmp_path / "one")
    assert is_same(read(tmp_path / "two"), NEW)


def test_a_later_snapshot_leaves_a_link_elsewhere_alone(tmp_path: Path) -> None:
    write(tmp_path / "one", OLD)
    write(tmp_path / "two", OLD, reuse=[tmp_path / "one"])
    write(tmp_path / "one", NEW)
    assert is_same(read(tmp_path / "two"), OLD)
    assert is_same(read(tmp_path / "one"), NEW)


def test_a_damaged_file_is_not_linked(tmp_path: Path) -> None:
    write(tmp_path / "one", {"w": torch.ones(3)})
    (file,) = (tmp_path / "one").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    write(tmp_path / "two", {"w": torch.ones(3)}, reuse=[tmp_path / "one"])
    assert is_same(read(tmp_path / "two"), {"w": torch.ones(3)})
    # The link's place is taken, so a whole file is written over the damaged one.
    write(tmp_path / "one", {"w": torch.ones(3)}, reuse=[tmp_path / "two"])
    assert is_same(read(tmp_path / "one"), {"w": torch.ones(3)})


def test_where_the_system_knows_no_links_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    write(tmp_path / "one", OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        write(tmp_path / "two", OLD, reuse=[tmp_path / "one"])
    assert is_same(read(tmp_path / "two"), OLD)
    assert not list_inodes(tmp_path / "one").items() & list_inodes(tmp_path / "two").items()


# --- damage


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    write(tmp_path, {"w": torch.ones(4), "best": math.inf})
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        for position in range(len(content)):
            changed = bytearray(content)
            changed[position] ^= 1 << position % 8
            file.write_bytes(changed)
            with pytest.raises(CorruptSnapshot):
                read(tmp_path)
        file.write_bytes(content)
    read(tmp_path)


def test_every_truncation_and_appended_byte_is_found(tmp_path: Path) -> None:
    write(tmp_path, {"w": torch.ones(4)})
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        for changed in [content[:length] for length in range(len(content))] + [content + b"\n"]:
            file.write_bytes(changed)
            with pytest.raises(CorruptSnapshot):
                read(tmp_path)
        file.write_bytes(content)


def test_missing_snapshot_names_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "last", STATE)
    with pytest.raises(SnapshotError, match=r"no snapshot at '.*lost'; .*did you mean 'last'"):
        read(tmp_path / "lost")
    lost = next((tmp_path / "last").glob("*.safetensors"))
    lost.unlink()
    with pytest.raises(CorruptSnapshot, match=f"has lost its file '{lost.name}'; restore another"):
        read(tmp_path / "last")


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(SnapshotError, match="cannot write snapshot"):
        write(tmp_path / "s", STATE)
    with pytest.raises(SnapshotError, match="no snapshot at"):
        read(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "mine"


@pytest.mark.parametrize("old", [None, STATE])
def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: dict[str, object] | None
) -> None:
    if old is not None:
        write(tmp_path / "s", old)
    before = list_files(tmp_path / "s") if old is not None else None

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("nestling.store.whole_files.open", refuse, raising=False)
        with pytest.raises(
            SnapshotError, match="Permission denied; choose a folder that"
        ) as caught:
            write(tmp_path / "s", {"w": torch.ones(3)})
    assert "\n" not in str(caught.value)
    assert (list_files(tmp_path / "s") if old is not None else None) == before
    assert (tmp_path / "s").exists() == (old is not None)


def test_disk_full_leaves_the_older_snapshot(tmp_path: Path) -> None:
    """A file-size limit makes write() fail for real, after the first 16 KiB."""
    write(tmp_path / "s", STATE)
    before = list_files(tmp_path / "s")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, hard))
    try:
        for folder in ("s", "new"):
            with pytest.raises(SnapshotError, match=r"free 0\.4 MB") as caught:
                write(tmp_path / folder, {"w": torch.ones(100_000)})
            assert "\n" not in str(caught.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list_files(tmp_path / "s") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["fsync", "replace", "unlink", "link"])
@pytest.mark.parametrize("is_new", [True, False])
def test_failure_of_any_call_leaves_old_or_new(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    failure: BaseException,
    is_new: bool,
) -> None:
    """The first, the second, ... call fails once, until all have had their turn."""
    write(tmp_path / "other", {"spine": OLD["spine"]})
    real = getattr(os, call)
    for nth in range(1, 30):
        folder, count = tmp_path / f"s{nth}", 0
        if not is_new:
            write(folder, OLD)
        before = list_files(folder) if folder.exists() else {}

        def fail_once(*arguments: object, nth: int = nth, **how: object) -> object:
            nonlocal count
            count += 1
            if count == nth:
                raise failure
            return real(*arguments, **how)

        raised: BaseException | None = None
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail_once)
            try:
                write(folder, NEW, reuse=[tmp_path / "other"])
            except (SnapshotError, KeyboardInterrupt) as error:
                raised = error
        if raised is None:
            assert is_same(read(folder), NEW)
        elif (folder / "manifest.json").exists():
            assert is_same(read(folder), NEW) or list_files(folder) == before
        else:
            assert is_new
            assert not folder.exists()
        write(folder, NEW)
        assert is_same(read(folder), NEW)
        assert len(list_files(folder)) == 4
        if count < nth:
            break
    else:
        raise AssertionError("it never ran out of calls")


@pytest.mark.parametrize("is_new", [True, False])
def test_at_any_moment_the_folder_holds_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    """What a kill would leave before and after each call to the system; nobody cleans up."""
    folder, moments = tmp_path / "s", []
    write(tmp_path / "other", {"spine": NEW["head"]})
    if not is_new:
        write(folder, OLD)

    def watch(patch: pytest.MonkeyPatch, call: str) -> None:
        real = getattr(os, call)

        def record(*arguments: object, **how: object) -> object:
            moments.append(list_files(folder))
            result = real(*arguments, **how)
            moments.append(list_files(folder))
            return result

        patch.setattr(os, call, record)

    with monkeypatch.context() as patch:
        for call in ("fsync", "replace", "link", "unlink"):
            watch(patch, call)
        write(folder, NEW, reuse=[tmp_path / "other"])
    seen = []
    for number, files in enumerate(moments):
        left = tmp_path / str(number)
        left.mkdir()
        for name, content in files.items():
            (left / name).write_bytes(content)
        if "manifest.json" not in files:
            assert is_new
            with pytest.raises(SnapshotError, match="no snapshot at"):
                read(left)
        else:
            seen.append(read(left)["step"])
            assert is_same(read(left), NEW if seen[-1] == 2 else OLD)
        write(left, NEW)
        assert list_files(left).keys() == list_files(folder).keys()
    assert seen == sorted(seen)
    assert set(seen) == ({2} if is_new else {1, 2})
    assert len(moments) > 12


def test_parts_lie_on_the_disk_before_the_manifest_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is synced before its rename, the folder between the last part and the manifest."""
    write(tmp_path / "other", {"spine": OLD["spine"]})
    done: list[str] = []
    fsync, replace, link = os.fsync, os.replace, os.link

    def note_sync(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def note_replace(draft: Path, path: Path) -> None:
        done.append("manifest" if path.name == "manifest.json" else "part")
        replace(draft, path)

    def note_link(source: Path, path: Path) -> None:
        done.append("part")
        link(source, path)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    monkeypatch.setattr(os, "link", note_link)
    parts = {name: OLD[name] for name in ("head", "step", "spine")}  # the linked one last
    write(tmp_path / "s", parts, reuse=[tmp_path / "other"])
    text = " ".join(done)
    assert text.count("part") == 3
    assert text.count("file part") == 2
    assert "part" not in text[text.rindex("folder file manifest") :]
    assert text.endswith("file manifest folder folder")


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
        state = read(folder)
        assert state["step"] in (last, last + 1)
        assert torch.equal(state["w"], torch.full((20000,), float(state["step"])))
        last = int(state["step"])


def test_reader_beside_a_writer_sees_whole_snapshots(tmp_path: Path) -> None:
    write(tmp_path, {"w": torch.zeros(2000), "step": 0})
    is_over = threading.Event()

    def keep_writing() -> None:
        for step in range(1, 60):
            write(tmp_path, {"w": torch.full((2000,), float(step)), "step": step})
        is_over.set()

    writer = threading.Thread(target=keep_writing)
    writer.start()
    while not is_over.is_set():
        state = read(tmp_path)
        assert torch.equal(state["w"], torch.full((2000,), float(state["step"])))
    writer.join()


def test_parts_of_other_snapshots_are_linked_unread(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_snapshot(one, {"a": torch.ones(3), "b": 1}, kind="demo", schema=2)
    write_snapshot(two, {"a": torch.zeros(3), "c": 5}, kind="demo", schema=2)
    linked = {"a": two, "b": one}
    write_snapshot(tmp_path / "three", {"d": 7}, kind="demo", schema=2, linked=linked)
    found = read_snapshot(tmp_path / "three", kind="demo", schema=2)
    assert torch.equal(found.pop("a"), torch.zeros(3))
    assert found == {"d": 7, "b": 1}
    parts = list_parts(two, kind="demo", schema=2)
    name = parts["a"].file
    assert (two / name).stat().st_ino == (tmp_path / "three" / name).stat().st_ino
    assert read_listed(two, {"c": parts["c"]}) == {"c": 5}
    link_snapshot(tmp_path / "four", two)
    assert read_kind(tmp_path / "four") == ("demo", 2)
    assert read_snapshot(tmp_path / "four", kind="demo", schema=2)["c"] == 5
    with pytest.raises(SnapshotError, match="has no part 'c'"):
        write_snapshot(tmp_path / "five", {}, kind="demo", schema=2, linked={"c": one})
    content = bytearray((two / name).read_bytes())
    content[-1] ^= 1
    (two / name).write_bytes(content)
    with pytest.raises(CorruptSnapshot, match="does not match its sha256"):
        write_snapshot(tmp_path / "five", {"d": 7}, kind="demo", schema=2, linked=linked)
    assert not (tmp_path / "five").exists()
    (two / name).unlink()
    with pytest.raises(CorruptSnapshot, match="has lost its file"):
        read_listed(two, parts)
