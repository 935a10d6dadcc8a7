"""A stream learner under a contract: its experts are the levels."""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nestling.answer.views.restricted import References
from nestling.core.errors import SettingError
from nestling.judge.contract.plan_facts import PlanFacts
from nestling.judge.probes.probe_result import Answering
from nestling.judge.verdicts.contract_facts import LevelChanges
from nestling.ledger.version_log import digest_plan
from nestling.levels import Freeze
from nestling.levels.bounds import ChangeBounds
from nestling.levels.readings import LevelReading
from nestling.oversight.subjects.subject import Subject, check_no_batches
from nestling.streams import StreamClassifier, StreamRegressor
from nestling.streams.experts.expert_levels import StreamLevels
from nestling.streams.experts.level_states import SETTINGS
from nestling.streams.stream_state import read_stream_level, write_stream

# A level of a stream stands still until this is released, which only its contract does.
HELD = "released by its contract"


class StreamSubject:
    """A stream learner as what is governed; see `Subject`.

    What a contract fixes is named "LEVEL/TENSOR"; a level that is fixed stands still whole.
    """

    def __init__(self, target: StreamClassifier | StreamRegressor) -> None:
        self.target = target
        self._held: set[str] = set()

    @property
    def levels(self) -> StreamLevels:
        """Its live levels by name."""
        return self.target.levels

    @property
    def kinds(self) -> dict[str, str]:
        """Level -> its kind."""
        return {name: level.spec.kind for name, level in self.levels.items()}

    @property
    def num_examples(self) -> int:
        """Events so far."""
        return self.target.num_events

    def read_levels(self) -> list[LevelReading]:
        """Current statistics of every level."""
        return self.levels.read()

    def measure_change(self, name: str) -> LevelChanges:
        """How far a level moved in its last update, within its day, and since it was validated."""
        return LevelChanges(since_validation=self.levels[name].read().change_since_validation)

    def describe(self) -> PlanFacts:
        """What a contract needs to know of its experts."""
        levels = self.levels
        tensors = {name: self._list_names(name) for name in levels}
        return PlanFacts(
            levels={name: tuple(names) for name, names in tensors.items()},
            kinds={name: level.spec.kind for name, level in levels.items()},
            tensors=frozenset(name for names in tensors.values() for name in names),
            trained=frozenset(
                name for name, level in levels.items() if not _is_frozen(level.spec.freeze)
            ),
        )

    def _list_names(self, level: str) -> list[str]:
        return [f"{level}/{name}" for name in self.levels[level].tensors()]

    def digest_plan(self) -> str:
        """SHA-256 digest of its experts and settings."""
        pool = self.target.state_dict()["run"]["pool"]
        return digest_plan({field: pool[field] for field in SETTINGS})

    def read_fixed(self) -> dict[str, Tensor]:
        """All tensors of all levels, as "LEVEL/TENSOR"."""
        return {
            f"{name}/{key}": value
            for name, level in self.levels.items()
            for key, value in level.tensors().items()
        }

    def read_interface(self) -> dict[str, object]:
        """What it predicts, and how many classes have come."""
        if isinstance(self.target, StreamRegressor):
            return {"task": "regression", "num_outputs": 1}
        return {"task": "classification", "num_outputs": len(self.target.classes) or None}

    def answer_by(
        self,
        names: Collection[str] | None,
        references: References,  # noqa: ARG002
    ) -> Answering:
        """Who answers when only some levels may; None: all of them."""
        target = self.target
        asked = None if names is None else target.restricted_to(names)

        def answer(x: Any) -> Tensor:
            if asked is not None:
                return torch.from_numpy(asked.answer_many(x))
            if isinstance(target, StreamRegressor):
                values_N = np.asarray(target.predict_many(x), dtype=np.float64)
                return torch.from_numpy(values_N[:, None])
            return torch.from_numpy(np.asarray(target.predict_proba_many(x), dtype=np.float64))

        return answer

    def list_cohorts(self) -> dict[str, Answering]:
        """None: a stream has no persons."""
        return {}

    def copy(self) -> "StreamSubject":
        """A twin on which a change is tried."""
        twin = StreamSubject(copy.deepcopy(self.target))
        twin._held = set(self._held)
        return twin

    def hold(self, tensors: Collection[str], levels: Collection[str]) -> None:
        """Keep levels as they are from now on: those named, and those whose tensors are."""
        held = {*levels, *(name.partition("/")[0] for name in tensors)}
        for name in held - self._held:
            self.levels[name].control(freeze=Freeze(until=HELD), reason="held by the contract")
        for name in self._held - held:
            self.levels[name].control(freeze=None, reason="the contract lets it change")
        self._held = held

    def check_bounds(self, name: str, bounds: ChangeBounds) -> None:
        """Raise SettingError of a bound per update or per day: those need a plan's gradient level.

        A budget since the last validation is judged at each check.
        """
        if bounds.per_update or bounds.per_day:
            raise SettingError(
                f"level {name!r} of a stream learner cannot be held to per_update or per_day, "
                "its kernels know no bound; since_validation works, judged at each check"
            )

    def bind(self, name: str, bounds: ChangeBounds, now: Callable[[], float]) -> None:
        """Nothing to do: its kernels know no bound, and take nothing in that is not finite."""

    def mark_validated(self, by: str, at: float, like: Subject | None = None) -> None:
        """Let the cumulative change of every level begin anew."""
        self.levels.mark_validated(by, at, None if like is None else like.levels)

    def load_level(self, name: str, state: Mapping[str, Any], feedback: Iterable[Any] = ()) -> None:
        """Let one level become what was saved, others untouched; then it alone learns feedback."""
        check_no_batches(feedback)
        self.levels[name].load_state_dict(state)

    def read_part(self, name: str) -> Mapping[str, Any]:
        """The whole state of a level."""
        return self.levels[name].state_dict()

    def write(self, path: Path, last: Path | None) -> None:
        """Save everything as a snapshot; what an earlier one holds is linked."""
        write_stream(path, self.target.state_dict(), last)

    def read_version(self, path: Path) -> "StreamSubject":
        """A twin as it was when a snapshot was written."""
        twin = self.copy()
        twin.target.restore(path)
        return twin

    def read_level(self, path: Path, name: str) -> Mapping[str, Any]:
        """The state of one level of a snapshot."""
        return read_stream_level(path, name)


def _is_frozen(freeze: Freeze | None) -> bool:
    return freeze is not None and freeze.until is not None
