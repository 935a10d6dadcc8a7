"""A learner's whole state: parts that each own theirs, loaded all or none, one file per level."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from nestling.core.errors import ForeignSnapshot, NestlingError, suggest
from nestling.levels import Plan
from nestling.store import read_part, read_snapshot, write_snapshot
from nestling.store.state_trees import decode_tree, encode_tree

_KIND, _SCHEMA = "learner", 4
# What may be large beside the levels has a file of its own; all small parts share one.
_LARGE, _SMALL, _REST, _TREES = ("protections",), "learner", "rest of the model", "trees"
# Tensors of a level that are kept apart, since they change when its weights do not.
_APART = {
    "gathered": "gradients of ",
    "reader": "features of ",
    "guard": "last good state of ",
    "validated": "validated state of ",
}


class Part(Protocol):
    """Something that owns a part of a learner's state."""

    def state_dict(self) -> dict[str, Any]:
        """Its state; tensors are copies."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; may raise with half of it done."""


def load_all(parts: Mapping[str, Part], states: Mapping[str, Any]) -> None:
    """Load every part, or none: if one cannot, all are as they were.

    Args:
        parts: name -> part, in the order in which they are loaded.
        states: name -> what its `state_dict` gave.

    Raises:
        ForeignSnapshot: a part is missing, or one cannot be loaded; says which and why.
    """
    if missing := [name for name in parts if name not in states]:
        raise ForeignSnapshot(
            f"the state has no part {missing[0]!r}; give a learner's whole state_dict()"
        )
    before = {name: part.state_dict() for name, part in parts.items()}
    name = ""
    try:
        for name, part in parts.items():
            part.load_state_dict(states[name])
    except Exception as error:
        for own, part in parts.items():
            part.load_state_dict(before[own])
        if not isinstance(error, NestlingError | KeyError | TypeError | ValueError | RuntimeError):
            raise
        reason = " ".join(str(error).split())
        raise ForeignSnapshot(f"the state of {name} is of another learner: {reason}") from error


def read_plan(state: Mapping[str, Any], live: Plan) -> Plan:
    """The plan that a learner's state was saved with; optimizers of the user's own are those of
    `live`.

    Raises:
        ForeignSnapshot: there is none, or it cannot be read.
    """
    try:
        return Plan.from_data(state["plan"], "the saved plan", like=live)
    except (NestlingError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ForeignSnapshot(
            f"the state is of no learner: {reason}; Learner.state_dict() gives one"
        ) from None


def split_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """A learner's state as what is kept in one file each: tensors of levels apart from all else.

    What ticks with every step (clocks, counts, rates) goes with the small parts, and gathered
    gradients and frozen features have files of their own, so that the file of a level's weights
    and moments changes only when the level moves.
    """
    levels = dict(state["levels"])
    files: dict[str, Any] = {}
    trees: dict[str, object] = {}
    for name, level in levels.pop("levels").items():
        trees[name], tensors = encode_tree(level)
        for pointer, value in tensors.items():
            files.setdefault(_find_file(name, pointer), {})[pointer] = value
    files[_REST] = levels.pop("rest")
    small = {key: value for key, value in state.items() if key not in ("levels", *_LARGE)}
    return files | {key: state[key] for key in _LARGE} | {_SMALL: small | {_TREES: trees} | levels}


def join_state(files: Mapping[str, Any]) -> dict[str, Any]:
    """The state that `split_state` took apart.

    >>> import torch
    >>> level = {"weights": {"w": torch.zeros(1)}, "clock": {"age": 2}}
    >>> state = {"levels": {"levels": {"a": level}, "course": {}, "rest": {}}, "protections": 2}
    >>> join_state(split_state(state)) == state
    True
    """
    try:
        state = dict(files[_SMALL])
        levels = {name: _join_level(name, tree, files) for name, tree in state.pop(_TREES).items()}
        course, rest = state.pop("course"), files[_REST]
        state |= {key: files[key] for key in _LARGE}
    except KeyError as error:
        raise ForeignSnapshot(f"the snapshot has no part {error}; it is of no learner") from None
    return state | {"levels": {"levels": levels, "course": course, "rest": rest}}


def _find_file(name: str, pointer: str) -> str:
    return _APART.get(pointer.split("/")[1], "level ") + name


def _join_level(name: str, tree: object, files: Mapping[str, Any]) -> Any:
    """One level's state, of as many files as it has tensors in."""
    tensors: dict[str, Tensor] = {}
    for start in ("level ", *_APART.values()):
        tensors |= files.get(start + name, {})
    return decode_tree(tree, tensors)


def read_level(path: Path | str, name: str) -> dict[str, Any]:
    """Read the state of one level out of a learner's snapshot, and nothing else of its tensors.

    Args:
        path: folder of the snapshot.
        name: of the level.

    Returns: what `learner.levels[name].load_state_dict` takes.

    Raises:
        SnapshotError: missing, changed, or without such a level.
    """
    folder = Path(path)
    trees = read_part(folder, _SMALL, kind=_KIND, schema=_SCHEMA)[_TREES]
    if name not in trees:
        raise ForeignSnapshot(f"the snapshot has no level {name!r}; {suggest(name, trees)}")
    needed = {_find_file(name, pointer) for pointer in _list_pointers(trees[name])}
    files = {one: read_part(folder, one, kind=_KIND, schema=_SCHEMA) for one in needed}
    level: dict[str, Any] = _join_level(name, trees[name], files)
    return level


def _list_pointers(tree: object) -> Iterator[str]:
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    if isinstance(tree, dict):
        if "$tensor" in tree:
            yield tree["$tensor"]
        for value in tree.values():
            yield from _list_pointers(value)


def write_snapshot_state(path: Path, state: Mapping[str, Any], last: Path | None) -> None:
    """Write a learner's state as a snapshot folder; what an earlier one holds is linked."""
    known = () if last is None else (last,)
    write_snapshot(path, split_state(state), kind=_KIND, schema=_SCHEMA, reuse=known)


def read_snapshot_state(path: Path) -> dict[str, Any]:
    """The state that `write_snapshot_state` wrote; raises SnapshotError if it is not whole."""
    return join_state(read_snapshot(path, kind=_KIND, schema=_SCHEMA))
