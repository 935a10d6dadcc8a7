"""Histograms of centroids: what a leaf keeps of one feature, in bounded room.

A histogram is a sorted list of at most B centres with statistics of the events that fell to each:
weights by class, or (for trees of numbers) weight, sum and sum of squares of the targets. Where a
new value finds no room, the two neighbours that are most alike become one.

Axis letters: L leaves, F features of a leaf, B bins, S statistics (K classes, or 3). Row B of
`counts_LFBS` is the sum of the others.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled

NUM_BINS = 24
# How much unlike classes (or means) hold two neighbours apart, against their distance.
UNLIKE = 0.05
NUMERIC, CATEGORY = 0, 1
# All categories of a full histogram that have no bin share its last one.
OTHERS = -1.0
# Places of the statistics of numbers.
WEIGHT, SUM, SQUARES = range(3)
# Values are kept as float32 differences from the first one; further out is as good as far.
FARTHEST = 1e30

Histograms: TypeAlias = tuple[
    NDArray[np.float64],  # origins_LF
    NDArray[np.int32],  # sizes_LF
    NDArray[np.float32],  # centres_LFB
    NDArray[np.float32],  # costs_LFB
    NDArray[np.float32],  # counts_LFBS, B + 1 rows
]


def make_histograms(num_leaves: int, num_features: int, num_statistics: int) -> Histograms:
    """Empty histograms of a number of leaves, each with that many features.

    Returns:
        `origins_LF`, `sizes_LF` bins in use, `centres_LFB`, `costs_LFB` of merging a bin with its
        right neighbour (once all bins are in use), `counts_LFBS` with one row more for the sum.
    """
    shape = (num_leaves, num_features)
    return (
        np.zeros(shape),
        np.zeros(shape, np.int32),
        np.zeros((*shape, NUM_BINS), np.float32),
        np.zeros((*shape, NUM_BINS), np.float32),
        np.zeros((*shape, NUM_BINS + 1, num_statistics), np.float32),
    )


@compiled
def clear_histograms(histograms: Histograms, leaf: int) -> None:
    """Forget what one leaf knows of all features."""
    origins_LF, sizes_LF, centres_LFB, costs_LFB, counts_LFBS = histograms
    origins_LF[leaf] = 0.0
    sizes_LF[leaf] = 0
    centres_LFB[leaf] = 0.0
    costs_LFB[leaf] = 0.0
    counts_LFBS[leaf] = 0.0


@compiled
def count_below(
    centres_LFB: NDArray[np.float32], leaf: int, feature: int, size: int, value: np.float32
) -> int:
    """How many of the first `size` centres lie below a value."""
    below = 0
    for place in range(size):
        below += centres_LFB[leaf, feature, place] < value
    return below


@compiled
def find_code(
    centres_LFB: NDArray[np.float32], leaf: int, feature: int, size: int, code: np.float32
) -> int:
    """The bin of a category (or that of all others, once there is one), else -1."""
    for place in range(size):
        if centres_LFB[leaf, feature, place] == code:
            return place
    return NUM_BINS - 1 if size == NUM_BINS else -1


@compiled
def relative_value(value: float, origin: float) -> np.float32:
    """A value as histograms keep it."""
    return np.float32(min(max(value - origin, -FARTHEST), FARTHEST))


@compiled
def _pair_cost(
    histograms: Histograms, leaf: int, feature: int, place: int, by_class: bool
) -> float:
    """What is lost when a bin and its right neighbour become one.

    w_i w_j/(w_i + w_j) (UNLIKE |p_i - p_j|^2 + (gap/range)^2), with p the shares of the classes;
    for numbers (m_i - m_j)^2 / variance stands for |p_i - p_j|^2.
    """
    _, _, centres_LFB, _, counts_LFBS = histograms
    num_statistics = counts_LFBS.shape[3]
    last = NUM_BINS - 1
    width = float(centres_LFB[leaf, feature, last]) - float(centres_LFB[leaf, feature, 0])
    gap = float(centres_LFB[leaf, feature, place + 1]) - float(centres_LFB[leaf, feature, place])
    near = gap / width
    unlike = 0.0
    if by_class:
        left = np.float32(0.0)
        right = np.float32(0.0)
        for k in range(num_statistics):
            left += counts_LFBS[leaf, feature, place, k]
            right += counts_LFBS[leaf, feature, place + 1, k]
        share_left = np.float32(1.0) / left
        share_right = np.float32(1.0) / right
        total = np.float32(0.0)
        for k in range(num_statistics):
            apart = (
                counts_LFBS[leaf, feature, place, k] * share_left
                - counts_LFBS[leaf, feature, place + 1, k] * share_right
            )
            total += apart * apart
        unlike = float(total)
    else:
        left = counts_LFBS[leaf, feature, place, WEIGHT]
        right = counts_LFBS[leaf, feature, place + 1, WEIGHT]
        apart_of_means = (
            counts_LFBS[leaf, feature, place, SUM] / left
            - counts_LFBS[leaf, feature, place + 1, SUM] / right
        )
        all_weight = float(counts_LFBS[leaf, feature, NUM_BINS, WEIGHT])
        mean = counts_LFBS[leaf, feature, NUM_BINS, SUM] / all_weight
        variance = counts_LFBS[leaf, feature, NUM_BINS, SQUARES] / all_weight - mean * mean
        if variance > 0.0:
            unlike = min(float(apart_of_means) ** 2 / variance, 2.0)
    weight = float(left) * (float(right) / (float(left) + float(right)))
    return weight * (UNLIKE * unlike + near * near)


@compiled
def _refresh_costs(
    histograms: Histograms, leaf: int, feature: int, first: int, last: int, by_class: bool
) -> None:
    """Costs of the pairs that begin at `first` to `last`, as far as there are such pairs."""
    costs_LFB = histograms[3]
    for place in range(max(first, 0), min(last, NUM_BINS - 2) + 1):
        costs_LFB[leaf, feature, place] = _pair_cost(histograms, leaf, feature, place, by_class)


@compiled
def _open_bin(histograms: Histograms, leaf: int, feature: int, place: int, last: int) -> None:
    """Bins `place` to `last - 1` move one up; the one at `place` is empty then."""
    _, _, centres_LFB, costs_LFB, counts_LFBS = histograms
    for other in range(last, place, -1):
        centres_LFB[leaf, feature, other] = centres_LFB[leaf, feature, other - 1]
        costs_LFB[leaf, feature, other] = costs_LFB[leaf, feature, other - 1]
        for k in range(counts_LFBS.shape[3]):
            counts_LFBS[leaf, feature, other, k] = counts_LFBS[leaf, feature, other - 1, k]
    for k in range(counts_LFBS.shape[3]):
        counts_LFBS[leaf, feature, place, k] = 0.0


@compiled
def _close_bin(histograms: Histograms, leaf: int, feature: int, place: int, last: int) -> None:
    """Bins `place + 1` to `last` move one down; the one at `last` is empty then."""
    _, _, centres_LFB, costs_LFB, counts_LFBS = histograms
    for other in range(place, last):
        centres_LFB[leaf, feature, other] = centres_LFB[leaf, feature, other + 1]
        costs_LFB[leaf, feature, other] = costs_LFB[leaf, feature, other + 1]
        for k in range(counts_LFBS.shape[3]):
            counts_LFBS[leaf, feature, other, k] = counts_LFBS[leaf, feature, other + 1, k]
    for k in range(counts_LFBS.shape[3]):
        counts_LFBS[leaf, feature, last, k] = 0.0


@compiled
def _weigh_bin(histograms: Histograms, leaf: int, feature: int, place: int, by_class: bool) -> float:
    """Weight of the events of one bin."""
    counts_LFBS = histograms[4]
    if not by_class:
        return float(counts_LFBS[leaf, feature, place, WEIGHT])
    weight = np.float32(0.0)
    for k in range(counts_LFBS.shape[3]):
        weight += counts_LFBS[leaf, feature, place, k]
    return float(weight)


@compiled
def _merge_pair(histograms: Histograms, leaf: int, feature: int, place: int, by_class: bool) -> None:
    """A bin takes in its right neighbour, whose place is empty then (not closed)."""
    _, _, centres_LFB, _, counts_LFBS = histograms
    left = _weigh_bin(histograms, leaf, feature, place, by_class)
    right = _weigh_bin(histograms, leaf, feature, place + 1, by_class)
    near = float(centres_LFB[leaf, feature, place])
    gap = float(centres_LFB[leaf, feature, place + 1]) - near
    centres_LFB[leaf, feature, place] = near + gap * (right / (left + right))
    for k in range(counts_LFBS.shape[3]):
        counts_LFBS[leaf, feature, place, k] += counts_LFBS[leaf, feature, place + 1, k]


@compiled
def _join_cost(
    histograms: Histograms,
    leaf: int,
    feature: int,
    place: int,
    value: np.float32,
    width: float,
    label: int,
    target: float,
    weight: float,
) -> float:
    """What is lost when a new value joins a bin; as in `_pair_cost`."""
    _, _, centres_LFB, _, counts_LFBS = histograms
    near = (float(value) - float(centres_LFB[leaf, feature, place])) / width
    unlike = 0.0
    if label >= 0:
        held = np.float32(0.0)
        squares = np.float32(0.0)
        for k in range(counts_LFBS.shape[3]):
            count = counts_LFBS[leaf, feature, place, k]
            held += count
            squares += count * count
        share = 1.0 / float(held)
        own = float(counts_LFBS[leaf, feature, place, label]) * share
        unlike = 1.0 - 2.0 * own + float(squares) * share * share
    else:
        held = counts_LFBS[leaf, feature, place, WEIGHT]
        all_weight = float(counts_LFBS[leaf, feature, NUM_BINS, WEIGHT])
        mean = counts_LFBS[leaf, feature, NUM_BINS, SUM] / all_weight
        variance = counts_LFBS[leaf, feature, NUM_BINS, SQUARES] / all_weight - mean * mean
        apart = target - counts_LFBS[leaf, feature, place, SUM] / held
        if variance > 0.0:
            unlike = min(float(apart) ** 2 / variance, 2.0)
    return weight * (float(held) / (float(held) + weight)) * (UNLIKE * unlike + near * near)


@compiled
def _add_event(
    counts_LFBS: NDArray[np.float32],
    leaf: int,
    feature: int,
    place: int,
    label: int,
    target: float,
    weight: float,
) -> None:
    """An event is counted in a bin: its class, or (label -1) its target."""
    if label >= 0:
        counts_LFBS[leaf, feature, place, label] += weight
    else:
        counts_LFBS[leaf, feature, place, WEIGHT] += weight
        counts_LFBS[leaf, feature, place, SUM] += weight * target
        counts_LFBS[leaf, feature, place, SQUARES] += weight * target * target


@compiled
def _place_category(
    histograms: Histograms, leaf: int, feature: int, code: np.float32
) -> int:
    """The bin of a category; a new one as long as there is room, then that of all others."""
    _, sizes_LF, centres_LFB, _, _ = histograms
    size = sizes_LF[leaf, feature]
    place = find_code(centres_LFB, leaf, feature, size, code)
    if place < 0:
        place = size
        centres_LFB[leaf, feature, place] = code if size < NUM_BINS - 1 else np.float32(OTHERS)
        sizes_LF[leaf, feature] = size + 1
    return place


@compiled
def _place_number(
    histograms: Histograms,
    leaf: int,
    feature: int,
    value: np.float32,
    label: int,
    target: float,
    weight: float,
) -> int:
    """The bin that a number will be counted in, made where it has none."""
    _, sizes_LF, centres_LFB, costs_LFB, _ = histograms
    by_class = label >= 0
    last = NUM_BINS - 1
    size = sizes_LF[leaf, feature]
    place = count_below(centres_LFB, leaf, feature, size, value)
    if place < size and centres_LFB[leaf, feature, place] == value:
        return place
    if size < NUM_BINS:
        _open_bin(histograms, leaf, feature, place, size)
        centres_LFB[leaf, feature, place] = value
        sizes_LF[leaf, feature] = size + 1
        return place
    if place == 0 or place == NUM_BINS:
        # A new end widens the range against which all gaps are measured.
        low = min(float(value), float(centres_LFB[leaf, feature, 0]))
        high = max(float(value), float(centres_LFB[leaf, feature, last]))
        width = high - low
    else:
        width = float(centres_LFB[leaf, feature, last]) - float(centres_LFB[leaf, feature, 0])
    pair = 0 if place != 1 else 1
    least = costs_LFB[leaf, feature, pair]
    for other in range(pair + 1, last):
        # The two bins between which the value lies are no neighbours any more.
        if costs_LFB[leaf, feature, other] < least and other != place - 1:
            least = costs_LFB[leaf, feature, other]
            pair = other
    join = -1
    cost = float(least)
    for other in range(max(place - 1, 0), min(place, last) + 1):
        of_join = _join_cost(
            histograms, leaf, feature, other, value, width, label, target, weight
        )
        if of_join < cost:
            cost = of_join
            join = other
    if join >= 0:
        held = _weigh_bin(histograms, leaf, feature, join, by_class)
        centre = float(centres_LFB[leaf, feature, join])
        centre += (float(value) - centre) * (weight / (held + weight))
        centres_LFB[leaf, feature, join] = centre
        return join
    _merge_pair(histograms, leaf, feature, pair, by_class)
    if pair + 1 < place:
        _close_bin(histograms, leaf, feature, pair + 1, place - 1)
        place -= 1
    else:
        _open_bin(histograms, leaf, feature, place, pair + 1)
        pair += pair >= place
    centres_LFB[leaf, feature, place] = value
    if place == 0 or place == last:
        _refresh_costs(histograms, leaf, feature, 0, last, by_class)
    else:
        _refresh_costs(histograms, leaf, feature, pair - 1, pair, by_class)
    return place


@compiled
def insert_value(
    histograms: Histograms,
    leaf: int,
    feature: int,
    kind: int,
    value: float,
    label: int,
    target: float,
    weight: float,
) -> None:
    """Count one event at its value of one feature.

    Args:
        histograms: changed in place.
        leaf: row of the leaf.
        feature: which of the leaf's features.
        kind: NUMERIC, or CATEGORY with codes 0, 1, 2.
        value: finite.
        label: class, or -1 where statistics are those of numbers.
        target: number to learn where `label` is -1.
        weight: of the event, > 0.
    """
    origins_LF, sizes_LF, _, _, counts_LFBS = histograms
    before = sizes_LF[leaf, feature]
    if kind == CATEGORY:
        place = _place_category(histograms, leaf, feature, np.float32(value))
    else:
        if before == 0:
            origins_LF[leaf, feature] = value
        value_32 = relative_value(value, origins_LF[leaf, feature])
        place = _place_number(histograms, leaf, feature, value_32, label, target, weight)
    _add_event(counts_LFBS, leaf, feature, place, label, target, weight)
    _add_event(counts_LFBS, leaf, feature, NUM_BINS, label, target, weight)
    if kind == NUMERIC and sizes_LF[leaf, feature] == NUM_BINS:
        if before < NUM_BINS:
            _refresh_costs(histograms, leaf, feature, 0, NUM_BINS, label >= 0)
        else:
            _refresh_costs(histograms, leaf, feature, place - 1, place, label >= 0)
