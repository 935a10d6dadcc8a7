"""`Learner`: any module and a plan, learning as data arrive and answering at any time."""

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from nestling.answer.experts import Experts, Form
from nestling.answer.export import export_readout
from nestling.answer.readout import Readout
from nestling.consolidate import Judge, Proposal
from nestling.core.batches import Batch, Loss, default_loss, read_batch
from nestling.core.errors import DataError, NonFiniteInput, NotFitted, SettingError, ShapeMismatch
from nestling.core.modes import eval_modules, has_modes, in_own_modes
from nestling.core.seeds import (
    export_generator,
    export_torch_generators,
    import_generator,
    import_torch_generators,
    make_generator,
)
from nestling.learn import consolidation, learner_state
from nestling.learn.batch_checks import check_batch
from nestling.learn.default import drop_early, make_default_plan, make_replay
from nestling.learn.growth import count_head_rows, resize_head
from nestling.learn.guard import Admitted, admit, check_loader, check_task
from nestling.learn.metrics_writer import Writer, write_reading
from nestling.learn.protection import Protection
from nestling.learn.step import FitReport, StepReport
from nestling.levels import Alarm, Change, LevelReading, NestedOptimizer, Plan
from nestling.levels.control import Knobs
from nestling.levels.memory import MemoryLevel, Rows
from nestling.memory.ridge import Task
from nestling.protect import Retention, take_step

_LOGGER = logging.getLogger("nestling")
_SNAPSHOT = "learner"
_SCHEMA = 2
# Examples between two looks of the read-out's gate: asking the experts costs a forward pass each.
_SCORED_EVERY = 128


