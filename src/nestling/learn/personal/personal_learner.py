"""`PersonalLearner`: one person's own fast levels on a learner's shared slow ones."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from nestling.core.batches import Batch, read_batch
from nestling.core.errors import (
    DataError,
    ForeignSnapshot,
    MergeError,
    NestlingError,
    SettingError,
)
from nestling.core.locks import RemadeLock
from nestling.core.modes import in_own_modes
from nestling.judge.scores import measure_accuracy
from nestling.learn.personal.footing import Footing
from nestling.learn.personal.own_levels import (
    OwnLevels,
    count_bytes,
    make_own_levels,
    read_own_levels,
)
from nestling.learn.personal.spine import Asked, Spine, Taught
from nestling.learn.personal.waiting_rows import WaitingRows
from nestling.learn.reports import StepReport
from nestling.levels import LevelReading
from nestling.memory.checks import check_inputs, check_labels
from nestling.store import read_snapshot, write_snapshot

_LOGGER = logging.getLogger("nestling")
_KIND, _SCHEMA = "person", 1
_LEAST_PROBABILITY = 1e-7
_EMPTY: Mapping[str, Any] = {}


class PersonalLearner:
    """Personal learner: one person's own fast levels on the shared slow levels of a learner.

    Its own are a memory on some of the common memory's features, a low-rank adapter on the given
    model's head, and a gate that finds out from every example whom to believe: the own memory, the
    common learner, or the adapter, by how familiar an input is to the own memory. What it learns
    changes nothing of the common learner, nor of another person. Methods may be called from
    several threads.

    `learner.personal(name)` makes it.

    Args:
        name: of the person.
        spine: what is shared.
        shares: whether rows are kept for `learner.merge`.
        max_bytes: of the state, but for rows that wait to be merged.
        note_use: told the name after each use; see `Roster`.

    >>> import torch
    >>> import nestling as nl
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)
    ... )
    >>> anna = nl.Learner(model, pretrained=True).personal("anna")
    >>> x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> for start in range(0, 64, 8):
    ...     report = anna.learn(x[start : start + 8], y[start : start + 8])
    >>> anna.evaluate(x, y) > 0.9, anna.num_examples, list(anna.levels)
    (True, 64, ['memory', 'adapter', 'gate'])
    """

    def __init__(
        self,
        name: str,
        spine: Spine,
        *,
        shares: bool,
        max_bytes: int,
        note_use: Callable[[str], None],
    ) -> None:
        self.name = name
        self.max_bytes = max_bytes
        self._spine = spine
        self._note_use = note_use
        self._lock = RemadeLock()
        self._own: OwnLevels | None = None
        self._waiting: WaitingRows | None = WaitingRows() if shares else None
        self._footing: Footing | None = None

    # --- learning and answering

    @in_own_modes
    def learn(
        self, x: Any, y: Tensor | None = None, weight: Tensor | Sequence[float] | None = None
    ) -> StepReport:
        """Learn one batch of the person's, at once; nobody else's answers change.

        Args:
            x: inputs (N, ...) in any form that `Learner.learn` takes; or a whole batch.
            y: (N,), (N, T) or (N, H, W) classes; None if `x` holds them.
            weight: (N,) >= 0, how much each example counts for the own memory.

        Returns: the loss (mean nats) of the answer that stood before; NaN for an empty batch.

        Raises:
            DataError: the batch cannot be learned from; nothing is changed then.
            NotFitted: the common learner has nothing to answer yet.
        """
        batch = read_batch(x if y is None else (x, y)).own()
        with self._lock:
            report = self._learn(batch, weight)
        self._note_use(self.name)
        return report

    def _learn(self, batch: Batch, weight: Tensor | Sequence[float] | None) -> StepReport:
        if batch.target is None:
            raise DataError("the batch has no target; give learn(x, y) or a (x, y) batch")
        batch = self._spine.place(batch)
        self._spine.check_batch(batch)
        if batch.size == 0:
            return StepReport(float("nan"), 0)
        # Everything that can fail comes before anything that is changed.
        taught = self._spine.admit(batch, weight)
        self._check_spine()
        asked = self._spine.ask(batch).select(taught.kept)
        own, phi_Rd = self._check(asked, taught)
        voices = own.ask(phi_Rd, asked)
        before = asked.common if voices is None else own.gate.mix(voices)
        if self._own is None:
            self._begin(own, asked, taught)
        if self._waiting is not None:
            self._waiting.add(asked.read, taught.labels, taught.weight)
        own.learn(phi_Rd, asked, voices, taught.labels, taught.weight)
        return StepReport(_measure_loss(before, taught.labels), batch.size)

    def _check(self, asked: Asked, taught: Taught) -> tuple[OwnLevels, Tensor]:
        """The own levels, made if need be, and features of the rows; raises, or changes nothing."""
        read = check_inputs(asked.read, sum(asked.widths))
        fixed, own = self._spine.find_fixed(asked.widths), self._own
        num_known = max(asked.common.shape[1], 0 if own is None else own.memory.num_classes)
        labels = check_labels(taught.labels, None, num_known)
        num_outputs = int(labels.max()) + 1
        if own is None:
            num_head_inputs = None if asked.head is None else asked.head.shape[1]
            own = make_own_levels(
                fixed.num_outputs,
                asked.common.shape[1],
                num_head_inputs,
                self._spine.switch_rate,
                self.max_bytes,
            )
        own.check_growth(num_outputs, self.max_bytes)
        return own, self._spine.find_map(asked.widths, own.memory.num_features)(read)

    def _begin(self, own: OwnLevels, asked: Asked, taught: Taught) -> None:
        """The first example has come: from now on it belongs to this spine."""
        self._footing = self._spine.find_footing(asked.widths, taught.targets)
        self._own = own
        adapter = own.adapter
        _LOGGER.info(
            "person %r: own memory on %d of %d features, %s, gate; %s bytes",
            self.name,
            own.memory.num_features,
            self._spine.find_fixed(asked.widths).num_outputs,
            "no adapter (the common memory does not read what goes into the model's head)"
            if adapter is None
            else f"adapter of rank {len(adapter.A)} on the head",
            f"{own.num_bytes:,}",
        )

    def predict(self, x: Any) -> Tensor:
        """Predict the most probable class of each row, (N,), (N, T) or (N, H, W), on the CPU.

        Args:
            x: inputs (N, ...), as for `learn`; a target in a dict is ignored.

        Raises:
            NotFitted: the common learner has nothing to answer yet.
            DataError: the inputs cannot be read.
        """
        return self.predict_proba(x).argmax(dim=-1)

    @in_own_modes
    def predict_proba(self, x: Any) -> Tensor:
        """Predict class probabilities (N, K), ... as `predict`; of a person without examples those
        of the common learner."""
        # A tuple is several inputs here, never inputs and a target.
        batch = read_batch(x if isinstance(x, Batch) else (x,))
        batch = self._spine.place(Batch(batch.inputs, batch.keywords))
        with self._lock:
            self._spine.check_batch(batch)
            self._check_spine()
            asked, own = self._spine.ask(batch), self._own
            mixed, voices = asked.common, None
            if own is not None:
                find_features = self._spine.find_map(asked.widths, own.memory.num_features)
                voices = own.ask(find_features(asked.read), asked)
                mixed = mixed if voices is None else own.gate.mix(voices)
        self._note_use(self.name)
        return mixed.reshape(*asked.shape, mixed.shape[1]).float()

    def evaluate(self, x: Any, y: Tensor | None = None) -> float:
        """Evaluate on a batch: accuracy in [0, 1]."""
        batch = read_batch(x if y is None else (x, y))
        if batch.target is None:
            raise DataError("evaluate needs targets; give evaluate(x, y)")
        if batch.target.is_floating_point():
            raise DataError("evaluate needs classes; convert the targets with .long()")
        return measure_accuracy(self.predict_proba(batch), batch.target.cpu())

    # --- what it is made of

    @property
    def levels(self) -> Mapping[str, Any]:
        """Its own levels by name: "memory", "adapter" (where there is a head that can have one)
        and "gate"; none before the first example."""
        return _EMPTY if self._own is None else self._own

    def read_levels(self) -> list[LevelReading]:
        """Current statistics of its own levels."""
        with self._lock:
            return [level.read() for level in self.levels.values()]

    @property
    def weights(self) -> dict[str, float]:
        """How much who knows is believed about inputs like the person's own; sums to 1."""
        return {"common": 1.0} if self._own is None else self._own.gate.weights

    @property
    def num_examples(self) -> int:
        """Examples that it has learned."""
        return 0 if self._own is None else self._own.memory.num_examples

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors of its state, rows that wait to be merged included."""
        with self._lock:
            own = 0 if self._own is None else self._own.num_bytes
            return own + (0 if self._waiting is None else count_bytes(self._waiting.state_dict()))

    @property
    def shares(self) -> bool:
        """Whether what it learns is kept for `learner.merge`. To say no forgets what waits."""
        return self._waiting is not None

    @shares.setter
    def shares(self, shares: bool) -> None:
        with self._lock:
            if shares != self.shares:
                self._waiting = WaitingRows() if shares else None

    @property
    def num_waiting(self) -> int:
        """Rows that wait to be merged."""
        return 0 if self._waiting is None else len(self._waiting)

    @in_own_modes
    def merge(self) -> int:
        """Let the common memory learn the rows that wait, and empty them; see `Learner.merge`."""
        with self._lock:
            if self._waiting is None:
                raise MergeError(
                    f"person {self.name!r} does not share: nothing was kept to be merged; make it "
                    "with shares=True, or set its shares to True for what comes"
                )
            num = len(self._waiting)
            if num:
                assert self._footing is not None
                try:
                    self._spine.merge(*self._waiting.join(), self._footing)
                except NestlingError as error:
                    raise MergeError(f"person {self.name!r} cannot be merged: {error}") from error
                self._waiting = WaitingRows()
                _LOGGER.info("person %r: %d rows merged into the common memory", self.name, num)
            return num

    def rest(self) -> None:
        """Keep nothing but the state, until it is used again."""
        with self._lock:
            if self._own is not None:
                self._own.memory.rest()

    def standing_still(self) -> RemadeLock:
        """Held in a `with`, nobody else learns or answers as this person."""
        return self._lock

    # --- state

    def _check_spine(self) -> None:
        """Raise ForeignSnapshot if it has learned on another model than is shared now."""
        if self._footing is not None:
            try:
                self._spine.check_footing(self._footing)
            except ForeignSnapshot as error:
                raise ForeignSnapshot(f"person {self.name!r}: {error}") from None

    def state_dict(self) -> dict[str, Any]:
        """Its own levels, and what they stand on by digest; tensors are copies."""
        with self._lock:
            own, footing = self._own, self._footing
            return {
                "footing": None if footing is None else footing.state_dict(),
                "levels": {} if own is None else own.state_dict(),
                "waiting": {} if self._waiting is None else self._waiting.state_dict(),
            }

    @in_own_modes
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken, as this person or another.

        Rows that wait to be merged are taken over only if this person shares.

        Raises:
            ForeignSnapshot: of another model or other features, or of no person, or larger than
                `max_bytes`; nothing is changed.
        """
        with self._lock:
            try:
                found = self._read_state(state)
            except NestlingError as error:
                raise ForeignSnapshot(f"person {self.name!r} cannot take it: {error}") from error
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                reason = " ".join(repr(error).split())
                raise ForeignSnapshot(
                    f"the state is of no person ({reason}); PersonalLearner.state_dict() gives one"
                ) from error
            self._own, self._footing, waiting = found
            if self._waiting is not None:
                self._waiting = waiting
            elif len(waiting):
                _LOGGER.info(
                    "person %r does not share: %d rows that waited are left out",
                    self.name,
                    len(waiting),
                )
        self._note_use(self.name)

    def _read_state(
        self, state: Mapping[str, Any]
    ) -> tuple[OwnLevels | None, Footing | None, WaitingRows]:
        levels, waiting = state["levels"], state["waiting"]
        if state["footing"] is None:
            if levels or waiting:
                raise ValueError("levels that stand on nothing")
            return None, None, WaitingRows()
        footing = Footing.from_state(state["footing"])
        self._spine.check_footing(footing)
        own = read_own_levels(
            levels,
            self._spine.find_fixed(footing.widths).num_outputs,
            self._spine.find_head_width(footing.widths),
            self._spine.switch_rate,
        )
        if own.num_bytes > self.max_bytes:
            raise SettingError(
                f"it has {own.num_bytes:,} bytes, more than max_bytes={self.max_bytes:,}"
            )
        return own, footing, WaitingRows.from_state(waiting, sum(footing.widths))

    def snapshot(self, path: Path | str) -> None:
        """Save its own levels atomically: a folder with a manifest and one file per level."""
        state = self.state_dict()
        levels = {f"level {name}": level for name, level in state.pop("levels").items()}
        write_snapshot(Path(path), {**state, **levels}, kind=_KIND, schema=_SCHEMA)

    def restore(self, path: Path | str) -> None:
        """Go on exactly where `snapshot` was taken, on the same model and features.

        SnapshotError if it is missing, damaged, or of another model: nothing is changed.
        """
        parts = read_snapshot(Path(path), kind=_KIND, schema=_SCHEMA)
        names = [name for name in parts if name.startswith("level ")]
        levels = {name.removeprefix("level "): parts.pop(name) for name in names}
        self.load_state_dict({**parts, "levels": levels})


def _measure_loss(answer_RK: Tensor, label_R: Tensor) -> float:
    """Mean nats of what came, in an answer that may not know its class."""
    width = answer_RK.shape[1]
    found_R = answer_RK.gather(1, label_R.clamp_max(width - 1)[:, None])[:, 0]
    found_R = found_R * (label_R < width)
    return float(-found_R.clamp_min(_LEAST_PROBABILITY).log().mean())
