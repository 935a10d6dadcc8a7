"""Snapshots of a stream learner: one file per level, at any event, without pickle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestling.core.errors import CorruptSnapshot
from nestling.store import read_snapshot, write_snapshot

SCHEMA = 1


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
