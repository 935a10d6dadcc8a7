"""Snapshots of a stream learner: one file per level, at any event, without pickle."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from nestling.core.errors import CorruptSnapshot
from nestling.store import (
    list_parts,
    read_listed,
    read_snapshot,
    write_snapshot,
)
from nestling.streams.experts.level_states import SETTINGS, find_part, put_level, take_level

SCHEMA = 1


class _Restorable(Protocol):
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


Made = TypeVar("Made", bound=_Restorable)


def write_stream(path: Path, state: Mapping[str, Any], last: Path | None = None) -> None:
    """Save the state of a stream learner in a folder, atomically; unchanged parts stay.

    Args:
        path: the folder.
        state: what `state_dict` gave.
        last: an earlier snapshot, whose unchanged files are linked.
    """
    run = dict(state["run"])
    pool = dict(run.pop("pool"))
    parts = {f"part.{name}": part for name, part in pool.pop("parts").items()}
    rest = {"learner": {name: value for name, value in state.items() if name != "run"}}
    known = () if last is None else (last,)
    parts |= {**rest, "pool": pool, "run": run}
    write_snapshot(path, parts, kind="stream", schema=SCHEMA, reuse=known)


def read_stream(path: Path) -> dict[str, Any]:
    """The state that `write_stream` saved.

    Raises:
        SnapshotError: missing, damaged, or of something else.
    """
    found = read_snapshot(path, kind="stream", schema=SCHEMA)
    try:
        pool, run, learner = found.pop("pool"), found.pop("run"), found.pop("learner")
    except KeyError as error:
        raise CorruptSnapshot(f"snapshot '{path}' lacks {error}; restore an older one") from None
    pool["parts"] = {name.removeprefix("part."): part for name, part in found.items()}
    return {**learner, "run": {**run, "pool": pool}}


def read_stream_level(path: Path | str, name: str) -> dict[str, Any]:
    """Read the state of one level out of a snapshot, and no arrays of another.

    Args:
        path: folder of the snapshot.
        name: of the level.

    Returns: what `learner.levels[name].load_state_dict` takes.

    Raises:
        SnapshotError: missing, damaged, of something else, or without such a level.
    """
    return SavedStream(path).read(name)


class SavedStream:
    """Levels in a snapshot of a stream learner, each read from its own file.

    Args:
        path: folder of the snapshot.

    Raises:
        SnapshotError: missing, damaged, or of something else.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._parts = list_parts(self.path, kind="stream", schema=SCHEMA)
        if "pool" not in self._parts:
            raise CorruptSnapshot(f"snapshot '{path}' lacks 'pool'; restore an older one")
        self._pool = read_listed(self.path, {"pool": self._parts["pool"]})["pool"]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pool["names"])

    @property
    def plan(self) -> Any:
        """What stands for a plan: the experts and the settings that they were made with."""
        return {field: self._pool[field] for field in SETTINGS}

    def read(self, name: str) -> dict[str, Any]:
        """The state of a level, as its `load_state_dict` takes it; SnapshotError without one."""
        return take_level(self._read_pool(name), name)

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """What the level's digest is made of, by name."""
        return dict(self.read(name)["tensors"])

    def write_with(self, path: Path, name: str, other: "SavedStream") -> None:
        """Write a snapshot that is this one but for one level, which is as another has it.

        Args:
            path: folder of the new snapshot.
            name: of the level.
            other: where it comes from, of the same learner.

        Raises:
            SnapshotError: one is damaged, lacks the level, or is from before the stream grew.
        """
        pool = put_level(self._read_pool(name), name, other.read(name))
        pool.pop("parts")
        own = "part." + find_part(name)
        kept = dict.fromkeys(self._parts, self.path)
        kept.pop("pool")
        if own in kept:
            kept[own] = other.path
        write_snapshot(path, {"pool": pool}, kind="stream", schema=SCHEMA, linked=kept)

    def _read_pool(self, name: str) -> dict[str, Any]:
        """The experts' state with the arrays of one level."""
        own = "part." + find_part(name)
        wanted = {own: self._parts[own]} if own in self._parts else {}
        found = read_listed(self.path, wanted)
        return {**self._pool, "parts": {find_part(name): part for part in found.values()}}


def remake_learner(
    make: Callable[..., Made], arguments: Mapping[str, object], state: Mapping[str, Any]
) -> Made:
    """Make a stream learner anew and load its state: how it is copied, and pickled by others.

    Args:
        make: its class.
        arguments: of its `__init__`.
        state: what `to_plain` made of its `state_dict`.
    """
    learner = make(**arguments)
    learner.load_state_dict(_from_plain(state))
    return learner


def to_plain(state: Any) -> Any:
    """A state with arrays in place of tensors, which pickle as the same bytes every time."""
    if isinstance(state, Tensor):
        return state.numpy()
    if isinstance(state, Mapping):
        return {name: to_plain(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return [to_plain(value) for value in state]
    return state


def _from_plain(state: Any) -> Any:
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state)
    if isinstance(state, Mapping):
        return {name: _from_plain(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return [_from_plain(value) for value in state]
    return state
