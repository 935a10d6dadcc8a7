"""Levels of a plan over a model, as a contract sees them."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from nestling.answer.views.restricted import standing_at
from nestling.core.batches import read_batch, read_output
from nestling.core.modes import eval_mode
from nestling.judge.contract.plan_facts import PlanFacts
from nestling.judge.verdicts.contract_facts import LevelChanges
from nestling.levels import Levels, Plan
from nestling.oversight.subjects.plan_reading import read_plan_facts


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


def list_kinds(levels: Levels) -> dict[str, str]:
    """Level -> "gradient", "copy", "memory", ..."""
    return {name: level.spec.kind for name, level in levels.items()}


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
