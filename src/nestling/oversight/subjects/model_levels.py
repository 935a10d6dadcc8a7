"""Levels of a plan over a model, as a contract sees them."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from nestling.answer.views.restricted import standing_at
from nestling.consolidate.proposal import read_tensors
from nestling.core.batches import read_batch, read_output
from nestling.core.modes import eval_mode
from nestling.judge.contract.plan_facts import PlanFacts
from nestling.judge.verdicts.contract_facts import LevelChanges
from nestling.levels import Levels


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
    """What a contract needs to know of levels and their model."""
    model = levels.model
    claimed = {name: tuple(level.names) for name, level in levels.gradient.items()}
    tensors = read_tensors(model)
    learning = {
        name
        for name, level in levels.items()
        if level.spec.kind != "watch" and not _stands_still(level.spec)
    }
    held = {
        name
        for name, level in levels.gradient.items()
        if level.spec.protect or _stands_still(level.spec)
    }
    owned = {name for names in claimed.values() for name in names}
    return PlanFacts(
        levels={name: claimed.get(name, ()) for name in levels},
        kinds={name: level.spec.kind for name, level in levels.items()},
        tensors=frozenset(tensors),
        trained=frozenset(learning),
        held=frozenset(held),
        periods={name: level.spec.period for name, level in levels.gradient.items()},
        frozen=frozenset(name for name, _ in model.named_parameters() if name not in owned),
    )


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
    return LevelChanges(last or 0.0, day or 0.0, since)


def _stands_still(spec: object) -> bool:
    """Whether it is a copy that never moves, or frozen until somebody says so."""
    freeze = getattr(spec, "freeze", None)
    return getattr(spec, "decay", None) == 1.0 or (freeze is not None and bool(freeze.until))
