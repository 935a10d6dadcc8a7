"""`Learner`: any module and a plan, learning as data arrive and answering at any time."""

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from nestling.answer.export import export_readout
from nestling.answer.panel import Panel
from nestling.answer.readout import Readout
from nestling.answer.targets import TargetSpace
from nestling.consolidate import Judge, Proposal
from nestling.core.batches import Batch, Loss, default_loss, read_batch
from nestling.core.errors import DataError
from nestling.core.modes import in_own_modes
from nestling.learn.consolidation import consolidate, judge_by_replay
from nestling.learn.default import EarlyView, describe_choice, make_default_plan, make_replay
from nestling.learn.draws import Draws
from nestling.learn.growth import Head
from nestling.judge import measure_accuracy, measure_r_squared
from nestling.learn.guard import (
    Admitted,
    admit,
    check_batch,
    check_loader,
    check_settings,
    check_task,
)
from nestling.learn.parts import Part, join_state, load_all, read_plan, split_state
from nestling.learn.protection import Protections
from nestling.learn.reports import Counts, FitReport, StepReport, Writer, write_reading
from nestling.learn.training import Training
from nestling.levels import Change, LevelReading, Levels, NestedOptimizer, Plan, Refusal
from nestling.levels.control import Knobs
from nestling.memory.ridge import Task
from nestling.protect import Retention, TakenStep
from nestling.store import read_snapshot, write_snapshot

_LOGGER = logging.getLogger("nestling")
_SNAPSHOT, _SCHEMA = "learner", 3


