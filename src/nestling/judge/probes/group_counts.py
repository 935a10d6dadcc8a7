"""`GroupCounts`: what group fairness needs to know of a stream, as integers that can be merged.

Axis letters: N rows, K classes, G groups of one batch, B bins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import (
    DataError,
    MergeError,
    MismatchedParameters,
    SettingError,
    ShapeMismatch,
)
from nestling.judge.probes.probe_answers import predict_classes

# Confidences are summed as whole numbers of this size: an integer sum is the same in any order.
CONFIDENCE_UNIT = 2.0**-40
# So many of them do not overflow 64 bits.
_MOST_AT_ONCE = 2**22


@dataclass(frozen=True)
class GroupCount:
    """Counts of one group; plain integers, so that sums are exact in any order.

    Attributes:
        num_rows: of the group.
        num_answered_positive: rows whose answer is the positive class.
        num_right: rows whose answer is their target.
        true_positives, false_positives, false_negatives, true_negatives: of the positive class
            against all others, over the rows with a target.
        bin_rows, bin_right: (B,) rows with a target, and right answers, by confidence.
        bin_confidence: (B,) sums of the answers' probabilities, in `CONFIDENCE_UNIT`.
    """

    num_rows: int = 0
    num_answered_positive: int = 0
    num_right: int = 0
    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    true_negatives: int = 0
    bin_rows: tuple[int, ...] = ()
    bin_right: tuple[int, ...] = ()
    bin_confidence: tuple[int, ...] = ()

    @property
    def num_positives(self) -> int:
        """Rows whose target is the positive class."""
        return self.true_positives + self.false_negatives

    @property
    def num_negatives(self) -> int:
        """Rows whose target is another class."""
        return self.false_positives + self.true_negatives

    @property
    def num_labelled(self) -> int:
        """Rows with a target."""
        return self.num_positives + self.num_negatives

    def plus(self, other: "GroupCount") -> "GroupCount":
        """The counts of both together."""
        sums: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            ours, theirs = getattr(self, name), getattr(other, name)
            if isinstance(ours, tuple):
                sums[name] = tuple(a + b for a, b in zip(ours, theirs, strict=True))
            else:
                sums[name] = ours + theirs
        return replace(self, **sums)


@dataclass
class GroupCounts:
    """Streaming group fairness: counts per group that batches update and shards merge.

    One pass over all rows and any merge of shards give the same integers, in any order. A row
    whose answer is not finite counts as the wrong answer, with confidence 1. A row without a
    target (below 0, or none at all) counts in the rate of positive answers only.

    Args:
        positive: the class whose answers are compared between groups.
        num_bins: equal bins of confidence for the calibration error.

    Attributes:
        counts: group -> its counts.

    Raises:
        SettingError: a class below 0, or no bin.

    >>> import torch
    >>> p = torch.tensor([[0.2, 0.8], [0.9, 0.1], [0.4, 0.6]])
    >>> whole, shard = GroupCounts(), GroupCounts()
    >>> whole.update(p[:2], torch.tensor([1, 1]), ["f", "m"])
    >>> shard.update(p[2:], torch.tensor([0]), ["f"])
    >>> whole.merge(shard)
    >>> whole.counts["f"].num_rows, whole.counts["f"].false_positives
    (2, 1)
    """

    positive: int = 1
    num_bins: int = 15
    counts: dict[str, GroupCount] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.positive < 0:
            raise SettingError(f"positive class {self.positive}; 0 or more works, e.g. 1")
        if self.num_bins < 1:
            raise SettingError(f"{self.num_bins} bins; 1 or more works, e.g. 15")

    def update(self, probabilities: Tensor, target: Tensor | None, groups: Sequence[str]) -> None:
        """Count a batch.

        Args:
            probabilities: (N, K); a row with a number that is not finite is a wrong answer.
            target: (N,) classes; below 0 for none.
            groups: (N,) the group of each row.

        Raises:
            ShapeMismatch: probabilities, targets and groups of different lengths.
            DataError: targets that are no whole numbers; nothing is counted.
        """
        _check_batch(probabilities, target, groups)
        for start in range(0, len(groups), _MOST_AT_ONCE):
            rows = slice(start, start + _MOST_AT_ONCE)
            part = None if target is None else target[rows]
            found = _count_batch(
                probabilities[rows], part, groups[rows], self.positive, self.num_bins
            )
            for group, count in found.items():
                self._add(group, count)

    def merge(self, other: "GroupCounts") -> None:
        """Add the counts of another shard.

        Raises:
            MergeError: it counts another class or in other bins; nothing is changed.
        """
        ours, theirs = (self.positive, self.num_bins), (other.positive, other.num_bins)
        if ours != theirs:
            raise MergeError(
                f"counts of class {ours[0]} in {ours[1]} bins and of class {theirs[0]} in "
                f"{theirs[1]}; count all shards with the same settings"
            )
        for group, count in list(other.counts.items()):
            self._add(group, count)

    def state_dict(self) -> dict[str, Any]:
        """All counts as plain data that JSON can hold."""
        counts = {group: asdict(self.counts[group]) for group in sorted(self.counts)}
        for count in counts.values():
            count.update({k: list(v) for k, v in count.items() if isinstance(v, tuple)})
        return {"positive": self.positive, "num_bins": self.num_bins, "counts": counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            MismatchedParameters: of another class or other bins, or counts that cannot be;
                nothing is changed.
        """
        theirs = (state.get("positive"), state.get("num_bins"))
        if theirs != (self.positive, self.num_bins):
            raise MismatchedParameters(
                f"counts of class {theirs[0]} in {theirs[1]} bins for counts of class "
                f"{self.positive} in {self.num_bins}; make them with the same settings"
            )
        given = state.get("counts")
        if not isinstance(given, Mapping):
            raise MismatchedParameters("a state without counts; give what state_dict gave")
        self.counts = {
            str(group): _read_count(group, count, self.num_bins) for group, count in given.items()
        }

    def _add(self, group: str, count: GroupCount) -> None:
        known = self.counts.get(group)
        self.counts[group] = count if known is None else known.plus(count)


