"""Versions on disk, of a learner, of a training script's levels, or of a stream learner."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from nestling.core.errors import SnapshotError, UnknownLevel, suggest
from nestling.learn.parts import SavedLevels
from nestling.ledger.version_diff import SavedModel
from nestling.store import read_kind
from nestling.streams.stream_state import SavedStream


class SavedVersion(SavedModel, Protocol):
    """Protocol of a version on disk, of any kind: its levels are read, and put into another."""

    def read(self, name: str) -> dict[str, Any]:
        """The state of a level."""

    def write_with(self, path: Path, name: str, other: Any) -> None:
        """Write a snapshot that is this one but for one level, which is as another has it."""


def open_saved(path: Path) -> SavedVersion:
    """Open the snapshot of a version, whatever it is of.

    Raises:
        SnapshotError: there is none, or it is of nothing that has levels.
    """
    kind, _ = read_kind(path)
    if kind == "stream":
        return SavedStream(path)
    if kind in ("learner", "levels"):
        return SavedLevels(path)
    raise SnapshotError(
        f"snapshot '{path}' is of a {kind!r}, which has no levels; name one of a learner, of a "
        "NestedOptimizer or of a stream learner"
    )


def check_level(name: str, known: Iterable[str]) -> None:
    """Raise UnknownLevel with the nearest name if a level is not known."""
    names = list(known)
    if name not in names:
        raise UnknownLevel(f"no level {name!r}; {suggest(name, names)}")
