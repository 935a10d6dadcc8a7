"""Reader of the smart-watch recordings, without running the pickle in which they lie.

Pickle is a small stack machine; running it would let a file call what it likes. Here its
instructions are read one by one, and only those that build arrays, lists and words are known.
Axis letters: S samples in time, A axes.
"""

import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nestling.core.errors import DataError


@dataclass(frozen=True)
class Recordings:
    """One exercise of one person each.

    Attributes:
        samples: of each recording (S, 6) float32 at 50 Hz: acceleration in g, turning in
            rad/s.
        exercises: (R,) 0 to 6.
        people: (R,).
        exercise_names: of the labels.
    """

    samples: tuple[Tensor, ...]
    exercises: Tensor
    people: Tensor
    exercise_names: tuple[str, ...]


def read_watch(path: Path) -> Recordings:
    """The watch data inside the wheel of seglearn 1.2.5.

    Raises:
        DataError: the file holds something else than arrays, lists and words.
    """
    with zipfile.ZipFile(path) as archive:
        found = read_object_array(archive.read("seglearn/data/watch_dataset.npy"))
    return Recordings(
        tuple(torch.from_numpy(np.array(one, np.float32)) for one in found["X"]),
        torch.from_numpy(np.array(found["y"], np.int64)),
        torch.from_numpy(np.array(found["subject"], np.int64)),
        tuple(str(name) for name in found["y_labels"]),
    )


def read_object_array(content: bytes) -> dict[str, list[object]]:
    """The dictionary that a NumPy file of one pickled object holds, read without running it.

    Args:
        content: bytes of the .npy file.

    Returns: name -> numbers or words or arrays, one per entry.

    Raises:
        DataError: an instruction or a name that plain arrays do not need.
    """
    if content[:8] != b"\x93NUMPY\x01\x00":
        raise DataError("not a NumPy file of version 1.0")
    start = 10 + int.from_bytes(content[8:10], "little")
    stored = _run(content[start:])
    if isinstance(stored, list) and len(stored) == 1 and isinstance(stored[0], dict):
        return stored[0]
    raise DataError("the file holds something else than one dictionary")


@dataclass
class _Blank:
    """An array or a type of numbers while it is being put together."""

    kind: str = ""
    content: object = None


_NAMES = frozenset(
    {
        "numpy.core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
        "_codecs encode",
    }
)
_MARK = object()
# Numbers as little-endian bytes, and references to other objects.
_NUMBERS = frozenset({"f8", "f4", "i8", "i4"})


def _run(program: bytes) -> object:
    """Follow the instructions of a pickle that builds arrays; refuse all others."""
    stack: list[object] = []
    memo: dict[int, object] = {}
    for operation, argument, _ in pickletools.genops(program):
        name = operation.name
        if name in _PUSHES:
            stack.append(_PUSHES[name](argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[int(str(argument))] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(str(argument))])
        elif name in _TUPLES:
            size = _TUPLES[name]
            stack[len(stack) - size :] = [tuple(stack[len(stack) - size :])]
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            _gather(stack, name)
        elif name == "APPEND":
            item = stack.pop()
            _as_list(stack[-1]).append(item)
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(_call(called, arguments))
        elif name == "BUILD":
            state, blank = stack.pop(), stack.pop()
            # The memo holds the blank itself, so it is filled and not replaced.
            _fill(blank, state)
            stack.append(blank)
        elif name == "STOP":
            return _settle(stack[-1])
        elif name != "PROTO":
            raise DataError(f"pickle instruction {name}: not needed for arrays, so refused")
    raise DataError("the pickle ends before its end")


def _push_global(argument: object) -> object:
    if argument not in _NAMES:
        raise DataError(f"the pickle asks for {argument!r}: not needed for arrays, so refused")
    return _Blank("name", argument)


_PUSHES: dict[str, Callable[[object], object]] = {
    "GLOBAL": _push_global,
    "MARK": lambda _: _MARK,
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_DICT": lambda _: {},
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINUNICODE"), lambda argument: argument),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _gather(stack: list[object], name: str) -> None:
    start = max(place for place, item in enumerate(stack) if item is _MARK)
    items = stack[start + 1 :]
    del stack[start:]
    if name == "TUPLE":
        stack.append(tuple(items))
    elif name == "APPENDS":
        _as_list(stack[-1]).extend(items)
    else:
        target = stack[-1]
        if not isinstance(target, dict):
            raise DataError("the pickle puts entries into something that is no dictionary")
        target.update(zip(items[::2], items[1::2], strict=True))


def _as_list(target: object) -> list[object]:
    if not isinstance(target, list):
        raise DataError("the pickle appends to something that is no list")
    return target


def _call(called: object, arguments: object) -> object:
    name = called.content if isinstance(called, _Blank) and called.kind == "name" else None
    if name == "_codecs encode" and isinstance(arguments, tuple) and arguments[1] == "latin1":
        return str(arguments[0]).encode("latin1")
    if name == "numpy.core.multiarray _reconstruct":
        return _Blank("array")
    if name == "numpy dtype" and isinstance(arguments, tuple):
        return _Blank("dtype", str(arguments[0]))
    raise DataError(f"the pickle calls {name!r}: not needed for arrays, so refused")


def _fill(blank: object, state: object) -> None:
    if not isinstance(blank, _Blank) or not isinstance(state, tuple):
        raise DataError("the pickle builds something that is no array")
    if blank.kind == "array":
        _, shape, kind, by_columns, content = state
        number = str(kind.content)
        if number in _NUMBERS and not isinstance(content, list):
            flat = np.frombuffer(content, f"<{number}")
            blank.content = flat.reshape(shape, order="F" if by_columns else "C")
        elif number == "O8" and isinstance(content, list):
            blank.content = content
        else:
            raise DataError(f"an array of {number!r}; known: {sorted(_NUMBERS)} and objects")
    elif blank.kind == "dtype" and state[1] not in ("<", "|"):
        raise DataError(f"byte order {state[1]!r}; known: '<'")


def _settle(found: object) -> object:
    """Arrays in place of the blanks that stood for them."""
    if isinstance(found, _Blank):
        return _settle(found.content)
    if isinstance(found, dict):
        return {name: _settle(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_settle(value) for value in found]
    return found
