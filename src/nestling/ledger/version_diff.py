"""What differs between two versions of a model: per level, and in what they answer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from nestling.core.errors import ShapeMismatch
from nestling.core.params import Params, cosine, digest_tensors, relative_change, subtract
from nestling.ledger.version_record import VersionRecord


@dataclass(frozen=True)
class LevelDiff:
    """Difference of one level between two versions.

    Attributes:
        level: its name.
        is_equal: bit for bit, by digest.
        relative_change: ||after - before|| / ||before|| over all its tensors.
        cosine: of the angle between its tensors before and after, each seen as one vector.
        largest_change: of a single entry, in absolute value.
        num_changed: tensors that are not the same bits.
        num_tensors: of the level, before and after together.
        cosine_of_changes: between its change here and the one before this; None without a third
            version.
    """

    level: str
    is_equal: bool
    relative_change: float
    cosine: float
    largest_change: float
    num_changed: int
    num_tensors: int
    cosine_of_changes: float | None = None

    def to_record(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Flips:
    """Answers that changed between two versions on the same rows.

    Attributes:
        num_rows: that both answered.
        num_changed: rows with another answer.
        num_lost: right before, wrong after (negative flips).
        num_gained: wrong before, right after.
    """

    num_rows: int
    num_changed: int
    num_lost: int
    num_gained: int


def diff_level(
    level: str, before: Params, after: Params, earlier: Params | None = None
) -> LevelDiff:
    """Compare a level's tensors in two versions, or in three.

    What one side lacks, in names or rows, counts as zeros there: what grew is a change from zero.

    Args:
        level: its name.
        before: name -> tensor, any shapes and dtypes.
        after: name -> tensor.
        earlier: as it was one version before `before`.

    Raises:
        ShapeMismatch: a tensor has other dimensions on the two sides.

    >>> one = {"w": torch.tensor([3.0, 4.0])}
    >>> found = diff_level("head", one, {"w": torch.tensor([3.0, 9.0])})
    >>> found.is_equal, found.relative_change, found.largest_change, found.num_changed
    (False, 1.0, 5.0, 1)
    """
    names = before.keys() | after.keys()
    changed = [
        name
        for name in names
        if name not in before
        or name not in after
        or digest_tensors({"": before[name]}) != digest_tensors({"": after[name]})
    ]
    if not changed and earlier is None:
        return LevelDiff(level, True, 0.0, 1.0, 0.0, 0, len(names))
    sides = [before, after] if earlier is None else [before, after, earlier]
    old, new, *first = pad_together(*sides)
    change = subtract(new, old)
    of_changes = cosine(subtract(old, first[0]), change) if first else None
    largest = max((float(one.abs().max()) for one in change.values() if one.numel()), default=0.0)
    return LevelDiff(
        level,
        not changed,
        relative_change(old, new) if changed else 0.0,
        cosine(old, new) if changed else 1.0,
        largest,
        len(changed),
        len(names),
        of_changes,
    )


class SavedModel(Protocol):
    """Protocol of a version on disk: its levels by name, each read from its own file.

    Attributes:
        path: folder of the snapshot.
    """

    path: Path

    def __iter__(self) -> Iterator[str]:
        """Names of the levels."""

    @property
    def plan(self) -> Any:
        """Of which levels it is, as plain data."""

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """What the digest of a level is made of, by name."""


def digest_levels(saved: SavedModel) -> dict[str, str]:
    """SHA-256 digest of each level of a version on disk."""
    return {name: digest_tensors(saved.read_tensors(name)) for name in saved}


def measure_changes(
    before: SavedModel,
    after: SavedModel,
    digests_before: Mapping[str, str],
    digests_after: Mapping[str, str],
) -> dict[str, float]:
    """Relative change of each level that both versions have; only what changed is read.

    Args:
        before: a version.
        after: a later one.
        digests_before: level -> digest, of `before`.
        digests_after: level -> digest, of `after`.
    """
    return {
        name: 0.0
        if digests_before[name] == digest
        else measure_change(before.read_tensors(name), after.read_tensors(name))
        for name, digest in digests_after.items()
        if name in digests_before
    }


def diff_versions(
    before: SavedModel,
    after: SavedModel,
    earlier: SavedModel | None = None,
    levels: Sequence[str] | None = None,
) -> list[LevelDiff]:
    """Compare the levels that two versions have, one level in memory at a time.

    Args:
        before: a version.
        after: another.
        earlier: the one before `before`, for the cosine of the two changes.
        levels: to be compared; None for all that both have.
    """
    known = set(before)
    older = set() if earlier is None else set(earlier)
    return [
        diff_level(
            name,
            before.read_tensors(name),
            after.read_tensors(name),
            None if earlier is None or name not in older else earlier.read_tensors(name),
        )
        for name in (levels or after)
        if name in known
    ]


def measure_change(before: Params, after: Params) -> float:
    """||after - before|| / ||before||, where what one side lacks counts as zeros there.

    >>> measure_change({"w": torch.ones(1)}, {"w": torch.ones(2)})
    1.0
    """
    old, new = pad_together(before, after)
    return relative_change(old, new)


def pad_together(*sides: Params) -> list[dict[str, Tensor]]:
    """Mappings as float64 of the same names and shapes: zeros where a side has nothing.

    Args:
        sides: name -> tensor; a tensor may have other sizes, not another number of dimensions.

    Raises:
        ShapeMismatch: a tensor has other dimensions on two sides.

    >>> pad_together({"w": torch.ones(1)}, {"w": torch.ones(2)})[0]["w"]
    tensor([1., 0.], dtype=torch.float64)
    """
    padded: list[dict[str, Tensor]] = [{} for _ in sides]
    for name in sorted({name for side in sides for name in side}):
        shapes = [tuple(side[name].shape) for side in sides if name in side]
        if len({len(shape) for shape in shapes}) > 1:
            raise ShapeMismatch(
                f"{name!r} has the shapes {shapes} in the versions; compare versions of one model"
            )
        shape = [max(sizes) for sizes in zip(*shapes, strict=True)]
        for made, side in zip(padded, sides, strict=True):
            made[name] = _pad(side.get(name), shape)
    return padded


def _pad(tensor: Tensor | None, shape: list[int]) -> Tensor:
    """As float64 of a shape, zeros behind."""
    if tensor is None:
        return torch.zeros(shape, dtype=torch.float64, device="cpu")
    wide = tensor.detach().cpu().double()
    room = [pad for have, want in zip(wide.shape, shape, strict=True) for pad in (want - have, 0)][
        ::-1
    ]
    return functional.pad(wide, room) if any(room) else wide


def compare_behaviour(
    before: VersionRecord, after: VersionRecord, lines: list[Mapping[str, Any]] | None = None
) -> dict[str, tuple[float | None, float | None]]:
    """Figures of probes in two versions side by side: "probe/view" -> (before, after).

    Args:
        before: a version.
        after: another.
        lines: of `probes.jsonl`, which name probe, view and version; beside what the records hold.

    Returns: None where a version has no such figure.

    >>> one, two = (
    ...     VersionRecord(id, 0.0, "learned", "s", {}, behaviour={"auc/spine": value})
    ...     for id, value in (("v0001", 0.75), ("v0002", 0.5))
    ... )
    >>> compare_behaviour(one, two)
    {'auc/spine': (0.75, 0.5)}
    """
    found: list[dict[str, float]] = []
    for version in (before, after):
        figures = {
            f"{line.get('probe')}/{line.get('view')}": float(line["value"])
            for line in lines or ()
            if line.get("version") == version.id and line.get("value") is not None
        }
        found.append(figures | dict(version.behaviour))
    names = sorted(found[0].keys() | found[1].keys())
    return {name: (found[0].get(name), found[1].get(name)) for name in names}


def count_flips(before: Tensor, after: Tensor, target: Tensor) -> Flips:
    """Count the answers that changed, and among them those that became wrong or right.

    Args:
        before: (N,) answers of one version, classes.
        after: (N,) of the other.
        target: (N,) right classes.

    Raises:
        ShapeMismatch: they are not as many.

    >>> count_flips(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 2]), torch.tensor([0, 1, 2]))
    Flips(num_rows=3, num_changed=2, num_lost=1, num_gained=1)
    """
    if not before.shape == after.shape == target.shape:
        raise ShapeMismatch(
            f"{tuple(before.shape)} answers before, {tuple(after.shape)} after, "
            f"{tuple(target.shape)} targets; give as many of each"
        )
    was_right, is_right = before == target, after == target
    return Flips(
        len(target),
        int((before != after).sum()),
        int((was_right & ~is_right).sum()),
        int((~was_right & is_right).sum()),
    )
