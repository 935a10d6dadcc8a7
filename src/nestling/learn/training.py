"""What happens to a batch: checked, answered, learned by the levels, heard of by the read-out."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nestling.answer.answerer import Answerer, Publisher
from nestling.answer.panel import Panel, answer_batch
from nestling.consolidate import Judge, Proposal
from nestling.core.batches import Batch, Loss, check_batch, default_loss, read_batch
from nestling.core.errors import DataError, NestlingError
from nestling.core.modes import eval_modules
from nestling.judge.scores import measure_accuracy, measure_r_squared
from nestling.learn.consolidation import (
    consolidate,
    judge_by_dreams,
    judge_by_replay,
    learn_alone,
    put_level_back,
)
from nestling.learn.default import EarlyView
from nestling.learn.governing.sources import Sources, pick_rows
from nestling.learn.growth import Head
from nestling.learn.guard import Admitted, admit, check_task, warn_of_classes
from nestling.learn.parts import Part, load_all, read_plan
from nestling.learn.protection import Protections
from nestling.learn.random_state import RandomState
from nestling.learn.reports import Counts, StepReport, Writer, write_reading
from nestling.levels import Levels, NestedOptimizer, Refusal
from nestling.levels.assign import unwrap
from nestling.memory.checks import check_weights
from nestling.memory.ridge import Task
from nestling.protect import TakenStep, take_step
from nestling.protect.training_step import list_places

_LOGGER = logging.getLogger("nestling")


class GradientStep:
    """One training step of the gradient levels, in the model's own modes.

    Args:
        model: trained in place; it may be compiled.
        optimizer: of its levels; None if nothing learns by gradient.
        loss: (output, target) -> scalar ().
        precision: "bf16" for autocast in the forward pass.
        device: of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: NestedOptimizer | None,
        loss: Loss,
        precision: Literal["bf16"] | None,
        device: torch.device,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.precision = precision
        self.device = device
        self._inner = unwrap(model)
        modules = list(self._inner.modules())
        self._norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._NormBase)]
        self._buffers = list_places(self._inner)

    def take(self, batch: Batch, protections: Protections, *, is_new: bool) -> TakenStep | None:
        """Learn a batch, with what protects; None if nothing learns by gradient."""
        if self.optimizer is None:
            return None
        if not self._inner.training:
            self._inner.train()
        autocast = None
        if self.precision is not None:
            autocast = torch.autocast(self.device.type, dtype=torch.bfloat16)
        # One example has no statistics of its own: the running ones are used, and stand still.
        with eval_modules(self._norms if batch.size == 1 else ()):
            return take_step(
                self.model,
                self.optimizer,
                batch,
                protections.methods,
                loss=self.loss,
                precision=autocast,
                buffers=self._buffers,
                is_new=is_new,
            )