def bin_confidences(
    probabilities: Tensor, target: Tensor, num_bins: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence of each answer: its bin, its probability, and whether it is right.

    Args:
        probabilities: (N, K); a row that is not finite is a wrong answer of confidence 1.
        target: (N,) classes.
        num_bins: B, of equal width.

    Returns: bins (N,) int64, confidences (N,) float64 in [0, 1], right (N,) bool.
    """
    probabilities = probabilities.detach().to("cpu", torch.float64)
    answer = predict_classes(probabilities)
    sure = probabilities.gather(1, answer.clamp(min=0)[:, None])[:, 0]
    confidence = torch.where(answer >= 0, sure, 1.0).clamp(0.0, 1.0)
    bins = (confidence * num_bins).long().clamp(max=num_bins - 1)
    return bins, confidence, (answer >= 0) & (answer == target.to("cpu"))


def _check_batch(probabilities: Tensor, target: Tensor | None, groups: Sequence[str]) -> None:
    count = len(groups)
    if probabilities.ndim != 2 or len(probabilities) != count or probabilities.shape[1] == 0:
        raise ShapeMismatch(
            f"probabilities of shape {tuple(probabilities.shape)} for {count} groups; "
            "give (N, K) and the group of each row"
        )
    if target is None:
        return
    if target.shape != (count,):
        raise ShapeMismatch(f"targets of shape {tuple(target.shape)} for {count} rows; give (N,)")
    if target.is_floating_point() or target.is_complex():
        raise DataError(f"targets are {target.dtype}; classes are whole numbers: target.long()")


def _count_batch(
    probabilities: Tensor, target: Tensor | None, groups: Sequence[str], positive: int, bins: int
) -> dict[str, GroupCount]:
    names = list(dict.fromkeys(groups))
    places = {name: place for place, name in enumerate(names)}
    code = torch.tensor([places[group] for group in groups], dtype=torch.long, device="cpu")
    if target is None:
        target = torch.full((len(groups),), -1, dtype=torch.long, device="cpu")
    target = target.detach().to("cpu", torch.long)
    where, confidence, right = bin_confidences(probabilities, target, bins)
    labelled, is_positive = target >= 0, target == positive
    answer = predict_classes(probabilities)
    answered = (answer == positive) | ((answer < 0) & labelled & ~is_positive)
    flags = {
        "num_rows": torch.ones_like(labelled),
        "num_answered_positive": answered,
        "num_right": right & labelled,
        "true_positives": is_positive & answered,
        "false_positives": labelled & ~is_positive & answered,
        "false_negatives": is_positive & ~answered,
        "true_negatives": labelled & ~is_positive & ~answered,
    }
    totals = {
        name: torch.bincount(code[flag], minlength=len(names)).tolist()
        for name, flag in flags.items()
    }
    cell = code * bins + where
    binned = {
        "bin_rows": torch.ones_like(code),
        "bin_right": right.long(),
        "bin_confidence": (confidence / CONFIDENCE_UNIT).round().long(),
    }
    sums = {
        name: torch.zeros(len(names) * bins, dtype=torch.long, device="cpu")
        .index_add_(0, cell[labelled], values[labelled])
        .reshape(len(names), bins)
        .tolist()
        for name, values in binned.items()
    }
    found: dict[str, GroupCount] = {}
    for group, place in places.items():
        counted: dict[str, Any] = {name: total[place] for name, total in totals.items()}
        binned_here: dict[str, Any] = {name: tuple(of[place]) for name, of in sums.items()}
        found[group] = GroupCount(**counted, **binned_here)
    return found


def _read_count(group: object, record: object, num_bins: int) -> GroupCount:
    names = {one.name for one in fields(GroupCount)}
    if not isinstance(record, Mapping) or record.keys() != names:
        raise MismatchedParameters(f"group {group!r}: its counts must be {sorted(names)}")
    read: dict[str, Any] = {}
    for name, value in record.items():
        is_binned = name.startswith("bin_")
        entries = value if is_binned and isinstance(value, list | tuple) else [value]
        if len(entries) != (num_bins if is_binned else 1) or not all(
            isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0
            for entry in entries
        ):
            raise MismatchedParameters(f"group {group!r}: {name} {value!r}; counts from 0 work")
        read[name] = tuple(entries) if is_binned else value
    count = GroupCount(**read)
    if (
        sum(count.bin_rows) != count.num_labelled
        or sum(count.bin_right) != count.num_right
        or not count.num_right <= count.num_labelled <= count.num_rows
    ):
        raise MismatchedParameters(f"group {group!r}: its counts do not add up; take a whole state")
    return count
