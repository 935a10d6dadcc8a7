"""A `Learner` under a contract."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nestling.answer.views.restricted import find_silent
from nestling.consolidate.proposal import read_tensors
from nestling.judge.contract.plan_facts import PlanFacts
from nestling.judge.probes.probe_result import Answering
from nestling.judge.verdicts.contract_facts import LevelChanges
from nestling.learn import Learner
from nestling.learn.parts import read_level, write_snapshot_state
from nestling.ledger.version_log import digest_plan
from nestling.levels import Levels
from nestling.levels.bounds import ChangeBounds
from nestling.levels.readings import LevelReading
from nestling.oversight.subjects.model_levels import (
    answer_by_model,
    describe_levels,
    list_kinds,
    measure_level,
)
from nestling.oversight.subjects.subject import References, Subject


class LearnerSubject:
    """A learner as what is governed; see `Subject`."""

    def __init__(self, target: Learner) -> None:
        self.target = target

    @property
    def levels(self) -> Levels:
        """Its live levels by name."""
        return self.target.levels

    @property
    def kinds(self) -> dict[str, str]:
        """Level -> its kind."""
        return list_kinds(self.levels)

    @property
    def num_examples(self) -> int:
        """Examples that it has learned."""
        return self.target.counts.num_examples

    def read_levels(self) -> list[LevelReading]:
        """Current statistics of every level."""
        return self.target.read_levels()

    def measure_change(self, name: str) -> LevelChanges:
        """How far a level moved in its last update, within its day, and since it was validated."""
        return measure_level(self.levels, name)

    def describe(self) -> PlanFacts:
        """What a contract needs to know of its plan."""
        return describe_levels(self.levels)

    def digest_plan(self) -> str:
        """SHA-256 digest of its plan."""
        return digest_plan(self.target.plan.to_data())

    def read_fixed(self) -> dict[str, Tensor]:
        """Its model's parameters and buffers by name."""
        return read_tensors(self.levels.model)

    def read_interface(self) -> dict[str, object]:
        """What it predicts and how many outputs that has, as far as it knows."""
        targets = self.target.panel.targets
        return {"task": targets.task, "num_outputs": targets.num_outputs or None}

    def answer_by(self, names: Collection[str] | None, references: References) -> Answering:
        """Who answers when only some levels may; None: all of them.

        Before it has learned anything its model answers, as logits of classes.
        """
        asked: Any = self.target
        if names is not None:
            asked = self.target.restricted_to(names, references=references)

        def answer(x: Any) -> Tensor:
            if self.target.task is None and self.target.plan.outside is None:
                silent = {} if names is None else find_silent(self.levels, names, references)
                return answer_by_model(self.levels, silent, x, classifies=True)
            if self.target.task == "regression":
                values: Tensor = asked.predict(x)
                return values
            probabilities: Tensor = asked.predict_proba(x)
            return probabilities

        return answer

    def list_cohorts(self) -> dict[str, Answering]:
        """Answers of each person who has learned something."""
        persons = {name: self.target.personal(name) for name in self.target.persons}
        return {name: one.predict_proba for name, one in persons.items() if one.num_examples}

    def copy(self) -> "LearnerSubject":
        """A twin on which a change is tried."""
        return LearnerSubject(self.target.copy())

    def make(self, target: Learner) -> "LearnerSubject":
        """Around another learner."""
        return LearnerSubject(target)

    def hold(self, tensors: Collection[str], levels: Collection[str]) -> None:
        """Keep tensors, and whole levels, as they are bit for bit from now on."""
        whole = {name for level in levels for name in self.levels[level].tensors()}
        with self.target.standing_still():
            self.levels.hold({*tensors, *whole})

    def bind(self, name: str, bounds: ChangeBounds, now: Callable[[], float]) -> None:
        """Hold a level to bounds of its change."""
        with self.target.standing_still():
            self.levels.bind(name, bounds, now)

    def mark_validated(self, by: str, at: float, like: Subject | None = None) -> None:
        """Let the cumulative change of every level begin anew."""
        with self.target.standing_still():
            self.levels.governance.mark_validated((like or self).levels, by, at)

    def load_level(self, name: str, state: Mapping[str, Any], feedback: Iterable[Any] = ()) -> None:
        """Let one level become what was saved, others untouched; then it alone learns feedback."""
        self.target.load_level(name, state, feedback=feedback)

    def read_part(self, name: str) -> Mapping[str, Any]:
        """A gradient level's weights; another level's whole state."""
        level = self.levels[name]
        return level.tensors() if name in self.levels.gradient else level.state_dict()

    def write(self, path: Path, last: Path | None) -> None:
        """Save everything as a snapshot; what an earlier one holds is linked."""
        write_snapshot_state(path, self.target.state_dict(), last)

    def read_version(self, path: Path) -> "LearnerSubject":
        """A twin as it was when a snapshot was written."""
        twin = self.copy()
        twin.target.restore(path)
        return twin

    def read_level(self, path: Path, name: str) -> Mapping[str, Any]:
        """The state of one level of a snapshot."""
        return read_level(path, name)