class Training:
    """Takes batches through all parts of a learner.

    Args:
        step: of the gradient levels.
        levels: of the plan.
        head: that may grow.
        protections: beside the levels.
        panel: who answers.
        early: what the default's memory reads.
        random: where its random numbers come from.
        counts: of what was done.
        sources: where rows come from, and who is held.
        writer: takes metrics; None for none.
    """

    def __init__(
        self,
        step: GradientStep,
        levels: Levels,
        head: Head,
        protections: Protections,
        panel: Panel,
        early: EarlyView,
        random: RandomState,
        counts: Counts,
        sources: Sources,
        writer: Writer | None,
    ) -> None:
        self.step = step
        self.levels = levels
        self.head = head
        self.protections = protections
        self.panel = panel
        self.early = early
        self.random = random
        self.counts = counts
        self.sources = sources
        self.writer = writer
        self.publisher = Publisher()

    def learn(
        self,
        batch: Batch,
        task: int | None,
        weight: Tensor | Sequence[float] | None,
        source: str | Sequence[str] | None,
        *,
        is_new: bool,
    ) -> StepReport:
        """Learn one batch; see `Learner.learn`."""
        started = time.perf_counter()
        batch = self._check_rows(batch)
        task = check_task(task)
        self.protections.check_task(task)
        if batch.size == 0:
            return StepReport(float("nan"), 0)
        weight = None if weight is None else check_weights(weight, batch.size)
        judged = self.sources.judge(batch, source, weight, is_new)
        if judged is None:
            return self._learn_rows(batch, task, weight, started, is_new=is_new)[0]
        heavy = None if weight is None and judged.is_plain else judged.weights
        kept = batch if judged.is_whole else pick_rows(batch, judged.rows)
        odd, wrong = None, None
        if is_new and judged.has_odd:
            odd = pick_rows(batch, judged.at_odds)
            wrong = self._answer_before(odd)
        output = None if self.step.optimizer is not None else self._answer_before(kept)
        report = StepReport(float("nan"), 0)
        if kept.size:
            report, taken = self._learn_rows(kept, task, heavy, started, is_new=is_new)
            output = output if taken is None else taken.output
        if is_new and not report.refused:
            self.sources.note(judged, output, kept)
            if odd is not None and wrong is not None:
                self.sources.note_held(judged, wrong, odd)
        if judged.events:
            report = replace(report, events=(*judged.events, *report.events))
        return report

    def _check_rows(self, batch: Batch) -> Batch:
        """A batch on the learner's device, or DataError where it cannot be learned from."""
        device = self.step.device
        if any(value.device != device for value in batch.inputs) or batch.keywords:
            batch = batch.to(device)
        if batch.target is None:
            raise DataError("the batch has no target; give learn(x, y) or a (x, y) batch")
        check_batch(batch, self.panel.targets.declared)
        return batch

    def _learn_again(self, batch: Batch) -> StepReport:
        """Learn rows that were admitted when they came: no guard asks for their source again."""
        started = time.perf_counter()
        batch = self._check_rows(batch)
        self.protections.check_task(None)
        if batch.size == 0:
            return StepReport(float("nan"), 0)
        return self._learn_rows(batch, None, None, started, is_new=False)[0]

    def _answer_before(self, batch: Batch) -> Tensor | None:
        """What is answered to rows that no step will tell of; None if nobody can."""
        if not batch.size or self.panel.targets.task is None:
            return None
        try:
            return self.answer(Batch(batch.inputs, batch.keywords), None, None)[0]
        except NestlingError:
            return None

    def _learn_rows(
        self,
        batch: Batch,
        task: int | None,
        weight: Tensor | None,
        started: float,
        *,
        is_new: bool,
    ) -> tuple[StepReport, TakenStep | None]:
        panel = self.panel
        if is_new:
            self.early.settle(batch)
        # Everything that can fail comes before anything that is changed.
        memories = self.levels.memories if is_new else {}
        grow = None if self.step.optimizer is None else self.head.check_growth
        found = admit(batch, weight, panel.targets, memories, panel.experts.inspect, grow)
        seen = []
        if is_new:
            seen = [
                (level, level.check(batch, found.labels, weight))
                for level in self.levels.sleeps.values()
            ]
            self.protections.check_batch(batch)
        is_first = panel.targets.task is None
        if is_new:
            self._check_watches(batch)
            panel.ask_errors(batch)
        answers, taken = self._try_step(batch, found, is_new)
        self.protections.note(task)
        panel.targets = panel.targets.admit(found.classes, task)
        if is_first and self.step.loss is default_loss and panel.experts.output_transform is None:
            warn_of_classes(batch)
        if is_new:
            output = None if taken is None else taken.output
            panel.learn(batch, found.labels, found.read, found.checked, answers, output)
            for level, rows in seen:
                level.learn(rows)
            loss = None if taken is None or taken.refused else taken.loss
            self.levels.watch(panel.take_errors(), loss)
        self.counts.num_examples += batch.size
        self.counts.seconds += time.perf_counter() - started
        report = self._report(batch, taken)
        if self.writer is not None:
            self.writer.add_scalar("loss", report.loss, self.counts.num_examples)
        return report, taken

    def end_experience(self, loader: Iterable[Any] | None) -> None:
        """Say that an experience is over; see `Learner.end_experience`."""
        self.protections.end_experience(loader, self.step.device)
        self.counts.num_experiences += 1
        if self.writer is not None:
            for reading in self.levels.read():
                write_reading(self.writer, reading, self.counts.num_examples)

    def evaluate(self, batch: Batch, task: int | None) -> float:
        """Accuracy, or R squared, of the answers to a batch with its target."""
        if batch.target is None:
            raise DataError("evaluate needs targets; give evaluate(x, y)")
        is_real = batch.target.is_floating_point()
        answer, kind = self.answer(batch, task, "regression" if is_real else "classification")
        measure = measure_accuracy if kind == "classification" else measure_r_squared
        return measure(answer, batch.target.cpu())

    def consolidate(
        self, judge: Judge | None, change: str | Callable[[nn.Module], object], tolerance: float
    ) -> Proposal:
        """Propose a change of slow weights; see `Learner.consolidate`."""
        replay, device = self.protections.replay, self.step.device
        # Values have no loss that says how good they are on their own scale.
        stored = replay if self.panel.targets.task == "classification" else None
        if judge is None and isinstance(change, str) and change in self.levels.sleeps:
            judge = judge_by_dreams(self.levels, change)
        judge = judge or judge_by_replay(stored, self.step.loss, device)
        return consolidate(self.levels, change, judge, tolerance, replay, device)

    def publish(self) -> Answerer:
        """What answers now, for those who only ask; see `Learner.answerer`."""
        return self.publisher.publish(self.panel, self.step.device, self.counts.num_examples)

    def renew_published(self) -> None:
        """Publish anew after a change, if the last one was asked for; else it is out of date."""
        if not self.publisher.is_asked:
            self.publisher.latest = None
            return
        try:
            self.publish()  # the one before is given out until this one stands
        except Exception:
            # What was learned stays learned; who asks next is told.
            self.publisher.latest = None
            _LOGGER.debug("no answerer could be published", exc_info=True)

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step and the next answer depend on; tensors are copies."""
        parts = {name: part.state_dict() for name, part in self._list_parts().items()}
        return {"plan": self.levels.plan.to_data(), **parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; raises ForeignSnapshot with nothing changed."""
        with self.early.following(read_plan(state, self.levels.plan)):
            load_all(self._list_parts(), state)

    def load_level(self, name: str, state: Mapping[str, Any], feedback: Iterable[Any]) -> None:
        """Put one level back to a saved state, then let it alone learn; see `Learner.load_level`.

        Whatever fails, nothing is changed.
        """
        device, raw = self.step.device, list(feedback)
        before = self.state_dict() if raw else {}
        put_level_back(self.levels, name, state, self.protections.replay, device)
        try:
            if raw:
                batches = (read_batch(one).own().to(device) for one in raw)
                learn_alone(self.levels, name, batches, self._learn_again)
        except BaseException:
            self.load_state_dict(before)
            raise

    def _list_parts(self) -> dict[str, Part]:
        """All that own a part of a learner's state, in the order in which they are loaded."""
        parts: dict[str, Part] = {
            "head": self.head,
            "levels": self.levels,
            "protections": self.protections,
            "panel": self.panel,
            "counts": self.counts,
            "random": self.random,
        }
        return parts if self.sources.guard is None else parts | {"sources": self.sources}

    def _try_step(
        self, batch: Batch, found: Admitted, is_new: bool
    ) -> tuple[dict[str, Tensor] | None, TakenStep | None]:
        """What the experts answer before the step, and the step; undone if one raises."""
        panel, before, num_outputs = self.panel, self.panel.targets, found.targets.num_outputs
        grows = found.num_outputs > num_outputs
        # What protecting methods draw from is put back by the step itself.
        put_back = self.random.mark([self.random.own] if grows else [])
        panel.targets = found.targets
        try:
            answers = panel.ask(batch) if is_new else None
            if grows:
                self.protections.check_growth()
                _LOGGER.info("head grown from %d to %d classes", num_outputs, found.num_outputs)
                self.head.resize(found.num_outputs)
                panel.targets = replace(found.targets, num_outputs=found.num_outputs)
            return answers, self.step.take(batch, self.protections, is_new=is_new)
        except Exception as error:
            is_alarm = isinstance(error, Warning)  # comes after the step
            if not is_alarm:
                if panel.targets.num_outputs > num_outputs:
                    self.head.resize(num_outputs)
                put_back()
            if not is_alarm or before.task is None:
                panel.targets = before
            raise

    def _check_watches(self, batch: Batch) -> None:
        """Raise DataError if a watch cannot hear of errors of such targets."""
        assert batch.target is not None
        watches = self.levels.watches.values() if batch.target.is_floating_point() else ()
        for spec in (watch.spec for watch in watches):
            if spec.takes_shares:
                raise DataError(
                    f"watch {spec.name!r}: {spec.detector} takes errors of classes, 0 or 1; the "
                    "targets are values, for which detector='adwin' works"
                )

    def answer(self, batch: Batch, task: int | None, kind: Task | None) -> tuple[Tensor, Task]:
        """Probabilities or values of the read-out, and which; see `Learner.predict`.

        Args:
            batch: its target is ignored.
            task: restricts the answer to the classes seen under this label.
            kind: what is predicted, if that is known though nothing was learned.
        """
        panel, device = self.panel, self.step.device
        return answer_batch(
            panel.readout, panel.experts, batch, task=task, kind=kind, device=device
        )

    def _report(self, batch: Batch, taken: TakenStep | None) -> StepReport:
        events = self.levels.take_events()
        if self.step.optimizer is not None:
            events = self.step.optimizer.take_events() + events
        if taken is None:
            return StepReport(float("nan"), batch.size, events=tuple(events))
        if taken.refused:
            self.counts.num_refused += 1
            total = self.counts.num_refused
            _LOGGER.warning("step refused: %s (%d so far)", taken.refused, total)
            events.append(Refusal(None, self.levels.num_steps, taken.refused))
        return StepReport(taken.loss, batch.size, taken.refused, tuple(events))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "writer": None}  # it stays with the first
