"""A `NestedOptimizer` and its model, in any training loop, under a contract."""

import copy
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from nestling.answer.views.restricted import References, find_silent
from nestling.judge.probes.probe_result import Answering
from nestling.learn.consolidation import put_level_back
from nestling.learn.parts import read_levels_state, write_levels
from nestling.levels import Levels, NestedOptimizer
from nestling.oversight.subjects.model_levels import PlannedSubject, answer_by_model
from nestling.oversight.subjects.subject import check_no_batches


class OptimizerSubject(PlannedSubject):
    """An optimizer with its model as what is governed; see `Subject`.

    Args:
        target: the optimizer; its model answers.
        classifies: whether outputs are logits of classes; else they are values.
    """

    def __init__(self, target: NestedOptimizer, *, classifies: bool = True) -> None:
        self.target = target
        self.classifies = classifies

    @property
    def levels(self) -> Levels:
        """Its live levels by name."""
        return self.target.levels

    @property
    def num_examples(self) -> int:
        """Optimizer steps so far: it does not see examples."""
        return self.target.num_steps

    def read_interface(self) -> dict[str, object]:
        """What it predicts."""
        return {"task": "classification" if self.classifies else "regression"}

    def answer_by(self, names: Collection[str] | None, references: References) -> Answering:
        """Who answers when only some levels may; None: all of them."""
        values = {} if names is None else find_silent(self.levels, names, references)
        return lambda x: answer_by_model(self.levels, values, x, classifies=self.classifies)

    def list_cohorts(self) -> dict[str, Answering]:
        """None: a plain loop has no persons."""
        return {}

    def copy(self) -> "OptimizerSubject":
        """A twin with a model of its own."""
        return OptimizerSubject(copy.deepcopy(self.target), classifies=self.classifies)

    def load_level(self, name: str, state: Mapping[str, Any], feedback: Iterable[Any] = ()) -> None:
        """Let one level become what was saved, others untouched; then it alone learns feedback."""
        check_no_batches(feedback)
        put_level_back(self.levels, name, state, None, torch.device("cpu"))

    def write(self, path: Path, last: Path | None) -> None:
        """Save the levels and the rest of the model as a snapshot."""
        write_levels(path, self.levels, last)

    def read_version(self, path: Path) -> "OptimizerSubject":
        """A twin as it was when a snapshot was written."""
        twin = self.copy()
        twin.levels.load_state_dict(read_levels_state(path))
        return twin
