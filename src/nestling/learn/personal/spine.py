"""What all persons of a learner share: one reading of the frozen model, and the common answer.

Letters: N examples, R rows (one per answer), D what is read, H inputs of the head, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nestling.answer.panel import check_answer
from nestling.answer.targets import TargetSpace
from nestling.core.batches import Batch, check_batch
from nestling.core.errors import (
    DataError,
    ForeignSnapshot,
    NotFitted,
    SettingError,
    ShapeMismatch,
    UnknownLabel,
)
from nestling.core.heads import find_head_layer
from nestling.core.locks import RemadeLock
from nestling.learn.guard import admit, flatten_target
from nestling.learn.personal.footing import (
    FeatureMap,
    FixedFeatures,
    Footing,
    digest_config,
    digest_reader,
)
from nestling.learn.training import Training
from nestling.levels import Levels, Mix
from nestling.levels.memory import LEAST_CODED, MemoryLevel, Rows, make_features
from nestling.levels.taps import align_features
from nestling.memory.checks import check_weights
from nestling.memory.exact.statistics import space_evenly
from nestling.memory.features import Features
from nestling.memory.scout import select_outputs


@dataclass(frozen=True)
class Asked:
    """What the shared levels say of a batch, a row per answer.

    Args:
        read: (R, D) what the common memory reads.
        widths: that make up D.
        head: (R, H) of `read`, what goes into the head; None if that is not read.
        given: (R, K') logits of the frozen model; None beside no `head`.
        common: (R, K) probabilities of the common learner.
        known: (K,) bool: classes that it can answer.
        shape: that the rows have.
    """

    read: Tensor
    widths: tuple[int, ...]
    head: Tensor | None
    given: Tensor | None
    common: Tensor
    known: Tensor
    shape: tuple[int, ...]

    def select(self, kept_R: Tensor | None) -> "Asked":
        """Of some of the rows, (R,) bool; None: all."""
        if kept_R is None:
            return self
        head, given = (None if one is None else one[kept_R] for one in (self.head, self.given))
        read, common = self.read[kept_R], self.common[kept_R]
        return replace(self, read=read, head=head, given=given, common=common)


@dataclass(frozen=True)
class Taught:
    """Labels that can be learned from.

    Args:
        batch: on the model's device.
        labels: (R,).
        weight: (R,) float64.
        kept: (R',) bool, which of all rows have a label; None: all.
        targets: what is predicted.
    """

    batch: Batch
    labels: Tensor
    weight: Tensor
    kept: Tensor | None
    targets: TargetSpace


class Spine:
    """Reads and answers for the persons of one learner; changes nothing of it.

    Args:
        training: of the learner.
        lock: the learner's, held while the common answer is computed and no longer.

    Raises:
        SettingError: the plan has no memory that persons could have a part of, or predicts values.
    """

    def __init__(self, training: Training, lock: RemadeLock) -> None:
        self._training = training
        self._lock = lock
        self._targets: TargetSpace | None = None
        self._fixed: FixedFeatures | None = None
        self._digest: tuple[MemoryLevel, str] | None = None
        find_read_memory(training.levels)
        if training.panel.targets.task == "regression" or training.panel.experts.output_transform:
            raise SettingError("this learner predicts values; a person's levels learn classes")

    @property
    def level(self) -> MemoryLevel:
        """The memory level whose features persons share."""
        return self._training.levels.memories[find_read_memory(self._training.levels)]

    @property
    def switch_rate(self) -> float:
        """Of the learner's gate, and so of a person's."""
        readout = self._training.levels.plan.readout
        return readout.switch_rate if isinstance(readout, Mix) else 1e-3

    def find_head_width(self, widths: Sequence[int]) -> int | None:
        """Of what is read with these widths, how much goes into the head; None if that is not read,
        or there is no head."""
        index = _find_head_tap(self.level)
        return None if index is None else widths[index]

    def place(self, batch: Batch) -> Batch:
        """A batch on the model's device."""
        return batch.to(self._training.step.device)

    def admit(self, batch: Batch, weight: Any) -> Taught:
        """Check a batch with its target, as `Learner.learn` does; raises, or says what is taught.

        Args:
            batch: N >= 1 examples on the model's device.
            weight: (N,), or None.
        """
        target, panel = batch.target, self._training.panel
        assert target is not None
        if target.is_floating_point():
            kind = str(target.dtype).removeprefix("torch.")
            raise DataError(f"targets are {kind}; a person's levels learn classes: use .long()")
        with self._lock:
            targets = panel.targets if panel.targets.task is not None else self._targets
            found = admit(batch, weight, targets or panel.targets, {}, panel.experts.inspect, None)
        if panel.targets.task is None:
            self._targets = found.targets
        _, weight_R = flatten_target(target, check_weights(weight, batch.size))
        assert weight_R is not None
        kept_R = target.reshape(-1).cpu() >= 0 if target.ndim > 1 else None
        return Taught(batch, found.labels, weight_R, kept_R, found.targets)

    def check_batch(self, batch: Batch) -> None:
        """Raise if a batch cannot be read, as `Learner` does."""
        check_batch(batch, self._training.panel.targets.declared)

    def ask(self, batch: Batch) -> Asked:
        """What is read of N examples, and what the common learner answers, in one reading.

        To the common learner it is a question like any other: no bit of its state changes, and its
        next answer is that of a learner that was asked before.

        Raises:
            NotFitted: nothing was learned, and there is no model as given.
            DataError: the batch cannot be read, or values are predicted.
        """
        panel = self._training.panel
        with self._lock, torch.no_grad():
            if panel.targets.task == "regression":
                raise DataError("the learner predicts values; a person's levels learn classes")
            if panel.readout is None:
                rows, mixed, shape = self._ask_given(batch)
            else:
                found = panel.experts.answer(batch)
                mixed, shape = panel.mix(found), found.shape
                rows = found.rows.get(self.level.spec.name) or self._read(batch, shape)
            known_K = panel.experts.find_known(mixed.shape[1])
            head, given = self._find_head(rows, shape)
        check_answer(mixed)
        if known_K is None:
            known_K = torch.ones(mixed.shape[1], dtype=torch.bool, device="cpu")
        return Asked(rows.features, rows.widths, head, given, mixed, known_K, shape)

    def _ask_given(self, batch: Batch) -> tuple[Rows, Tensor, tuple[int, ...]]:
        experts = self._training.panel.experts
        if experts.outside is None:
            raise NotFitted(
                "the common learner has learned nothing and has no model as given; teach it first, "
                "or make it with pretrained=True"
            )
        try:
            rows = self._read(batch, (batch.size,))
        except (DataError, ShapeMismatch):
            early = self._training.early
            if not (early.may_drop and len(self.level.spec.reads) > 1):
                raise
            early.settle(batch)  # as the learner itself would with its first batch
            rows = self._read(batch, (batch.size,))
        output = rows.output if experts.is_lent else None
        mixed, shape, _ = experts.answer_as_given(batch, "classification", output)
        return (rows if shape == (batch.size,) else self._read(batch, shape)), mixed, shape

    def _read(self, batch: Batch, shape: tuple[int, ...]) -> Rows:
        return self.level.read_rows(batch, _make_positions(shape))

    def _find_head(
        self, rows: Rows, shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """The head's input and the frozen model's logits, where both are read."""
        index, output = _find_head_tap(self.level), rows.output
        if index is None or output is None:
            return None, None
        given, _ = align_features(output, _make_positions(shape))
        return rows.features.split(rows.widths, dim=1)[index], given.detach().float().cpu()

    # --- features

    def find_fixed(self, widths: Sequence[int]) -> FixedFeatures:
        """The common memory's features of what is read with these widths, made or not yet.

        Raises:
            NotFitted: they are chosen by the first examples of the common learner.
            ForeignSnapshot: its memory reads other widths.
        """
        fixed = self._fixed
        if fixed is None or fixed.widths != tuple(widths):
            features = self._make_features(widths)
            digest = digest_config(features.read_config())
            fixed = FixedFeatures(tuple(widths), features.num_outputs, digest, {})
            self._fixed = fixed
        return fixed

    def find_map(self, widths: Sequence[int], num_features: int) -> FeatureMap:
        """From rows (R, D) to d evenly spaced features of the common memory, (R, d) float64."""
        fixed = self.find_fixed(widths)
        found = fixed.maps.get(num_features)
        if found is None:
            chosen_d = space_evenly(fixed.num_outputs, num_features)
            found = select_outputs(self._make_features(widths), chosen_d)
            fixed.maps[num_features] = found
        return found

    def _make_features(self, widths: Sequence[int]) -> Features:
        level = self.level
        if level.bank is not None and level.widths == tuple(widths):
            made = level.bank.features
            assert made is not None
            return made
        kind, width = level.spec.coded_kind, sum(widths)
        if kind is not None and not (kind == "auto" and width < LEAST_CODED):
            raise NotFitted(
                f"the features of memory {level.spec.name!r} are chosen by the first examples of "
                "the common learner; teach it first"
            )
        # What these are depends on widths and the plan alone, never on what was read.
        blank = torch.zeros(1, width, dtype=torch.float32, device="cpu")
        return make_features(level.spec, blank, widths, None)

    def find_footing(self, widths: Sequence[int], targets: TargetSpace) -> Footing:
        """What rows of these widths stand on; errors as `find_fixed`."""
        reader, features = self._find_digest(), self.find_fixed(widths).digest
        # Whatever else has been learned is the learner's.
        bare = TargetSpace(
            task="classification", layout=targets.layout, num_outputs=targets.num_outputs
        )
        return Footing(reader, features, tuple(widths), bare)

    def check_footing(self, footing: Footing) -> None:
        """Raise ForeignSnapshot unless it is what is shared now."""
        if footing.reader != self._find_digest():
            raise ForeignSnapshot(
                "learned on another model, or other places in it, than the learner's memory reads; "
                "use the learner that it was learned on"
            )
        if footing.features != self.find_fixed(footing.widths).digest:
            raise ForeignSnapshot(
                "learned on other features than those of the learner's memory; use the learner "
                "that it was learned on"
            )

    def _find_digest(self) -> str:
        """The sha256 of what is read: the frozen model and the places in it."""
        level = self.level
        level, found = self.level, self._digest
        if found is None or found[0] is not level:
            found = (level, digest_reader(level.reader))
            self._fixed, self._digest = None, found
        return found[1]

    def look_again(self) -> None:
        """After the learner was restored: what was found of it may no longer hold."""
        self._fixed, self._digest, self._targets = None, None, None

    # --- consent

    def merge(self, read: Tensor, labels: Tensor, weight: Tensor, footing: Footing) -> None:
        """Let the common memory learn rows as if it had read them itself.

        Args:
            read: (R, D).
            labels: (R,).
            weight: (R,).
            footing: of the rows.

        Raises:
            ForeignSnapshot: it reads otherwise by now.
            DataError: it cannot learn these labels.
        """
        panel, level = self._training.panel, self.level
        with self._lock:
            self.check_footing(footing)
            targets, highest = panel.targets, int(labels.max())
            if targets.declared is not None and highest >= targets.declared:
                raise UnknownLabel(
                    f"label {highest} is outside the declared classes 0..{targets.declared - 1}"
                )
            checked = level.check(Rows(read, footing.widths, None), labels, weight)
            if targets.task is None:
                targets = replace(footing.targets, declared=targets.declared)
            panel.targets = targets.admit(set(labels.tolist()), None)
            level.learn(checked, "classification")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_fixed": None, "_digest": None}  # maps are functions, made anew


def find_read_memory(levels: Levels) -> str:
    """The name of the memory level that reads what never changes.

    Raises:
        SettingError: there is none.
    """
    slow = levels.plan.find_slow_memory()
    names = [slow] if slow is not None else [one.name for one in levels.plan.memories]
    for name in names:
        reader = levels.memories[name].reader
        if reader.module is None or reader.is_frozen:
            return name
    raise SettingError(
        f"{levels.plan!r} has no memory that reads the input or a frozen model, so persons have "
        "nothing to share; nl.Learner(model) has one"
    )


def _find_head_tap(level: MemoryLevel) -> int | None:
    """Which of the things that are read goes into the last linear layer of a frozen model."""
    module = level.reader.module
    found = None if module is None or not level.reader.is_frozen else find_head_layer(module)
    if found is None:
        return None
    taps = enumerate(level.reader.taps)
    return next(
        (i for i, tap in taps if tap and tap.side == "input" and tap.name == found[0]), None
    )


def _make_positions(shape: tuple[int, ...]) -> Tensor | None:
    """A target that leaves no position out; None where there is one answer per example."""
    if len(shape) == 1:
        return None
    return torch.zeros(shape, dtype=torch.long, device="cpu")