class Learner:
    """Continual learning for any model: several speeds, no forgetting, an answer at any time.

    Every batch goes to the memory levels at once, in closed form, and through one training
    step of the gradient levels, each on its own clock; copies follow. The read-out answers
    from any of them or mixes them. All methods may be called from several threads: each
    waits for the one that runs.

    Args:
        model: any module. It is trained in place; it is not wrapped or changed (but its last
            linear layer gets more outputs if new classes appear and `num_classes` is None).
        plan: which parameters learn how fast, what is remembered, who answers; None for the
            default, see `make_default_plan`.
        loss: (output, target) -> scalar (); None for cross entropy on integer targets and
            mean squared error on floating ones.
        pretrained: for the default plan: whether the model's features are worth keeping.
        replay: examples that may be stored and learned again; 0 stores nothing raw.
        retain: what protects the weights, e.g. `nl.protect.EWC(20.0)`; several add up.
        num_classes: the declared number of classes; labels outside are errors. None lets the
            head grow.
        output_transform: maps outputs to the scale of floating targets, e.g. `torch.sigmoid`;
            None for the identity.
        device: where the model is moved and batches go; None leaves the model where it is.
        precision: "bf16" for autocast in the forward pass of training; None for the model's.
        judge: asked about updates of levels with `protect`: model -> whether it may stay.
        seed: of replay, copies and new head rows.
        writer: takes metrics: anything with `add_scalar(name, value, step)`, such as TensorBoard's
            `SummaryWriter`; None for none.

    Attributes:
        levels: every level of the plan by name; see `nestling.levels.Levels`.
        optimizer: the gradient levels' face to torch, e.g. for LR schedulers; None without one.
        counts: examples, refused steps, experiences and seconds so far.

    Raises:
        SettingError: the plan does not fit the model.

    >>> import nestling as nl
    >>> model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> learner = nl.Learner(model)
    >>> x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    >>> _ = learner.fit([(x, (x[:, 0] > 0).long())])
    >>> learner.predict(x).shape, learner.predict_proba(x).shape
    (torch.Size([64]), torch.Size([64, 2]))
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan | None = None,
        *,
        loss: Loss | None = None,
        pretrained: bool = False,
        replay: int = 0,
        retain: Sequence[Retention] = (),
        num_classes: int | None = None,
        output_transform: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str | None = None,
        precision: Literal["bf16"] | None = None,
        judge: Callable[[nn.Module], bool] | None = None,
        seed: int = 0,
        writer: Writer | None = None,
    ) -> None:
        check_settings(precision, replay)
        self.model = model if device is None else model.to(device)
        first = next(model.parameters(), None)
        self.device = torch.device(device or (first.device if first is not None else "cpu"))
        self.dtype = first.dtype if first is not None and first.is_floating_point() else None
        chosen = plan or make_default_plan(model, pretrained=pretrained, replay=replay)
        self.loss = loss or default_loss
        kept = make_replay(replay, seed) if replay else None
        self.protections = Protections(self.model, retain, chosen, self.loss, kept)
        self._judge = judge
        check = None if judge is None else self._ask_judge
        self.levels = Levels(self.model, chosen, judge=check, seed=seed, has_memories=True)
        has_gradients = bool(self.levels.gradient)
        self.optimizer = NestedOptimizer.over(self.levels) if has_gradients else None
        self._early = EarlyView(self.levels, may_drop=plan is None and pretrained)
        self._draws = Draws(seed, self.device)
        may_grow = num_classes is None
        self._head = Head(self.model, self.levels, self._draws.own, may_grow=may_grow)
        self._training = Training(
            self.model, self.optimizer, self.loss, self.protections.methods, precision, self.device
        )
        self.panel = Panel(
            self.levels,
            self.protections.find_reader,
            TargetSpace(num_classes),
            output_transform,
            is_plain=self.protections.is_plain and not self._training.has_modes,
        )
        self.counts = Counts()
        self._last_snapshot: Path | None = None
        self._lock = threading.RLock()
        self._writer = writer
        for line in describe_choice(self.levels, is_default=plan is None):
            _LOGGER.info("%s", line)

    # --- learning

    @in_own_modes
    def fit(self, loader: Iterable[Any], *, epochs: int = 1, task: int | None = None) -> FitReport:
        """Learn one experience: every batch of a loader, `epochs` times.

        Memories and the read-out's gate see each example once, in the first epoch.

        Args:
            loader: yields batches in any form that `learn` takes; read `epochs` times.
            epochs: passes over the loader.
            task: the experience's task label, where the scenario has one.

        Raises:
            SettingError: no epoch.
            DataError: the loader yields nothing or can be read only once though `epochs` is
                more, or a batch cannot be learned from.
        """
        check_loader(loader, epochs)
        self.protections.check_loader(loader)
        started, reports = time.perf_counter(), list[list[StepReport]]()
        for epoch in range(epochs):
            reports.append([])
            for raw in loader:
                report = self._learn(read_batch(raw).own(), task, None, is_new=epoch == 0)
                reports[-1].append(report)
        made = FitReport.sum_up(reports, time.perf_counter() - started)
        if made.num_examples == 0:
            raise DataError("the loader yields no example; give one with at least one batch")
        self.end_experience(loader)
        return made

    @in_own_modes
    def learn(
        self,
        x: Any,
        y: Tensor | None = None,
        *,
        task: int | None = None,
        weight: Tensor | None = None,
        again: bool = False,
    ) -> StepReport:
        """Learn one batch, at once.

        Args:
            x: inputs (N, ...): a tensor, a tuple of several, or a dict of keyword inputs; or
                a whole batch with its target, as a DataLoader yields it.
            y: target (N,) classes, (N, T) or (N, H, W) classes, or floating values; None if
                `x` holds it.
            task: task label, where the scenario has one.
            weight: (N,) >= 0, how much each example counts for the memories.
            again: the batch was learned before, in an earlier epoch: memories, which need it
                only once, and the read-out's gate do not take it in again.

        Returns: the loss before the update, why the step was refused if it was, and what else
            happened to the levels.

        Raises:
            DataError: the batch cannot be learned from; nothing is changed then.
        """
        batch = read_batch(x if y is None else (x, y))
        return self._learn(batch.own(), task, weight, is_new=not again)

    def _learn(
        self, batch: Batch, task: int | None, weight: Tensor | None, *, is_new: bool
    ) -> StepReport:
        with self._lock:
            started, panel, counts = time.perf_counter(), self.panel, self.counts
            if any(value.device != self.device for value in batch.inputs) or batch.keywords:
                batch = batch.to(self.device)
            if batch.target is None:
                raise DataError("the batch has no target; give learn(x, y) or a (x, y) batch")
            check_batch(batch, panel.targets.declared, dtype=self.dtype)
            task = check_task(task)
            if batch.size == 0:
                return StepReport(float("nan"), 0)
            if is_new:
                self._early.settle(batch)
            # Everything that can fail comes before anything that is changed.
            memories = self.levels.memories if is_new else {}
            grow = None if self.optimizer is None else self._head.check_growth
            found = admit(batch, weight, panel.targets, memories, panel.experts.inspect, grow)
            self.protections.check(batch, task, is_new=is_new)
            answers, taken = self._try_step(batch, found, is_new)
            self.protections.note(task)
            panel.targets = panel.targets.admit(found.classes, task)
            if is_new:
                output = None if taken is None else taken.output
                panel.learn(batch, found.labels, found.read, found.checked, answers, output)
            counts.num_examples += batch.size
            counts.seconds += time.perf_counter() - started
            report = self._report(batch, taken)
            if self._writer is not None:
                self._writer.add_scalar("loss", report.loss, counts.num_examples)
            return report

    def _try_step(
        self, batch: Batch, found: Admitted, is_new: bool
    ) -> tuple[list[Tensor] | None, TakenStep | None]:
        """What the experts answer before the step, and the step; undone if one raises."""
        panel, before, num_outputs = self.panel, self.panel.targets, found.targets.num_outputs
        grows = found.num_outputs > num_outputs
        drawn = self.protections.list_generators()
        put_back = self._draws.mark([self._draws.own, *drawn] if grows else drawn)
        panel.targets = found.targets
        try:
            answers = panel.ask(batch, found.read) if is_new else None
            if grows:
                self.protections.check_growth()
                _LOGGER.info("head grown from %d to %d classes", num_outputs, found.num_outputs)
                self._head.resize(found.num_outputs)
                panel.targets = replace(found.targets, num_outputs=found.num_outputs)
            return answers, self._training.step(batch, is_new=is_new)
        except Exception as error:
            is_alarm = isinstance(error, Warning)  # comes after the step
            if not is_alarm:
                if panel.targets.num_outputs > num_outputs:
                    self._head.resize(num_outputs)
                put_back()
            if not is_alarm or before.task is None:
                panel.targets = before
            raise

    def _report(self, batch: Batch, taken: TakenStep | None) -> StepReport:
        events = self.levels.take_events()
        if self.optimizer is not None:
            events = self.optimizer.take_events() + events
        if taken is None:
            return StepReport(float("nan"), batch.size, events=tuple(events))
        if taken.refused:
            self.counts.num_refused += 1
            total = self.counts.num_refused
            _LOGGER.warning("step refused: %s (%d so far)", taken.refused, total)
            events.append(Refusal(None, self.levels.num_steps, taken.refused))
        return StepReport(taken.loss, batch.size, taken.refused, tuple(events))

    @in_own_modes
    def end_experience(self, loader: Iterable[Any] | None = None) -> None:
        """Say that an experience is over; the default plan does not need to be told.

        Args:
            loader: its batches once more, for methods of `retain` that measure on them.

        Raises:
            DataError: a method needs the examples and there is no loader.
        """
        with self._lock:
            self.protections.end_experience(loader, self.device)
            self.counts.num_experiences += 1
            if self._writer is not None:
                for reading in self.read_levels():
                    write_reading(self._writer, reading, self.counts.num_examples)

    # --- answering

    def predict(self, x: Any, *, task: int | None = None) -> Tensor:
        """Predict labels, or values: the most probable class of each row, or its estimate.

        Args:
            x: inputs (N, ...): a tensor, a tuple of several, or a dict of keyword inputs (a
                target in it is ignored).
            task: restrict the answer to the classes seen under this task label.

        Returns: classes (N,) int64, or (N, T) / (N, H, W) where targets are sequences or dense;
            or values (N, M) float32. On the CPU.

        Before anything is learned a plan with someone `outside` (the default for pre-trained
        models) answers as the model that was given: by classes if that gives two outputs or more
        per row and `num_classes` is None, else by values.

        Raises:
            NotFitted: nothing was learned yet, and nobody is outside.
            DataError: the inputs cannot be read.
            NonFiniteInput: nobody has a finite answer.
        """
        answer, kind = self._answer(x, task, None)
        return answer.argmax(dim=-1) if kind == "classification" else answer

    def predict_proba(self, x: Any, *, task: int | None = None) -> Tensor:
        """Predict class probabilities; arguments and errors as for `predict`.

        Returns: (N, K), or (N, T, K) / (N, H, W, K) where targets are sequences or dense; each row
            sums to 1. On the CPU; float32.

        Raises:
            DataError: the targets are values, not classes.
        """
        answer, kind = self._answer(x, task, None)
        if kind == "regression":
            raise DataError("the targets are values, which have no probabilities; use predict")
        return answer

    def evaluate(self, x: Any, y: Tensor | None = None, *, task: int | None = None) -> float:
        """Accuracy in [0, 1] (classification), or R squared (regression), of the answers."""
        batch = read_batch(x if y is None else (x, y))
        if batch.target is None:
            raise DataError("evaluate needs targets; give evaluate(x, y)")
        kind: Task = "regression" if batch.target.is_floating_point() else "classification"
        answer, kind = self._answer(batch, task, kind)
        measure = measure_accuracy if kind == "classification" else measure_r_squared
        return measure(answer, batch.target.cpu())

    def _answer(self, x: Any, task: int | None, kind: Task | None) -> tuple[Tensor, Task]:
        """Probabilities or values of the read-out, and which; `kind` if it is known beforehand."""
        # A tuple is several inputs here, never inputs and a target.
        read = read_batch(x if isinstance(x, Batch) else (x,))
        with self._lock:
            batch = Batch(read.inputs, read.keywords).to(self.device)
            check_batch(batch, dtype=self.dtype)
            targets = self.panel.targets
            if kind is None and targets.declared is not None:
                kind = "classification"
            mixed, shape, kind = self.panel.answer(batch, kind)
        if kind == "classification":
            mixed = targets.restrict(mixed, task)
        return mixed.reshape(*shape, mixed.shape[-1]).float(), kind

    # --- controls and readings

    def control(self, name: str, *, reason: str, **knobs: Unpack[Knobs]) -> Change:
        """Turn knobs of a live level; see `NestedOptimizer.control`.

        A memory level has the knob `switch_rate` (of its gate), which counts from the next block
        on.
        """
        with self._lock:
            return self.levels.control(name, reason=reason, **knobs)

    def release(self, event: str) -> None:
        """Say that an event has happened, for levels frozen until it."""
        with self._lock:
            self.levels.release(event)

    @in_own_modes
    def consolidate(
        self,
        judge: Judge | None = None,
        *,
        change: str | Callable[[nn.Module], object] = "merge",
        tolerance: float = 0.0,
    ) -> Proposal:
        """Propose a change of slow weights; it is tried on a copy, judged, then kept or refused.

        Args:
            judge: model -> `Verdict`, bool or score (higher is better); None for the loss
                on the replay store.
            change: "merge" folds low-rank adapters into the spine; the name of a copy level
                takes its average as the new weights; or a function that alters the model.
            tolerance: how much score may be lost.

        Returns: the settled proposal; on refusal nothing has changed.
        """
        with self._lock:
            replay = self.protections.replay
            # Scored by their loss, values would have to be on the scale of the outputs.
            stored = replay if self.task == "classification" else None
            judge = judge or judge_by_replay(stored, self.loss, self.device)
            proposal, refitted = consolidate(
                self.levels, change, judge, tolerance, replay, self.device
            )
            for name in refitted:
                self.panel.forget_held(name)
            return proposal

    def read_levels(self) -> list[LevelReading]:
        """How every level stands; a memory level counts an update per example."""
        with self._lock:
            return self.levels.read()

    @property
    def plan(self) -> Plan:
        """What learns how fast, what is remembered, and who answers."""
        return self.levels.plan

    @property
    def task(self) -> Task | None:
        """What is predicted: "classification", "regression", or None before the first batch."""
        return self.panel.targets.task

    @property
    def readout(self) -> Readout | None:
        """Whom the answers believe; None before the first batch."""
        return self.panel.readout

    # --- saving

    def export(self) -> nn.Module:
        """A plain module with the read-out baked in: probabilities or values from inputs."""
        with self._lock:
            return export_readout(self.panel.readout, self.panel.experts)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step and the next answer depend on; tensors are copies."""
        with self._lock:
            parts = {name: part.state_dict() for name, part in self._list_parts().items()}
            return {"plan": self.plan.to_data(), **parts}

    @in_own_modes
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken, with the same model and plan.

        Raises:
            ForeignSnapshot: of another model or plan; nothing is changed then.
        """
        with self._lock, self._early.following(read_plan(state)):
            load_all(self._list_parts(), state)

    def _list_parts(self) -> dict[str, Part]:
        """Each owns its state; in the order in which they are loaded."""
        return {
            "head": self._head,
            "levels": self.levels,
            "protections": self.protections,
            "panel": self.panel,
            "counts": self.counts,
            "draws": self._draws,
        }

    def snapshot(self, path: Path | str) -> None:
        """Save everything that the next step and the next answer depend on, atomically.

        A folder: a manifest, and one file per level named by its content, so that a level that did
        not change since the last snapshot is not written again. Torch's own generator is saved
        too, since dropout draws from it.
        """
        with self._lock:
            known = () if self._last_snapshot is None else (self._last_snapshot,)
            files = split_state(self.state_dict())
            write_snapshot(Path(path), files, kind=_SNAPSHOT, schema=_SCHEMA, reuse=known)
            self._last_snapshot = Path(path)

    def restore(self, path: Path | str) -> None:
        """Go on exactly where `snapshot` was taken, with the same model and plan.

        Raises:
            SnapshotError: missing, truncated, changed, or of another model or plan; nothing
                is changed then.
        """
        files = read_snapshot(Path(path), kind=_SNAPSHOT, schema=_SCHEMA)
        self.load_state_dict(join_state(files))

    def copy(self) -> "Learner":
        """A learner that goes on from here by itself: model, levels, memories and all else.

        `copy.deepcopy` does the same, and a learner can be pickled. A writer stays with the first.

        >>> import nestling as nl
        >>> learner = nl.Learner(nn.Sequential(nn.Linear(2, 2)))
        >>> twin = learner.copy()
        >>> _ = twin.learn(torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))
        >>> learner.counts.num_examples, twin.counts.num_examples
        (0, 4)
        """
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {k: v for k, v in vars(self).items() if k not in ("_lock", "_writer")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock(), _writer=None)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Learner":
        with self._lock:  # for as long as it takes, so that nobody learns meanwhile
            twin = object.__new__(type(self))
            memo[id(self)] = twin
            twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
            return twin

    def _ask_judge(self, _: str) -> bool:
        assert self._judge is not None
        return self._judge(self.model)
