"""A `Learner` under a contract."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor

from nestling.answer.views.restricted import References, find_silent
from nestling.judge.probes.probe_result import Answering
from nestling.learn import Learner
from nestling.learn.parts import write_snapshot_state
from nestling.levels import Levels
from nestling.oversight.subjects.model_levels import PlannedSubject, answer_by_model


class LearnerSubject(PlannedSubject):
    """A learner as what is governed; see `Subject`."""

    def __init__(self, target: Learner) -> None:
        self.target = target

    @property
    def levels(self) -> Levels:
        """Its live levels by name."""
        return self.target.levels

    @property
    def num_examples(self) -> int:
        """Examples that it has learned."""
        return self.target.counts.num_examples

    def standing_still(self) -> AbstractContextManager[object]:
        """While this is open nobody else learns or answers."""
        return self.target.standing_still()

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

    def load_level(self, name: str, state: Mapping[str, Any], feedback: Iterable[Any] = ()) -> None:
        """Let one level become what was saved, others untouched; then it alone learns feedback."""
        self.target.load_level(name, state, feedback=feedback)

    def write(self, path: Path, last: Path | None) -> None:
        """Save everything as a snapshot; what an earlier one holds is linked."""
        write_snapshot_state(path, self.target.state_dict(), last)

    def read_version(self, path: Path) -> "LearnerSubject":
        """A twin as it was when a snapshot was written."""
        twin = self.copy()
        twin.target.restore(path)
        return twin
