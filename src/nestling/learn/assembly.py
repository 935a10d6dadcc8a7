"""The parts of a learner, made from what its user says."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from nestling.answer.panel import Panel
from nestling.answer.targets import TargetSpace
from nestling.core.arguments import check_callable, check_device, check_model, name_kind
from nestling.core.batches import Loss, default_loss
from nestling.core.errors import SettingError
from nestling.core.heads import check_width
from nestling.judge import make_detector
from nestling.learn.default import EarlyView, describe_choice, make_default_plan, make_replay
from nestling.learn.governing.sources import Sources
from nestling.learn.growth import Head
from nestling.learn.guard import check_settings
from nestling.learn.protection import Protections
from nestling.learn.random_state import RandomState
from nestling.learn.reports import Counts, Writer
from nestling.learn.training import GradientStep, Training
from nestling.levels import Levels, NestedOptimizer, Plan
from nestling.levels.assign import unwrap
from nestling.levels.watching import make_watches
from nestling.protect import Retention, SourceGuard

_LOGGER = logging.getLogger("nestling")


def assemble(
    model: nn.Module,
    plan: Plan | Path | str | None,
    loss: Loss | None,
    pretrained: bool,
    replay: int,
    retain: Sequence[Retention],
    num_classes: int | None,
    output_transform: Callable[[Tensor], Tensor] | None,
    device: torch.device | str | None,
    precision: Literal["bf16"] | None,
    judge: Callable[[nn.Module], bool] | None,
    seed: int,
    writer: Writer | None,
    sources: SourceGuard | None,
) -> Training:
    """Make and connect the parts; arguments and errors as for `Learner`."""
    model = check_model(model, "nl.Learner")
    chosen = None if plan is None else Plan.of(plan)
    check_settings(precision, replay, retain, num_classes, seed)
    check_callable("loss", loss, "torch.nn.CrossEntropyLoss()")
    check_callable("output_transform", output_transform, "torch.sigmoid")
    check_callable("judge", judge, "lambda model: True")
    if writer is not None and not hasattr(writer, "add_scalar"):
        raise SettingError(
            f"the writer is {name_kind(writer)}; one with add_scalar works, such as "
            "torch.utils.tensorboard.SummaryWriter()"
        )
    if isinstance(loss, type):
        raise SettingError(f"the loss is {name_kind(loss)}; make one first: {loss.__name__}()")
    guarded = Sources(sources)
    device = check_device(device)
    model = model if device is None else model.to(device)
    first = next(model.parameters(), None)
    where = torch.device(device or (first.device if first is not None else "cpu"))
    # A compiled model runs the training step; names, copies and answers are those of its inside.
    given, model = model, unwrap(model)
    chosen = chosen or make_default_plan(model, pretrained=pretrained, replay=replay)
    loss = loss or default_loss
    kept = make_replay(replay, seed) if replay else None
    protections = Protections(model, retain, chosen, loss, kept)
    asked = None if judge is None else _JudgeOf(model, judge)
    watches = make_watches(chosen.watches, make_detector)
    levels = Levels(model, chosen, judge=asked, seed=seed, has_memories=True, watches=watches)
    if levels.gradient and num_classes is not None:
        check_width(levels.model, num_classes)
    optimizer = NestedOptimizer.over(levels) if levels.gradient else None
    step = GradientStep(given, optimizer, loss, precision, where)
    panel = Panel(
        levels,
        protections.find_reader,
        TargetSpace(num_classes),
        output_transform,
        is_plain=protections.is_plain,
    )
    random = RandomState(seed, where)
    for line in describe_choice(levels, is_default=plan is None):
        _LOGGER.info("%s", line)
    return Training(
        step,
        levels,
        Head(model, levels, random.own, may_grow=num_classes is None),
        protections,
        panel,
        EarlyView(levels, may_drop=plan is None and pretrained),
        random,
        Counts(),
        guarded,
        writer,
    )


class _JudgeOf:
    """A judge of models, asked about one model by a level's name; it can be pickled if they can."""

    def __init__(self, model: nn.Module, judge: Callable[[nn.Module], bool]) -> None:
        self.model, self.judge = model, judge

    def __call__(self, _: str) -> bool:
        return self.judge(self.model)
