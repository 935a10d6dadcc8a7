"""A `NestedOptimizer` and its model, in any training loop, under a contract."""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nestling.answer.views.restricted import find_silent
from nestling.consolidate.proposal import read_tensors
from nestling.judge.contract.plan_facts import PlanFacts
from nestling.judge.probes.probe_result import Answering
from nestling.judge.verdicts.contract_facts import LevelChanges
from nestling.learn.consolidation import put_level_back
from nestling.learn.parts import read_level, read_levels_state, write_levels
from nestling.ledger.version_log import digest_plan
from nestling.levels import Levels, NestedOptimizer
from nestling.levels.bounds import ChangeBounds
from nestling.levels.readings import LevelReading
from nestling.oversight.subjects.model_levels import (
    answer_by_model,
    describe_levels,
    list_kinds,
    measure_level,
)
from nestling.oversight.subjects.subject import References, Subject, check_no_batches


class OptimizerSubject:
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
    def kinds(self) -> dict[str, str]:
        """Level -> its kind."""
        return list_kinds(self.levels)

    @property
    def num_examples(self) -> int:
        """Optimizer steps so far: it does not see examples."""
        return self.target.num_steps

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

    def make(self, target: NestedOptimizer) -> "OptimizerSubject":
        """Around another optimizer."""
        return OptimizerSubject(target, classifies=self.classifies)

    def hold(self, tensors: Collection[str], levels: Collection[str]) -> None:
        """Keep tensors, and whole levels, as they are bit for bit from now on."""
        whole = {name for level in levels for name in self.levels[level].tensors()}
        self.levels.hold({*tensors, *whole})

    def bind(self, name: str, bounds: ChangeBounds, now: Callable[[], float]) -> None:
        """Hold a level to bounds of its change."""
        self.levels.bind(name, bounds, now)

    def mark_validated(self, by: str, at: float, like: Subject | None = None) -> None:
        """Let the cumulative change of every level begin anew."""
        self.levels.governance.mark_validated((like or self).levels, by, at)

    def load_level(self, name: str, state: Mapping[str, Any], feedback: Iterable[Any] = ()) -> None:
        """Let one level become what was saved, others untouched; then it alone learns feedback."""
        check_no_batches(feedback)
        put_level_back(self.levels, name, state, None, torch.device("cpu"))

    def read_part(self, name: str) -> Mapping[str, Any]:
        """A gradient level's weights; another level's whole state."""
        level = self.levels[name]
        return level.tensors() if name in self.levels.gradient else level.state_dict()

    def write(self, path: Path, last: Path | None) -> None:
        """Save the levels and the rest of the model as a snapshot."""
        write_levels(path, self.levels, last)

    def read_version(self, path: Path) -> "OptimizerSubject":
        """A twin as it was when a snapshot was written."""
        twin = self.copy()
        twin.levels.load_state_dict(read_levels_state(path))
        return twin

    def read_level(self, path: Path, name: str) -> Mapping[str, Any]:
        """The state of one level of a snapshot."""
        return read_level(path, name)
