"""Files that hold pickle: read as torch and NumPy read them, pinned by sha256, calling nothing."""

import ast
import hashlib
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.core.errors import DataError, ModelError, NestlingError
from nestling.store import read_object_array, read_torch_weights

SOURCE = Path(__file__).parents[2] / "src" / "nestling"


def pin(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_weights(content: bytes) -> dict[str, torch.Tensor]:
    return read_torch_weights(content, sha256=pin(content))


def read_arrays(content: bytes) -> dict[str, list[object]]:
    return read_object_array(content, sha256=pin(content))


def save(state: object, *, is_old: bool = True) -> bytes:
    """As torch wrote files before 1.6, or as it does since."""
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=not is_old)
    return file.getvalue()


def save_arrays(held: object) -> bytes:
    """As NumPy 1 wrote an object: a header, and a pickle of protocol 2 or 3."""
    pickled = pickle.dumps(np.array(held, dtype=object), protocol=2)
    return make_header() + pickled.replace(b"numpy._core", b"numpy.core")


def make_header() -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    return file.getvalue()


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


# --- one place


def test_pickle_is_read_in_one_file() -> None:
    readers = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [f"{node.value.id}.{node.attr}"]
            if {"pickle", "pickletools", "torch.load"} & set(names):
                readers.add(path.relative_to(SOURCE).as_posix())
    assert readers == {"store/legacy_weights.py"}


@pytest.mark.parametrize(
    ("read", "content", "kind"),
    [
        (read_torch_weights, save({"a": torch.ones(2)}), ModelError),
        (read_object_array, save_arrays({"a": [1]}), DataError),
    ],
)
def test_another_sha256_is_not_read(
    read: Callable[..., object], content: bytes, kind: type[NestlingError]
) -> None:
    read(content, sha256=pin(content))
    with pytest.raises(kind, match=r"sha256 \w{64}, not the pinned 00\w{62}; .*fetch it again"):
        read(content, sha256="0" * 64)
    with pytest.raises(kind, match=f"not the pinned {pin(content)}"):
        read(content[:-1] + b"x", sha256=pin(content))


# --- weights


@pytest.mark.parametrize("is_old", [True, False])
def test_reads_what_torch_reads(is_old: bool) -> None:
    base = torch.randn(4, 6)
    state = {
        "whole": base,
        "turned": base.t(),
        "part": base[1:3, 2:],
        "count": torch.tensor(3),
        "empty": torch.zeros(0, 2),
        "half": torch.ones(3, dtype=torch.bfloat16),
    }
    content = save(state, is_old=is_old)
    found = read_weights(content)
    wanted = torch.load(io.BytesIO(content), weights_only=True)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)
    found["whole"].zero_()
    assert found["turned"].equal(base.t())


def test_a_modules_parameters_are_plain_tensors() -> None:
    module = torch.nn.Linear(2, 3)
    found = read_weights(save(dict(module.named_parameters())))
    assert type(found["weight"]) is torch.Tensor
    assert not found["weight"].requires_grad
    assert found["bias"].equal(module.bias)


def test_a_weight_file_calls_nothing(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    start = save({})
    call = pickle.dumps(Call(os.mkdir, str(touched)), protocol=2)
    for content in (call, start[: start.rindex(b"\x80")] + call, start.replace(b"}q", call, 1)):
        with pytest.raises(ModelError):
            read_weights(content)
    for is_old in (True, False):
        with pytest.raises(ModelError, match="cannot be read as weights"):
            read_weights(save({"a": Call(os.mkdir, str(touched))}, is_old=is_old))
    assert not touched.exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([torch.ones(2)], "holds a list, not tensors by name"),
        ({"a": 3}, "holds a int as 'a' where a tensor"),
        ({0: torch.ones(2)}, "holds a Tensor as 0 where a tensor"),
        ({"a": {"b": torch.ones(2)}}, "holds a dict as 'a'"),
    ],
)
def test_other_things_than_tensors_by_name(state: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_weights(save(state))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cut_weight_file_is_refused(data: st.DataObject) -> None:
    content = save({"a": torch.arange(5.0), "b": torch.arange(3)})
    length = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(ModelError) as caught:
        read_weights(content[:length])
    assert "\n" not in str(caught.value)


# --- arrays


HELD: dict[str, Any] = {
    "X": np.array([np.ones((3, 2)), np.arange(8.0).reshape(4, 2)], dtype=object),
    "columns": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "y": np.array([4, 5]),
    "names": ["PEN", "ABD"],
    "nothing": None,
}


def test_object_arrays_are_read_without_running_them() -> None:
    found: Any = read_arrays(save_arrays(HELD))
    assert found["names"] == ["PEN", "ABD"]
    assert found["nothing"] is None
    assert np.array_equal(found["y"], [4, 5])
    assert np.array_equal(found["columns"], HELD["columns"])
    assert found["columns"].dtype == np.float32
    for one, other in zip(found["X"], HELD["X"], strict=True):
        assert np.array_equal(one, other)


def test_an_array_that_stands_twice_is_read_twice() -> None:
    once = np.arange(3)
    found: Any = read_arrays(save_arrays({"a": once, "b": [once]}))
    assert np.array_equal(found["a"], found["b"][0])


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_calls_something_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    call = pickle.dumps({"X": Call(os.mkdir, "harm")}, protocol=protocol)
    with pytest.raises(DataError, match=r"asks for '\w+ mkdir'.*refused"):
        read_arrays(make_header() + call)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "program",
    {
        "calls encode otherwise": b"\x80\x02c_codecs\nencode\n"
        b"X\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
        "calls the class of arrays": b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
        "fills a name": b"\x80\x02c_codecs\nencode\nN}X\x0c\x00\x00\x00__defaults__Ns\x86b.",
        "fills the class of arrays": b"\x80\x02cnumpy\nndarray\n}b.",
        "makes a new array": b"\x80\x02cnumpy\nndarray\n)\x81.",
        "big-endian": b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R(K\x03X\x01\x00\x00\x00>tb.",
        "asks for an object of elsewhere": b"\x80\x02K\x01Q.",
        "asks by number": b"\x80\x02\x82\x01.",
        "holds itself": b"\x80\x02]q\x00h\x00a.",
        "ends early": b"\x80\x02]",
        "is empty": b"",
        "is one number": b"\x80\x02K\x01.",
    }.items(),
    ids=lambda item: item[0].replace(" ", "_"),
)
def test_what_arrays_do_not_need_is_refused(program: tuple[str, bytes]) -> None:
    with pytest.raises(DataError, match=r"refused|something else than one dictionary") as caught:
        read_arrays(make_header() + program[1])
    assert "\n" not in str(caught.value)


def test_numbers_that_are_not_known_are_named() -> None:
    with pytest.raises(DataError, match=r"an array of 'c16', so refused; known: .*'f8'"):
        read_arrays(save_arrays({"a": np.zeros(2, dtype=np.complex128)}))
    with pytest.raises(DataError, match=r"not a NumPy file of version 1\.0"):
        read_arrays(b"PK\x03\x04")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_cut_or_changed_arrays_end_in_one_line(data: st.DataObject) -> None:
    content = save_arrays(HELD)
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        mask = data.draw(st.integers(1, 255))
        content = content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]
    problem, found = "", {}
    try:
        found = read_arrays(content)  # with a changed number, it may be
    except DataError as error:
        problem = str(error)
    assert isinstance(found, dict)
    assert "\n" not in problem
