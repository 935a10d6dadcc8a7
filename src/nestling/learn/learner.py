"""`Learner`: any module and a plan, learning as data arrive and answering at any time."""

import copy
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from nestling.answer.answerer import Answerer, check_probabilities, choose_labels, read_inputs
from nestling.answer.readout import Readout
from nestling.answer.views.restricted import References, RestrictedAnswerer, RestrictedPanel
from nestling.consolidate import Judge, Proposal
from nestling.core.batches import Loss, read_batch
from nestling.core.locks import RemadeLock
from nestling.core.modes import in_own_modes
from nestling.learn.assembly import assemble
from nestling.learn.guard import check_loader, check_pass
from nestling.learn.parts import read_snapshot_state, write_snapshot_state
from nestling.learn.personal import PersonalLearner
from nestling.learn.personal.roster import MAX_BYTES, Roster
from nestling.learn.reports import FitReport, StepReport, Writer
from nestling.levels import Change, LevelReading, Plan
from nestling.levels.control import Knobs
from nestling.memory.ridge import Task
from nestling.protect import Retention, SourceGuard


class Learner:
    """Online continual learning for any PyTorch model: learn batch by batch, predict any time.

    Every batch goes to the memory levels at once, in closed form, and through one training
    step of the gradient levels, each on its own clock; copies follow. The read-out answers
    from any of them or mixes them. Methods may be called from several threads: each waits.

    Args:
        model: any module. It is trained in place; it is not wrapped or changed (but its last
            linear layer gets more outputs if new classes appear and `num_classes` is None).
        plan: which parameters learn how fast, what is remembered, who answers, or the path of its
            TOML file; None for the default, see `make_default_plan`.
        loss: (output, target) -> scalar (); None for cross entropy, on floats for squared error.
        pretrained: for the default plan: whether the model's features are worth keeping.
        replay: examples that may be stored and learned again; 0 stores nothing raw.
        retain: what protects the weights, e.g. `nl.protect.EWC(20.0)`; several add up.
        num_classes: declared number of classes, others are errors; None lets the head grow.
        output_transform: maps outputs to the scale of floating targets, e.g. `torch.sigmoid`.
        device: where the model is moved and batches go; None leaves the model where it is.
        precision: "bf16" for autocast in the forward pass of training; None for the model's.
        judge: asked about updates of levels with `protect`: model -> whether it may stay.
        seed: of replay, copies and new head rows.
        writer: takes metrics by `add_scalar(name, value, step)`: TensorBoard's `SummaryWriter`.
        sources: bounds what one source of rows can do; `learn` must then be told the source.

    Attributes:
        levels: every level of the plan by name, see `nestling.levels.Levels`.
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
        plan: Plan | Path | str | None = None,
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
        sources: SourceGuard | None = None,
    ) -> None:
        self._training = assemble(
            *(model, plan, loss, pretrained, replay, retain, num_classes, output_transform),
            *(device, precision, judge, seed, writer, sources),
        )
        self.model, self.device = self._training.step.model, self._training.step.device
        self.levels, self.optimizer = self._training.levels, self._training.step.optimizer
        self.panel, self.counts = self._training.panel, self._training.counts
        self.protections = self._training.protections
        self._last_snapshot: Path | None = None
        self._lock = RemadeLock()
        self._roster = Roster(self._training, self._lock)

    @in_own_modes
    def fit(self, loader: Iterable[Any], *, epochs: int = 1, task: int | None = None) -> FitReport:
        """Learn one experience: every batch of a loader, `epochs` times; then answers are ready.

        Memories and the read-out's gate see each example once, in the first epoch.

        Args:
            loader: yields batches in any form that `learn` takes; read `epochs` times.
            epochs: passes over the loader; SettingError below 1.
            task: the experience's task label, where the scenario has one.

        Raises:
            DataError: no example, a loader that cannot be read `epochs` times, or as `learn`.
        """
        check_loader(loader, epochs)
        self.protections.check_loader(loader)
        started, reports = time.perf_counter(), list[list[StepReport]]()
        for epoch in range(epochs):
            reports.append([self.learn(raw, task=task, again=epoch > 0) for raw in loader])
            check_pass(sum(report.num_examples for report in reports[-1]), epoch, epochs)
        self.end_experience(loader)
        with self._changing():
            self.panel.finish()
        return FitReport.sum_up(reports, time.perf_counter() - started)

    @in_own_modes
    def learn(
        self,
        x: Any,
        y: Tensor | None = None,
        *,
        task: int | None = None,
        weight: Tensor | Sequence[float] | None = None,
        again: bool = False,
        source: str | Sequence[str] | None = None,
    ) -> StepReport:
        """Learn one batch, at once.

        Args:
            x: inputs (N, ...): a tensor, a tuple of several, or a dict of keyword inputs; or
                a whole batch with its target, as a DataLoader yields it.
            y: (N,), (N, T) or (N, H, W) classes, or floating values; None if `x` holds it.
            task: task label, where the scenario has one.
            weight: (N,) >= 0, how much each example counts for the memories.
            again: it was learned before: memories and the read-out's gate leave it out.
            source: whose rows these are, or (N,) of each; a guard holds what is too much or odd.

        Returns: the loss before the update, why the step was refused if it was, and what else
            happened to the levels. DataError if the batch cannot be learned from; nothing is
            changed then.
        """
        batch = read_batch(x if y is None else (x, y)).own()
        with self._changing():
            return self._training.learn(batch, task, weight, source, is_new=not again)

    @in_own_modes
    def end_experience(self, loader: Iterable[Any] | None = None) -> None:
        """Mark the end of an experience (task boundary); the default plan does not need it.

        Args:
            loader: its batches once more; methods of `retain` that need them raise DataError.
        """
        with self._changing():
            self._training.end_experience(loader)

    def predict(self, x: Any, *, task: int | None = None) -> Tensor:
        """Predict labels (the most probable class of each row) or values.

        Args:
            x: inputs (N, ...), as for `learn`; a target in a dict is ignored.
            task: restrict the answer to the classes seen under this task label.

        Returns: classes (N,) int64, or (N, T) / (N, H, W) where targets are sequences or dense;
            or values (N, M) float32. On the CPU. Before anything is learned a plan with someone
            `outside` (the default for pre-trained models) answers as the model that was given:
            by classes if that gives two outputs or more per row, else by values.

        Raises:
            NotFitted: nothing was learned yet, and nobody is outside.
            DataError: the inputs cannot be read, or nobody has a finite answer.
        """
        return choose_labels(*self._answer(x, task))

    def predict_proba(self, x: Any, *, task: int | None = None) -> Tensor:
        """Predict class probabilities (N, K), ... as `predict`; 0 for classes that never came."""
        return check_probabilities(*self._answer(x, task))

    def answerer(self) -> Answerer:
        """Get an immutable view that answers as this learner does now, for threads that only ask.

        It needs no lock and waits for nobody: while another thread is in the midst of a batch,
        this gives what stood before that batch. Whoever asks for one after each batch or so never
        waits for the next; else what was learned since is put together now.

        Returns: bit for bit the answers of `predict` and `predict_proba` of this moment.
        """
        publisher = self._training.publisher
        publisher.is_asked = True  # first: then whoever ends a batch now publishes
        latest = publisher.latest
        if latest is not None:
            return latest
        with self._lock:
            latest = publisher.latest or self._training.publish()
            publisher.is_asked = True
            return latest

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """The lock; then what others answer from is published anew, if anyone asks for it."""
        with self._lock:
            try:
                yield
            finally:
                if self._training.publisher.latest is not None:
                    self._training.renew_published()

    def restricted_to(
        self, levels: Collection[str], *, references: References | None = None
    ) -> RestrictedAnswerer:
        """Get what answers from some levels only, e.g. the spine without the fast levels.

        Args:
            levels: names of those that answer; memories and copies that are not named are silent.
            references: level -> name -> tensor: where the weights of other gradient levels stand
                meanwhile; low-rank adapters stand at 0 by themselves.
        """
        return RestrictedAnswerer(
            RestrictedPanel(self.panel, levels, references or {}, self.device), self._lock
        )

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """While this is open no other thread learns or answers; what answers is published after."""
        with self._changing():
            yield

    def evaluate(self, x: Any, y: Tensor | None = None, *, task: int | None = None) -> float:
        """Evaluate on a batch: accuracy in [0, 1] for classes, R squared for values."""
        batch = read_batch(x if y is None else (x, y))
        with self._lock:
            return self._training.evaluate(batch, task)

    def _answer(self, x: Any, task: int | None) -> tuple[Tensor, Task]:
        batch = read_inputs(x)
        with self._lock:
            return self._training.answer(batch, task, None)

    def personal(
        self, name: str, *, shares: bool = False, max_bytes: int = MAX_BYTES
    ) -> PersonalLearner:
        """One person's own fast levels on the slow ones of this learner, which they never change.

        Args:
            name: of the person; the same name gives the same object again.
            shares: consent: rows that the person teaches are kept, as they are read, for `merge`.
            max_bytes: of the person's state, but for rows that wait to be merged.
        """
        return self._roster.find(name, shares=shares, max_bytes=max_bytes)

    @property
    def persons(self) -> list[str]:
        """The names of all persons."""
        return self._roster.names

    def forget_person(self, name: str) -> None:
        """Forget a person and all that it learned; SettingError if there is none."""
        self._roster.forget(name)

    def merge(self, name: str) -> int:
        """Let the common memory learn what a person shares: how many rows; MergeError if not."""
        return self._roster.read(name).merge()

    def control(self, name: str, *, reason: str, **knobs: Unpack[Knobs]) -> Change:
        """Change hyperparameters of a live level; see `NestedOptimizer.control`.

        A memory has the knob `switch_rate` (of its gate), which counts from the next block on.
        """
        with self._lock:
            return self.levels.control(name, reason=reason, **knobs)

    def release(self, event: str) -> None:
        """Release the levels that are frozen until this event."""
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
        """Consolidate slow weights: a change is tried on a copy, judged, then kept or refused.

        Args:
            judge: model -> `Verdict`, bool or score (higher is better); None for the replay loss,
                or, of a sleep, for how well it agrees with the memory on other dreams.
            change: "merge" folds low-rank adapters into the spine; the name of a copy level
                takes its average as the new weights; that of a sleep level (`nl.Sleep`) teaches
                what a memory knows; or a function that alters the model.
            tolerance: how much score may be lost.

        Returns: the settled proposal; on refusal nothing has changed.
        """
        with self._changing():
            return self._training.consolidate(judge, change, tolerance)

    def read_levels(self) -> list[LevelReading]:
        """Current statistics of every level; a memory level counts an update per example."""
        with self._lock:
            return self.levels.read() if self.optimizer is None else self.optimizer.read_levels()

    @property
    def plan(self) -> Plan:
        """The plan: levels, copies, memories and read-out."""
        return self.levels.plan

    @property
    def task(self) -> Task | None:
        """What is predicted: "classification", "regression", or None before the first batch."""
        return self.panel.targets.task

    @property
    def readout(self) -> Readout | None:
        """The read-out with the current weights of the experts; None before the first batch."""
        return self.panel.readout

    def export(self) -> nn.Module:
        """Export as a plain `nn.Module` from inputs to probabilities or values."""
        with self._lock:
            return self.panel.export()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step and the next answer depend on; tensors are copies."""
        with self._lock:
            return self._training.state_dict()

    @in_own_modes
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume exactly where `state_dict` was taken; raises as `restore`, nothing changed."""
        with self._changing():
            self._training.load_state_dict(state)
            self._roster.look_again()

    @in_own_modes
    def load_level(
        self, name: str, state: Mapping[str, Any], *, feedback: Iterable[Any] = ()
    ) -> None:
        """Put one level back to a saved state, all others untouched, bit for bit.

        Memories that read the live model are refitted from replay.

        Args:
            name: of the level.
            state: as `levels[name].state_dict()` or `read_level` gave it; or a gradient level's
                tensors alone.
            feedback: batches that the level alone then learns again.

        SettingError if a memory has nothing to be refitted from; nothing is changed then.
        """
        with self._changing():
            self._training.load_level(name, state, feedback)
            self._roster.look_again()

    def snapshot(self, path: Path | str) -> None:
        """Save everything that the next step and the next answer depend on, atomically.

        A folder with a manifest and one file per level, named by its content: a level that did not
        change since the last snapshot is not written again.
        """
        with self._lock:
            write_snapshot_state(Path(path), self.state_dict(), self._last_snapshot)
            self._last_snapshot = Path(path)

    def restore(self, path: Path | str) -> None:
        """Resume exactly where `snapshot` was taken, with the same model and plan.

        SnapshotError if it is missing, damaged, or of another model or plan: nothing is changed.
        """
        self.load_state_dict(read_snapshot_state(Path(path)))

    def copy(self) -> "Learner":
        """Copy the learner, as by `copy.deepcopy`: both go on independently. Pickle works as well.

        >>> Learner(nn.Linear(2, 2)).copy().learn(torch.ones(2, 2), torch.arange(2)).num_examples
        2
        """
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Learner":
        with self._roster.standing_still(), self._lock:  # so that nobody learns meanwhile
            twin = memo[id(self)] = object.__new__(type(self))
            vars(twin).update(copy.deepcopy(vars(self), memo))
            return twin
