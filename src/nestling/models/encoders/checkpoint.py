"""Reader of torch's old weight files, without running the pickle in which they begin.

Such a file holds three short pickles (magic number, version, machine), one pickle that says
which tensor is a view of which storage, one that lists the storages, and then their bytes. The
pickles are read instruction by instruction, and only those that describe tensors are known;
anything else is refused, so that a file can call nothing.
"""

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nestling.core.errors import ModelError

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"torch FloatStorage": torch.float32, "torch LongStorage": torch.int64}
_NAMES = {*_DTYPES, "torch._utils _rebuild_tensor_v2", "collections OrderedDict"}
_MARK = object()


@dataclass(frozen=True)
class _Name:
    """A name that the file speaks of; nothing is looked up by it."""

    text: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    num_values: int


@dataclass(frozen=True)
class _View:
    """Where in which storage a tensor lies."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_checkpoint(content: bytes) -> dict[str, Tensor]:
    """The tensors by name of a file that torch.save wrote before version 1.6.

    Args:
        content: bytes of the whole file.

    Returns: name -> tensor that shares no memory with another.

    Raises:
        ModelError: another format, a cut file, or an instruction, a name or a type that
            weights of float32 and int64 do not need.
    """
    file = io.BytesIO(content)
    try:
        magic = _run(file)
        if magic != _MAGIC:
            raise ModelError("not a weight file of torch before 1.6: its magic number differs")
        _run(file)  # the version of the format
        _run(file)  # the machine that wrote it
        views, keys = _run(file), _run(file)
        if not isinstance(views, dict) or not isinstance(keys, list):
            raise ModelError("the weight file holds something else than tensors by name")
        described = {v.storage.key: v.storage for v in views.values() if isinstance(v, _View)}
        storages = {key: _read_storage(file, described[key]) for key in keys}
        return {str(name): _cut(storages, view) for name, view in views.items()}
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise ModelError(f"the weight file is cut or damaged: {error!r}") from None


def _read_storage(file: io.BytesIO, storage: _Storage) -> Tensor:
    count = file.read(8)
    content = bytearray(file.read(storage.num_values * storage.dtype.itemsize))
    if count != storage.num_values.to_bytes(8, "little"):
        raise ModelError(f"storage {storage.key} is not as long as the weight file says before")
    if not content and not storage.num_values:
        return torch.zeros(0, dtype=storage.dtype)  # torch refuses buffers without bytes
    return torch.frombuffer(content, dtype=storage.dtype, count=storage.num_values)


def _cut(storages: dict[str, Tensor], view: object) -> Tensor:
    if not isinstance(view, _View):
        raise ModelError(f"the weight file holds {view!r} where a tensor should be")
    values = storages[view.storage.key]
    # A view may be empty or reach beyond its storage only if the file lies.
    last = view.offset + sum(
        (size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True)
    )
    if math.prod(view.shape) and not 0 <= view.offset <= last < len(values):
        raise ModelError(f"the weight file has a tensor of {view.shape} outside its storage")
    return values.as_strided(view.shape, view.strides, view.offset).clone()


def _run(file: io.BytesIO) -> object:
    """Follow one pickle to its end, and leave the file just behind it."""
    stack: list[object] = []
    memo: dict[int, object] = {}
    for operation, argument, _ in pickletools.genops(file):
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
        elif name == "SETITEM":
            stack[-2:-2] = [_MARK]
            _gather(stack, "SETITEMS")
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            _gather(stack, name)
        elif name == "BINPERSID":
            stack.append(_make_storage(stack.pop()))
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(_build(called, arguments))
        elif name == "BUILD":
            stack.pop()  # attributes of the dictionary: versions of modules
        elif name == "STOP":
            return stack[-1]
        elif name != "PROTO":
            raise ModelError(f"pickle instruction {name}: not needed for weights, so refused")
    raise ModelError("the pickle ends before its end")


def _push_name(argument: object) -> object:
    if argument not in _NAMES:
        raise ModelError(f"the pickle asks for {argument!r}: not needed for weights, so refused")
    return _Name(str(argument))


_PUSHES: dict[str, Callable[[object], object]] = {
    "GLOBAL": _push_name,
    "MARK": lambda _: _MARK,
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_DICT": lambda _: {},
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"), lambda argument: argument
    ),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _gather(stack: list[object], name: str) -> None:
    start = max(place for place, item in enumerate(stack) if item is _MARK)
    items = stack[start + 1 :]
    del stack[start:]
    if name == "TUPLE":
        stack.append(tuple(items))
        return
    target = stack[-1]
    if name == "APPENDS" and isinstance(target, list):
        target.extend(items)
    elif name == "SETITEMS" and isinstance(target, dict):
        target.update(zip(items[::2], items[1::2], strict=True))
    else:
        raise ModelError("the pickle puts entries into something that holds none")


def _make_storage(described: object) -> _Storage:
    match described:
        case ("storage", _Name(kind), str(key), str(), int(num_values), None) if kind in _DTYPES:
            return _Storage(key, _DTYPES[kind], num_values)
    raise ModelError(f"storage {described!r}; known: whole ones of {sorted(_DTYPES)}")


def _build(called: object, arguments: object) -> object:
    match called, arguments:
        case _Name("collections OrderedDict"), ():
            return {}
        case (
            _Name("torch._utils _rebuild_tensor_v2"),
            (_Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict()),
        ):
            return _View(storage, offset, tuple(map(int, shape)), tuple(map(int, strides)))
    raise ModelError(f"the pickle calls {called!r}: not needed for weights, so refused")
