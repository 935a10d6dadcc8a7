"""Snapshots of a stream learner: one file per level, at any event, without pickle."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from nestling.core.errors import CorruptSnapshot
from nestling.store import read_snapshot, write_snapshot

SCHEMA = 1


class _Restorable(Protocol):
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


Made = TypeVar("Made", bound=_Restorable)


def write_stream(path: Path, state: Mapping[str, Any]) -> None:
    """Save the state of a stream learner in a folder, atomically; unchanged parts stay.

    Args:
        path: the folder.
        state: what `state_dict` gave.
    """
    run = dict(state["run"])
    pool = dict(run.pop("pool"))
    parts = {f"part.{name}": part for name, part in pool.pop("parts").items()}
    rest = {"learner": {name: value for name, value in state.items() if name != "run"}}
    write_snapshot(path, {**parts, **rest, "pool": pool, "run": run}, kind="stream", schema=SCHEMA)


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
