"""Versions of a learner, of a training script's levels, or of a stream: written, read, put back."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nestling.core.errors import SettingError, SnapshotError, UnknownLevel, suggest
from nestling.learn.consolidation import put_level_back
from nestling.learn.learner import Learner
from nestling.learn.parts import SavedLevels, read_level, write_levels, write_snapshot_state
from nestling.ledger.version_log import digest_plan
from nestling.levels import NestedOptimizer
from nestling.store import read_kind
from nestling.streams.classifier import StreamClassifier
from nestling.streams.experts.level_states import SETTINGS
from nestling.streams.regressor import StreamRegressor
from nestling.streams.stream_state import SavedStream, read_stream_level, write_stream

AnyStream = StreamClassifier | StreamRegressor
AnyModel = Learner | NestedOptimizer | AnyStream


class SavedVersion(Protocol):
    """Protocol of a version on disk, of any kind: its levels are read, and put into another.

    Attributes:
        path: folder of the snapshot.
    """

    path: Path

    def __iter__(self) -> Iterator[str]:
        """Names of the levels."""

    @property
    def plan(self) -> Any:
        """Of which levels it is, as plain data."""

    def read(self, name: str) -> dict[str, Any]:
        """The state of a level."""

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """What the digest of a level is made of, by name."""

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


class Versioned(Protocol):
    """Protocol of a live model whose versions are kept: one behind learner, script and stream."""

    def digests(self) -> dict[str, str]:
        """SHA-256 digest of each level."""

    @property
    def plan_digest(self) -> str:
        """Digest of the plan, as `digest_plan` gives it of a snapshot's."""

    def write(self, path: Path, last: Path | None) -> None:
        """Write a snapshot; unchanged files of the `last` one are linked."""

    def read_level(self, path: Path, name: str) -> dict[str, Any]:
        """The state of a level in a snapshot."""

    def load_level(self, name: str, state: Mapping[str, Any], feedback: Iterable[Any] = ()) -> None:
        """Put one level back, which then learns feedback alone; raises with nothing changed."""


class LearnerVersions:
    """Versions of a `Learner`.

    Args:
        learner: the live one.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def digests(self) -> dict[str, str]:
        """SHA-256 digest of each level."""
        return self._learner.levels.digests()

    @property
    def plan_digest(self) -> str:
        """Digest of the plan."""
        return digest_plan(self._learner.plan.to_data())

    def write(self, path: Path, last: Path | None) -> None:
        """Write a snapshot; unchanged files of the `last` one are linked."""
        write_snapshot_state(path, self._learner.state_dict(), last)

    def read_level(self, path: Path, name: str) -> dict[str, Any]:
        """The state of a level in a snapshot; SnapshotError if it is not there."""
        return read_level(path, name)

    def load_level(self, name: str, state: Mapping[str, Any], feedback: Iterable[Any] = ()) -> None:
        """Put one level back; see `Learner.load_level`."""
        self._learner.load_level(name, state, feedback=feedback)


class OptimizerVersions:
    """Versions of the levels of a training script of one's own.

    Args:
        optimizer: over the model's levels.
    """

    def __init__(self, optimizer: NestedOptimizer) -> None:
        self._levels = optimizer.levels

    def digests(self) -> dict[str, str]:
        """SHA-256 digest of each level."""
        return self._levels.digests()

    @property
    def plan_digest(self) -> str:
        """Digest of the plan."""
        return digest_plan(self._levels.plan.to_data())

    def write(self, path: Path, last: Path | None) -> None:
        """Write a snapshot of the levels and the rest of the model."""
        write_levels(path, self._levels, last)

    def read_level(self, path: Path, name: str) -> dict[str, Any]:
        """The state of a level in a snapshot; SnapshotError if it is not there."""
        return read_level(path, name)

    def load_level(self, name: str, state: Mapping[str, Any], feedback: Iterable[Any] = ()) -> None:
        """Put one level back; feedback is refused, since the script has the loss.

        Raises:
            SettingError: feedback was given; nothing is changed.
        """
        _refuse_feedback(feedback, "train on it in the script's own loop after the rollback")
        put_level_back(self._levels, name, state, None, torch.device("cpu"))


class StreamVersions:
    """Versions of a stream learner.

    Args:
        stream: the live one.
    """

    def __init__(self, stream: AnyStream) -> None:
        self._stream = stream

    def digests(self) -> dict[str, str]:
        """SHA-256 digest of each level."""
        return self._stream.levels.digests()

    @property
    def plan_digest(self) -> str:
        """Digest of the experts and the settings that they were made with."""
        pool = self._stream.state_dict()["run"]["pool"]
        return digest_plan({field: pool[field] for field in SETTINGS})

    def write(self, path: Path, last: Path | None) -> None:
        """Write a snapshot; unchanged files of the `last` one are linked."""
        write_stream(path, self._stream.state_dict(), last)

    def read_level(self, path: Path, name: str) -> dict[str, Any]:
        """The state of a level in a snapshot; SnapshotError if it is not there."""
        return read_stream_level(path, name)

    def load_level(self, name: str, state: Mapping[str, Any], feedback: Iterable[Any] = ()) -> None:
        """Put one level back; feedback is refused, since each event moves every expert.

        Raises:
            SettingError: feedback was given; nothing is changed.
        """
        _refuse_feedback(
            feedback, "give the events to learn_many after the rollback, all levels on"
        )
        self._stream.levels[name].load_state_dict(state)


def make_versioned(model: AnyModel) -> Versioned:
    """What keeps versions of a learner, a `NestedOptimizer` or a stream learner.

    Raises:
        SettingError: something else.
    """
    if isinstance(model, Learner):
        return LearnerVersions(model)
    if isinstance(model, NestedOptimizer):
        return OptimizerVersions(model)
    if isinstance(model, AnyStream):
        return StreamVersions(model)
    raise SettingError(
        f"versions of a {type(model).__name__} cannot be kept; give a Learner, a NestedOptimizer, "
        "a StreamClassifier or a StreamRegressor"
    )


def check_level(name: str, known: Iterable[str]) -> None:
    """Raise UnknownLevel with the nearest name if a level is not known."""
    names = list(known)
    if name not in names:
        raise UnknownLevel(f"no level {name!r}; {suggest(name, names)}")


def _refuse_feedback(feedback: Iterable[Any], remedy: str) -> None:
    if any(True for _ in feedback):
        raise SettingError(f"this model cannot learn feedback again by one level alone; {remedy}")
