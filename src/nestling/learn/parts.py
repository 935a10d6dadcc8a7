"""A learner's whole state: parts that each own theirs, loaded all or none, one file per level."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from nestling.core.errors import ForeignSnapshot, NestlingError
from nestling.levels import Plan
from nestling.store import read_snapshot, write_snapshot

_KIND, _SCHEMA = "learner", 3
# What the state of all levels holds beside the levels themselves.
_COURSE, _REST = "course", "rest"
_LEVEL, _FEATURES = "level ", "features of "
# Parts that may be large, each in a file of its own; the small ones share one.
_LARGE = ("protections",)
_SMALL = "learner"


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


def read_plan(state: Mapping[str, Any], like: Plan) -> Plan:
    """The plan that a learner's state was saved with; optimizers of one's own are `like`'s.

    Raises:
        ForeignSnapshot: there is none, or it cannot be read.
    """
    try:
        return Plan.from_data(state["plan"], "the saved plan", like=like)
    except (NestlingError, KeyError, TypeError) as error:
        raise ForeignSnapshot(f"the state is of no learner: {error}") from None


def split_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """A learner's state as what is kept in one file each: levels apart from all else.

    What a memory reads, a frozen copy of the model, is kept apart from what it has learned.
    """
    levels = dict(state["levels"])
    files: dict[str, Any] = {}
    for name, level in levels.pop("levels").items():
        own = dict(level)
        if (reader := own.pop("reader", None)) is not None:
            files[_FEATURES + name] = reader
        files[_LEVEL + name] = own
    files |= {f"{key} of levels": value for key, value in levels.items()}
    small = {key: value for key, value in state.items() if key not in ("levels", *_LARGE)}
    return files | {key: state[key] for key in _LARGE} | {_SMALL: small}


def join_state(files: Mapping[str, Any]) -> dict[str, Any]:
    """The state that `split_state` took apart.

    >>> state = {"levels": {"levels": {"a": {"x": 1}}, "course": {}, "rest": {}}, "protections": 2}
    >>> join_state(split_state(state)) == state
    True
    """
    levels: dict[str, Any] = {}
    for key, value in files.items():
        if key.startswith(_LEVEL):
            name = key.removeprefix(_LEVEL)
            reader = files.get(_FEATURES + name)
            levels[name] = dict(value) if reader is None else {**value, "reader": reader}
    try:
        state = dict(files[_SMALL])
        state |= {key: files[key] for key in _LARGE}
        course, rest = (files[f"{key} of levels"] for key in (_COURSE, _REST))
    except KeyError as error:
        raise ForeignSnapshot(f"the snapshot has no part {error}; it is of no learner") from None
    return state | {"levels": {"levels": levels, _COURSE: course, _REST: rest}}


def write_snapshot_state(path: Path, state: Mapping[str, Any], last: Path | None) -> None:
    """Write a learner's state as a snapshot folder; what an earlier one holds is linked."""
    known = () if last is None else (last,)
    write_snapshot(path, split_state(state), kind=_KIND, schema=_SCHEMA, reuse=known)


def read_snapshot_state(path: Path) -> dict[str, Any]:
    """The state that `write_snapshot_state` wrote; raises SnapshotError if it is not whole."""
    return join_state(read_snapshot(path, kind=_KIND, schema=_SCHEMA))
