"""Levels of a plan over a model, as a contract sees them."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nestling.answer.views.restricted import standing_at
from nestling.consolidate.proposal import read_tensors
from nestling.core.batches import read_batch, read_output
from nestling.core.modes import eval_mode
from nestling.judge.contract.plan_facts import PlanFacts
from nestling.judge.verdicts.contract_facts import LevelChanges
from nestling.learn.parts import read_level
from nestling.ledger.version_log import digest_plan
from nestling.levels import Levels, Plan
from nestling.levels.bounds import ChangeBounds
from nestling.levels.readings import LevelReading
from nestling.oversight.subjects.plan_reading import read_plan_facts
from nestling.oversight.subjects.subject import Subject


@torch.no_grad()
def answer_by_model(
    levels: Levels, values: Mapping[str, Tensor], x: Any, *, classifies: bool
) -> Tensor:
    """What the model of levels answers to inputs: (N, K) probabilities or (N, M) values.

    Args:
        levels: of the model.
        values: name -> what parameters and buffers are meanwhile, for levels that are silent.
        x: inputs (N, ...).
        classifies: whether outputs are logits.
    """
    batch, model = read_batch((x,)), levels.model
    standing = standing_at(levels, values) if values else nullcontext()
    with standing, eval_mode(model):
        output = read_output(batch.call(model)).float().cpu()
    return output.softmax(dim=-1) if classifies else output


def describe_levels(levels: Levels) -> PlanFacts:
    """What a contract needs to know of levels and their model, knobs that were turned included."""
    specs = [levels[one.name].spec if one.name in levels else one for one in levels.plan.levels]
    return read_plan_facts(Plan(*specs, readout=levels.plan.readout), levels.model)


def measure_level(levels: Levels, name: str) -> LevelChanges:
    """How far a level moved; nothing of its last update and day where no bound watches them.

    A level that stands still since its day began has not moved in it.
    """
    gradient = levels.gradient.get(name)
    budget = None if gradient is None else gradient.budget
    since = levels.governance.measure_change(name, levels[name])
    if gradient is None or budget is None:
        return LevelChanges(since_validation=since)
    last, day = budget.measure_last(gradient.params), budget.measure_day(gradient.params)
    return LevelChanges(last or 0.0, day or 0.0, since, is_held=True)


class PlannedSubject(Protocol):
    """What learners and plain optimizers have in common: levels of a plan over one model.

    Attributes:
        target: what a change is given.
    """

    target: Any

    @property
    def levels(self) -> Levels:
        """Its live levels by name."""

    def standing_still(self) -> AbstractContextManager[object]:
        """While this is open nobody else learns or answers."""
        return nullcontext()

    @property
    def kinds(self) -> dict[str, str]:
        """Level -> its kind."""
        return {name: level.spec.kind for name, level in self.levels.items()}

    def read_levels(self) -> list[LevelReading]:
        """Current statistics of every level."""
        readings: list[LevelReading] = self.target.read_levels()
        return readings

    def measure_change(self, name: str) -> LevelChanges:
        """How far a level moved in its last update, within its day, and since it was validated."""
        return measure_level(self.levels, name)

    def describe(self) -> PlanFacts:
        """What a contract needs to know of its plan."""
        return describe_levels(self.levels)

    def digest_plan(self) -> str:
        """SHA-256 digest of its plan."""
        return digest_plan(self.levels.plan.to_data())

    def read_fixed(self) -> dict[str, Tensor]:
        """Its model's parameters and buffers by name; not copies."""
        return read_tensors(self.levels.model)

    def hold(self, tensors: Collection[str], levels: Collection[str]) -> None:
        """Keep tensors, and whole levels, as they are bit for bit from now on."""
        whole = {name for level in levels for name in self.levels[level].tensors()}
        with self.standing_still():
            self.levels.hold({*tensors, *whole})

    def check_bounds(self, name: str, bounds: ChangeBounds) -> None:
        """Raise SettingError unless a level can be held to these bounds; nothing is changed."""
        self.levels.governance.check_bounds(name, bounds)

    def bind(self, name: str, bounds: ChangeBounds, now: Callable[[], float]) -> None:
        """Hold a level to bounds of its change."""
        with self.standing_still():
            self.levels.bind(name, bounds, now)

    def mark_validated(self, by: str, at: float, like: Subject | None = None) -> None:
        """Let the cumulative change of every level begin anew."""
        with self.standing_still():
            validated = self.levels if like is None else like.levels
            self.levels.governance.mark_validated(validated, by, at)

    def read_part(self, name: str) -> Mapping[str, Any]:
        """A gradient level's weights; another level's whole state."""
        level = self.levels[name]
        return level.tensors() if name in self.levels.gradient else level.state_dict()

    def read_level(self, path: Path, name: str) -> Mapping[str, Any]:
        """The state of one level of a snapshot."""
        return read_level(path, name)