class Learner:
    """A model that keeps learning, at several speeds, without forgetting.

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
        retain: what protects the weights, e.g. `nestling.protect.EWC(20.0)`; several add up.
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
        if precision not in (None, "bf16"):
            raise SettingError(
                f"precision {precision!r}; known: 'bf16', or None for the model's own"
            )
        if replay < 0:
            raise SettingError(f"replay={replay}; 0 stores nothing, 200 stores 200 examples")
        self.model = model if device is None else model.to(device)
        first = next(model.parameters(), None)
        self.device = torch.device(device or (first.device if first is not None else "cpu"))
        self.plan = plan or make_default_plan(model, pretrained=pretrained, replay=replay)
        # Not before the first batch is it known what the layers that were chosen give.
        self.may_drop_early = plan is None and pretrained
        self.loss = loss or default_loss
        self.protection = Protection(self.model, retain, self.plan, self.loss)
        self.num_classes = num_classes
        self.seed = seed
        self.precision = precision
        self._judge = judge
        self.optimizer: NestedOptimizer | None = None
        if self.plan.gradient_levels:
            check = None if judge is None else self._ask_judge
            self.optimizer = NestedOptimizer(self.model, self.plan, judge=check, seed=seed)
        outside = self.plan.outside
        names = tuple(name for name in self.plan.answering if name != outside)
        remembering = {spec.name for spec in self.plan.memories}
        slow = next((name for name in names if name in remembering and outside is not None), None)
        self.levels = {
            spec.name: MemoryLevel(spec, self.model, foresees=spec.name == slow)
            for spec in self.plan.memories
        }
        self.rehearsal = make_replay(replay, seed) if replay else None
        self.experts = Experts(
            self.protection.find_reader,
            self.optimizer,
            self.levels,
            names,
            output_transform,
            outside,
        )
        self.readout: Readout | None = None
        self.num_examples = self.num_refused = self.num_experiences = 0
        self.seconds = 0.0
        self.num_built = count_head_rows(model)  # a restored head is never smaller
        self.classes: set[int] = set()
        self.task_classes: dict[int, set[int]] = {}
        self._generator = make_generator(seed, "head")
        self._unscored = 0
        self.dtype = first.dtype if first is not None and first.is_floating_point() else None
        self._norms = [
            module
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._NormBase)
        ]
        self._has_modes = precision is not None or any(map(has_modes, model.modules()))
        self._buffers = list(model.buffers())
        self._lock = threading.RLock()
        self._writer = writer
        for level in self.levels.values():
            self._say(f"memory {level.spec.name!r} reads {level.reader.describe()}")

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
            DataError: the loader yields nothing or can be read only once though `epochs` is
                more, or a batch cannot be learned from.
        """
        check_loader(loader, epochs)
        self.protection.check_loader(loader)
        started, refused_before = time.perf_counter(), self.num_refused
        num_examples = num_steps = 0
        losses: list[float] = []
        for epoch in range(epochs):
            losses = []
            for raw in loader:
                report = self._learn(read_batch(raw).own(), task, None, is_new=epoch == 0)
                num_examples += report.num_examples
                num_steps += not report.refused
                if report.num_examples:
                    losses.append(report.loss)
        if num_examples == 0:
            raise DataError("the loader yields no example; give one with at least one batch")
        self.end_experience(loader)
        return FitReport(
            num_examples=num_examples,
            num_steps=num_steps,
            num_refused=self.num_refused - refused_before,
            loss=sum(losses) / len(losses) if losses else float("nan"),
            seconds=time.perf_counter() - started,
        )

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

        Returns: the loss before the update, and why the step was refused if it was.

        Raises:
            DataError: the batch cannot be learned from; nothing is changed then.
        """
        batch = read_batch(x if y is None else (x, y))
        return self._learn(batch.own(), task, weight, is_new=not again)

    def _learn(
        self, batch: Batch, task: int | None, weight: Tensor | None, *, is_new: bool
    ) -> StepReport:
        with self._lock:
            started = time.perf_counter()
            if any(value.device != self.device for value in batch.inputs) or batch.keywords:
                batch = batch.to(self.device)
            if batch.target is None:
                raise DataError("the batch has no target; give learn(x, y) or a (x, y) batch")
            check_batch(batch, self.num_classes, dtype=self.dtype)
            task = check_task(task)
            self.protection.check(task)
            if batch.size == 0:
                return StepReport(float("nan"), 0)
            if self.may_drop_early and is_new:
                self._settle_reads(batch)
            # Everything that can fail comes before anything that is changed.
            admitted = admit(self, batch, weight, is_new=is_new)
            answers, output, report = self._try_step(batch, admitted, is_new)
            self.protection.note(task)
            self.classes |= admitted.classes
            if task is not None and self.task == "classification":
                self.task_classes.setdefault(task, set()).update(admitted.classes)
            if is_new:
                self._remember(batch, answers, output, admitted)
            self.num_examples += batch.size
            self.seconds += time.perf_counter() - started
            if self._writer is not None:
                self._writer.add_scalar("loss", report.loss, self.num_examples)
            return report

    def _settle_reads(self, batch: Batch) -> None:
        """Leave out of the default what the first batch shows that the model does not give."""
        (level,) = self.levels.values()
        if len(level.spec.reads) > 1:
            try:
                level.read_rows(batch, batch.target)
            except (DataError, ShapeMismatch) as error:
                # Where the last layer cannot be read either it is the batch that is wrong.
                self._read_last_alone()[1].read_rows(batch, batch.target)
                self.drop_early(str(error))
        self.may_drop_early = False

    def _read_last_alone(self) -> tuple[Plan, MemoryLevel]:
        """The default's plan without an early view, and its memory, which is empty yet."""
        (level,) = self.levels.values()
        assert level.bank is None
        assert level.reader.module is not None
        plan = drop_early(self.plan)
        # Of the model as it was given, not as it is now.
        return plan, MemoryLevel(plan.memories[0], level.reader.module, foresees=level.foresees)

    def drop_early(self, reason: str) -> None:
        """Let the default's memory, which must be empty, read the last linear layer alone."""
        self.plan, alone = self._read_last_alone()
        self.levels[alone.spec.name] = alone
        self._say(f"memory {alone.spec.name!r} reads {alone.reader.describe()}: {reason}")

    def _try_step(
        self, batch: Batch, admitted: Admitted, is_new: bool
    ) -> tuple[list[Tensor] | None, Tensor | None, StepReport]:
        """What the experts answer before the step, the model's output in it, and the step; undone
        if one raises."""
        is_first, width = self.readout is None, admitted.form.num_outputs
        grows = admitted.num_outputs > width
        drawn = self._list_generators(grows)
        states = [export_generator(generator) for generator in drawn]
        torch_states = export_torch_generators(self.device)
        if self.readout is None:
            assert admitted.form.task is not None
            self.experts.form = admitted.form
            self.readout = Readout(self.plan, admitted.form.task)
        try:
            answers = self._ask_experts(batch, admitted.read) if is_new else None
            if grows:
                self.protection.check_growth()
                self._say(f"head grown from {width} to {admitted.num_outputs} classes")
                self._resize(admitted.num_outputs)
            return answers, *self._step(batch, is_new)
        except Exception as error:
            if not isinstance(error, Warning):  # an alarm comes after the step
                if self.experts.form.num_outputs > width:
                    self._resize(width)
                for generator, state in zip(drawn, states, strict=True):
                    import_generator(generator, state)
                import_torch_generators(self.device, torch_states)
            if is_first:
                self.readout = None
                self.experts.form = Form(None)
            raise

    def _ask_experts(self, batch: Batch, read: dict[str, Rows]) -> list[Tensor] | None:
        """Every block of examples, what each expert answers before it learns them.

        Where someone knows outside a memory, that is asked of every batch: of all but the memory,
        which will say what it foresaw, or, if the others cost a forward pass, of the given model.
        """
        assert self.readout is not None
        is_due = self._unscored + batch.size >= _SCORED_EVERY
        if self.readout.outside is not None:
            given = self.experts.ask_given(batch, read)
            is_asked = is_due and not self._is_heard_in_training
            others = self.experts.answer_cheaply(batch, read) if is_asked else None
            return [given, *(others or [])]
        if self.readout.gate is None or not is_due:
            return None
        return self.experts.answer_cheaply(batch, read)

    @property
    def _is_heard_in_training(self) -> bool:
        """Whether the forward pass of training says what the one moving expert would answer."""
        moving = [name for name in self.experts.names if name != self.experts.slow]
        return moving == ["live"] and not self.protection.methods and not self._has_modes

    def _remember(
        self,
        batch: Batch,
        answers: list[Tensor] | None,
        output: Tensor | None,
        admitted: Admitted,
    ) -> None:
        """Let the gate and the memories learn a batch that they have not seen.

        Args:
            batch: that was learned.
            answers: what `_ask_experts` gave before the step.
            output: of the model in the step, before its update; None if there was no step.
            admitted: what was found out about the batch.
        """
        readout, labels = self.readout, admitted.labels
        assert readout is not None
        target = labels.reshape(len(labels), -1) if self.task == "regression" else labels
        if readout.gate is not None:
            self._unscored += len(labels)
            compared = admitted.read.get(readout.compares or "")
            readout.count(labels, None if compared is None else compared.features)
        if readout.outside is not None:
            assert answers is not None
            others = answers[1:]
            if output is not None and self._is_heard_in_training:
                others = self.experts.answer_cheaply(batch, admitted.read, output) or []
            clock = self.levels[self.experts.slow].clock
            readout.hold(clock, target, answers[0], others)
            self._unscored = 0 if others else self._unscored
        elif readout.gate is not None and answers is not None:
            self._unscored = 0
            readout.observe(answers, target)
        for name, level in self.levels.items():
            foreseen = level.learn(admitted.checked[name], admitted.form.task or "classification")
            if name == self.experts.slow:
                for foresight in foreseen:
                    readout.hear(foresight)

    def _resize(self, num_outputs: int) -> None:
        resize_head(self.model, self.optimizer, num_outputs, generator=self._generator)
        self.experts.form = replace(self.experts.form, num_outputs=num_outputs)

    def _list_generators(self, grows: bool) -> list[torch.Generator]:
        """Which of its own a step draws from."""
        stored = [] if self.rehearsal is None else self.rehearsal.list_generators()
        stored += self.protection.list_generators()
        return [self._generator, *stored] if grows else stored

    def _step(self, batch: Batch, is_new: bool) -> tuple[Tensor | None, StepReport]:
        if self.optimizer is None:
            return None, StepReport(float("nan"), batch.size)
        if not self.model.training:
            self.model.train()
        replay = () if self.rehearsal is None else (self.rehearsal,)
        # One example has no statistics of its own: the running ones are used, and stand still.
        with eval_modules(self._norms if batch.size == 1 else ()):
            step = take_step(
                self.model,
                self.optimizer,
                batch,
                (*replay, *self.protection.methods),
                loss=self.loss,
                precision=self._autocast(),
                buffers=self._buffers,
                is_new=is_new,
            )
        if step.refused:
            self.num_refused += 1
            _LOGGER.warning("step refused: %s (%d so far)", step.refused, self.num_refused)
        return step.output, StepReport(step.loss, batch.size, step.refused)

    @in_own_modes
    def end_experience(self, loader: Iterable[Any] | None = None) -> None:
        """Say that an experience is over; the default plan does not need to be told.

        Args:
            loader: its batches once more, for methods of `retain` that measure on them.

        Raises:
            DataError: a method needs the examples and there is no loader.
        """
        with self._lock:
            self.protection.end_experience(loader, self.device)
            self.num_experiences += 1
            if self._writer is not None:
                for reading in self.read_levels():
                    write_reading(self._writer, reading, self.num_examples)

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
        answer, kind = self._answer(x, task)
        return answer.argmax(dim=-1) if kind == "classification" else answer

    def predict_proba(self, x: Any, *, task: int | None = None) -> Tensor:
        """Predict class probabilities; arguments and errors as for `predict`.

        Returns: (N, K), or (N, T, K) / (N, H, W, K) where targets are sequences or dense; each row
            sums to 1. On the CPU; float32.

        Raises:
            DataError: the targets are values, not classes.
        """
        answer, kind = self._answer(x, task)
        if kind == "regression":
            raise DataError("the targets are values, which have no probabilities; use predict")
        return answer

    def _answer(self, x: Any, task: int | None) -> tuple[Tensor, Task]:
        with self._lock:
            # A tuple is several inputs here, never inputs and a target.
            batch = read_batch(x if isinstance(x, Batch) else (x,)).to(self.device)
            batch = Batch(batch.inputs, batch.keywords)
            check_batch(batch, dtype=self.dtype)
            return self._predict(batch, task, None)

    def _predict(self, batch: Batch, task: int | None, kind: Task | None) -> tuple[Tensor, Task]:
        """What the read-out answers to a checked batch: probabilities or values, and which.

        Args:
            batch: without a target.
            task: as in `predict`.
            kind: what is predicted, if it is known.
        """
        if self.readout is None:
            if self.experts.outside is None:
                raise NotFitted("the learner has learned nothing yet; call fit or learn first")
            kind = kind or ("classification" if self.num_classes is not None else None)
            mixed, shape, kind = self.experts.answer_as_given(batch, kind)
        else:
            found = self.experts.answer(batch)
            compared = found.read.get(self.readout.compares or "")
            mixed = self.readout.mix(found.by_expert, compared, found.knowers)
            kind, shape = self.readout.task, found.shape
        _check_answers(mixed)
        if kind == "classification":
            mixed = self._restrict(mixed, task)
        return mixed.reshape(*shape, mixed.shape[-1]).float(), kind

    def evaluate(self, x: Any, y: Tensor | None = None, *, task: int | None = None) -> float:
        """Accuracy in [0, 1] (classification), or R squared (regression), of `predict`."""
        batch = read_batch(x if y is None else (x, y))
        if batch.target is None:
            raise DataError("evaluate needs targets; give evaluate(x, y)")
        kind: Task = "regression" if batch.target.is_floating_point() else "classification"
        with self._lock:
            known = Batch(batch.inputs, batch.keywords).to(self.device)
            check_batch(known, dtype=self.dtype)
            answer, kind = self._predict(known, task, kind)
        target = batch.target.cpu()
        if kind == "classification":
            kept = target >= 0
            return float((answer.argmax(dim=-1)[kept] == target[kept]).float().mean())
        if target.numel() != answer.numel():
            raise ShapeMismatch(
                f"answers of shape {tuple(answer.shape)} for targets of shape "
                f"{tuple(target.shape)}; give one value per output"
            )
        target = target.reshape(answer.shape).float()
        spread = (target - target.mean(dim=0)).square().sum()
        return float(1.0 - (answer - target).square().sum() / spread)

    # --- controls and readings

    def control(
        self, name: str, *, reason: str, switch_rate: float | None = None, **knobs: Unpack[Knobs]
    ) -> Change:
        """Turn knobs of a live level; see `NestedOptimizer.control` for all but memories.

        A memory level has the knob `switch_rate` (fixed share of its gate), which counts from the
        next block on.
        """
        with self._lock:
            if name in self.levels:
                return consolidation.control_memory(self, name, reason, switch_rate, dict(knobs))
            if switch_rate is not None:
                raise SettingError(f"level {name!r} is no memory and has no knob 'switch_rate'")
            if self.optimizer is None:
                self.plan.find(name)
                raise SettingError("the plan has no gradient level whose knobs could be turned")
            return self.optimizer.control(name, reason=reason, **knobs)

    def release(self, event: str) -> None:
        """Say that an event has happened, for levels frozen until it."""
        with self._lock:
            if self.optimizer is None:
                raise SettingError(f"no level waits for event {event!r}")
            self.optimizer.release(event)

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
            judge: model -> `Verdict`, bool or score (higher is better); None for the accuracy
                on the replay store.
            change: "merge" folds low-rank adapters into the spine; the name of a copy level
                takes its average as the new weights; or a function that alters the model.
            tolerance: how much score may be lost.

        Returns: the settled proposal; on refusal nothing has changed.
        """
        with self._lock:
            return consolidation.consolidate(self, judge, change, tolerance)

    def read_levels(self) -> list[LevelReading]:
        """How every level stands; a memory level counts an update per example."""
        with self._lock:
            readings = [] if self.optimizer is None else self.optimizer.read_levels()
            return readings + [level.read() for level in self.levels.values()]

    @property
    def task(self) -> Task | None:
        """What is predicted: "classification", "regression", or None before the first batch."""
        return self.experts.form.task

    @property
    def memories(self) -> dict[str, Any]:
        """The banks of the memory levels that have learned something, by name."""
        return {name: level.bank for name, level in self.levels.items() if level.bank is not None}

    @property
    def alarms(self) -> list[Alarm]:
        """Alarms of dead or runaway levels so far."""
        return [] if self.optimizer is None else list(self.optimizer.alarms)

    # --- saving

    def export(self) -> nn.Module:
        """A plain module with the read-out baked in: probabilities or values from inputs."""
        with self._lock:
            return export_readout(self.readout, self.experts)

    def snapshot(self, path: Path | str) -> None:
        """Save everything that the next step and the next answer depend on, atomically.

        Torch's own generator is saved too, since dropout draws from it.
        """
        with self._lock:
            learner_state.write_learner(self, Path(path), kind=_SNAPSHOT, schema=_SCHEMA)

    def copy(self) -> "Learner":
        """A learner that goes on from here by itself: model, levels, memories and all else.

        `copy.deepcopy` does the same, and a learner can be pickled. A writer stays with the first.

        >>> import nestling as nl
        >>> learner = nl.Learner(nn.Sequential(nn.Linear(2, 2)))
        >>> twin = learner.copy()
        >>> _ = twin.learn(torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))
        >>> learner.num_examples, twin.num_examples
        (0, 4)
        """
        return copy.deepcopy(self)

    @in_own_modes
    def restore(self, path: Path | str) -> None:
        """Go on exactly where `snapshot` was taken, with the same model and plan.

        Raises:
            SnapshotError: missing, truncated, changed, or of another model or plan; nothing
                is changed then.
        """
        with self._lock:
            learner_state.read_learner(self, Path(path), kind=_SNAPSHOT, schema=_SCHEMA)

    # --- inside

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

    def _restrict(self, probabilities: Tensor, task: int | None) -> Tensor:
        if task is None:
            return probabilities
        if task not in self.task_classes:
            raise DataError(f"task {task} was never learned; known: {sorted(self.task_classes)}")
        kept = torch.zeros(probabilities.shape[-1], dtype=torch.bool)
        kept[sorted(self.task_classes[task])] = True
        # A little everywhere in the task, so that a row without any mass there stays a row.
        inside = (probabilities + 1e-12) * kept
        return inside / inside.sum(dim=-1, keepdim=True)

    def _autocast(self) -> AbstractContextManager[object] | None:
        if self.precision is None:
            return None
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _say(self, text: str) -> None:
        _LOGGER.info(text)


def _check_answers(answers: Tensor) -> None:
    """Raise NonFiniteInput if a row is not finite: nobody who was asked has a finite answer."""
    wrong = (~answers.isfinite()).any(dim=1).nonzero()
    if len(wrong):
        raise NonFiniteInput(
            f"the model's answer to row {int(wrong[0])} is not finite and nothing else knows one; "
            "mend the model or its inputs"
        )
