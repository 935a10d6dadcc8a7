"""Histograms of centroids: what a leaf keeps of one feature, in bounded room.

A histogram is a sorted list of at most B centres with statistics of the events that fell to each:
weights by class, or (for trees of numbers) weight, sum and sum of squares of the targets. Where a
new value finds no room, the two neighbours that are most alike become one.

Axis letters: L leaves, F features of a leaf, B bins, S statistics (K classes, or 3). Row B of
`counts_LFBS` is the sum of the others.
"""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled

NUM_BINS = 24
NUMERIC, CATEGORY = 0, 1
# All categories of a full histogram that have no bin share its last one.
OTHERS = -1.0
# Places of the statistics of numbers.
WEIGHT, SUM, SQUARES = range(3)
# Which bins of a histogram a child takes over.
ANY_SIDE, CODE_SIDES = -1, 2
# A child takes over no bin of less weight.
LEAST_INHERITED = 1e-3
# Values are kept as float32 differences from the first one; further out is as good as far.
FARTHEST = 1e30
# The centre of a bin that is not in use.
BEYOND = 3e38

# Places of the arrays. What runs for each feature names them so: an array with a name of its own
# is counted (atomically, some nanoseconds) wherever that function calls another kernel.
_ORIGINS, _SIZES, _CENTRES, _COSTS, _COUNTS = range(5)

# origins_LF float64, sizes_LF int32, centres_LFB and costs_LFB float32, counts_LFBS (B + 1 rows)
# float32 or float64.
Histograms: TypeAlias = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


def make_histograms(
    num_leaves: int, num_features: int, num_statistics: int, dtype: type[np.floating[Any]]
) -> Histograms:
    """Empty histograms of a number of leaves, each with that many features.

    Args:
        num_leaves: L.
        num_features: F of each leaf.
        num_statistics: K classes, or 3 for numbers.
        dtype: of the counts: float32 holds classes, squares of numbers want float64.

    Returns:
        `origins_LF`, `sizes_LF` bins in use, `centres_LFB`, `costs_LFB` of merging a bin with its
        right neighbour (once all bins are in use), `counts_LFBS` with one row more for the sum.
    """
    shape = (num_leaves, num_features)
    return (
        np.zeros(shape),
        np.zeros(shape, np.int32),
        np.full((*shape, NUM_BINS), BEYOND, np.float32),
        np.zeros((*shape, NUM_BINS), np.float32),
        np.zeros((*shape, NUM_BINS + 1, num_statistics), dtype),
    )


@compiled
def clear_histograms(histograms: Histograms, leaf: int) -> None:
    """Forget what one leaf knows of all features."""
    origins_LF, sizes_LF, centres_LFB, costs_LFB, counts_LFBS = histograms
    origins_LF[leaf] = 0.0
    sizes_LF[leaf] = 0
    centres_LFB[leaf] = BEYOND
    costs_LFB[leaf] = 0.0
    counts_LFBS[leaf] = 0.0


@compiled
def count_below(
    centres_LFB: NDArray[np.float32], leaf: int, feature: int, value: np.float32
) -> int:
    """How many centres lie below a value."""
    below = np.int32(0)
    # All of them, whether in use or not: a loop of known length becomes a few vectors.
    for place in range(NUM_BINS):
        below += np.int32(centres_LFB[leaf, feature, place] < value)
    return int(below)


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
def _weigh_bin(
    counts_LFBS: NDArray[Any], leaf: int, feature: int, place: int, by_class: bool
) -> float:
    """Weight of the events of one bin."""
    if not by_class:
        return float(counts_LFBS[leaf, feature, place, WEIGHT])
    weight = np.float32(0.0)
    for k in range(counts_LFBS.shape[3]):
        weight += counts_LFBS[leaf, feature, place, k]
    return float(weight)


@compiled
def _refresh_costs(
    histograms: Histograms, leaf: int, feature: int, first: int, last: int, by_class: bool
) -> None:
    """Costs of the pairs that begin at `first` to `last`, as far as there are such pairs.

    The root of the squared error that arises when two bins become one, w_i w_j/(w_i + w_j) gap^2
    [Ward 1963]; the root, since the square would leave float32.
    """
    _, _, centres_LFB, costs_LFB, counts_LFBS = histograms
    first, last = max(first, 0), min(last, NUM_BINS - 2)
    left = _weigh_bin(counts_LFBS, leaf, feature, first, by_class)
    for place in range(first, last + 1):
        right = _weigh_bin(counts_LFBS, leaf, feature, place + 1, by_class)
        gap = float(centres_LFB[leaf, feature, place + 1])
        gap -= float(centres_LFB[leaf, feature, place])
        costs_LFB[leaf, feature, place] = gap * math.sqrt(left * (right / (left + right)))
        left = right


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
def _merge_pair(
    histograms: Histograms, leaf: int, feature: int, place: int, by_class: bool
) -> None:
    """A bin takes in its right neighbour, whose place is empty then (not closed)."""
    _, _, centres_LFB, _, counts_LFBS = histograms
    left = _weigh_bin(counts_LFBS, leaf, feature, place, by_class)
    right = _weigh_bin(counts_LFBS, leaf, feature, place + 1, by_class)
    near = float(centres_LFB[leaf, feature, place])
    gap = float(centres_LFB[leaf, feature, place + 1]) - near
    centres_LFB[leaf, feature, place] = near + gap * (right / (left + right))
    for k in range(counts_LFBS.shape[3]):
        counts_LFBS[leaf, feature, place, k] += counts_LFBS[leaf, feature, place + 1, k]


@compiled
def _add_event(
    counts_LFBS: NDArray[Any],
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
def _place_category(histograms: Histograms, leaf: int, feature: int, code: np.float32) -> int:
    """The bin of a category; a new one as long as there is room, then that of all others."""
    size = histograms[_SIZES][leaf, feature]
    place = find_code(histograms[_CENTRES], leaf, feature, size, code)
    if place < 0:
        place = size
        histograms[_CENTRES][leaf, feature, place] = (
            code if size < NUM_BINS - 1 else np.float32(OTHERS)
        )
        histograms[_SIZES][leaf, feature] = size + 1
    return place


@compiled
def _place_number(
    histograms: Histograms,
    leaf: int,
    feature: int,
    value: np.float32,
    by_class: bool,
    weight: float,
) -> int:
    """The bin that a number will be counted in, made where it has none."""
    last = NUM_BINS - 1
    size = histograms[_SIZES][leaf, feature]
    place = count_below(histograms[_CENTRES], leaf, feature, value)
    if place < size and histograms[_CENTRES][leaf, feature, place] == value:
        return place
    if size < NUM_BINS:
        _open_bin(histograms, leaf, feature, place, size)
        histograms[_CENTRES][leaf, feature, place] = value
        histograms[_SIZES][leaf, feature] = size + 1
        return place
    # Which costs less: that two bins become one, or that the value joins a bin beside it?
    # The two between which it lies are neighbours no more.
    pair = 1 if place == 1 else 0
    least = histograms[_COSTS][leaf, feature, pair]
    for other in range(pair + 1, last):
        if histograms[_COSTS][leaf, feature, other] < least and other != place - 1:
            least = histograms[_COSTS][leaf, feature, other]
            pair = other
    join, join_weight, cost = -1, 0.0, float(least)
    for other in range(max(place - 1, 0), min(place, last) + 1):
        held = _weigh_bin(histograms[_COUNTS], leaf, feature, other, by_class)
        gap = abs(float(value) - float(histograms[_CENTRES][leaf, feature, other]))
        of_join = gap * math.sqrt(held * (weight / (held + weight)))
        if of_join <= cost:
            join, join_weight, cost = other, held, of_join
    if join >= 0:
        centre = float(histograms[_CENTRES][leaf, feature, join])
        centre += (float(value) - centre) * (weight / (join_weight + weight))
        histograms[_CENTRES][leaf, feature, join] = centre
        return join
    _merge_pair(histograms, leaf, feature, pair, by_class)
    if pair + 1 < place:
        _close_bin(histograms, leaf, feature, pair + 1, place - 1)
        place -= 1
    else:
        _open_bin(histograms, leaf, feature, place, pair + 1)
        pair += pair >= place
    histograms[_CENTRES][leaf, feature, place] = value
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
    before = histograms[_SIZES][leaf, feature]
    if kind == CATEGORY:
        place = _place_category(histograms, leaf, feature, np.float32(value))
    else:
        if before == 0:
            histograms[_ORIGINS][leaf, feature] = value
        value_32 = relative_value(value, histograms[_ORIGINS][leaf, feature])
        place = _place_number(histograms, leaf, feature, value_32, label >= 0, weight)
    _add_event(histograms[_COUNTS], leaf, feature, place, label, target, weight)
    _add_event(histograms[_COUNTS], leaf, feature, NUM_BINS, label, target, weight)
    if kind == NUMERIC and histograms[_SIZES][leaf, feature] == NUM_BINS:
        if before < NUM_BINS:
            _refresh_costs(histograms, leaf, feature, 0, NUM_BINS, label >= 0)
        else:
            _refresh_costs(histograms, leaf, feature, place - 1, place, label >= 0)


@compiled
def inherit_histogram(
    histograms: Histograms,
    parent: int,
    parent_feature: int,
    child: int,
    feature: int,
    shares_S: NDArray[np.float64],
    sides: int,
    middle: float,
) -> None:
    """A child begins with a share of what its parent saw of one feature.

    Args:
        histograms: changed in place.
        parent: row of the leaf that is split.
        parent_feature: which of its features.
        child: row of the new leaf.
        feature: which of its features; empty so far.
        shares_S: the child's share of each of the parent's counts.
        sides: which bins: ANY_SIDE, 0: up to `middle`, 1: above it; CODE_SIDES: the category that
            `middle` is, CODE_SIDES + 1: all but that.
        middle: where this feature is split.
    """
    origins_LF, sizes_LF, centres_LFB, _, counts_LFBS = histograms
    origins_LF[child, feature] = origins_LF[parent, parent_feature]
    size = 0
    for place in range(sizes_LF[parent, parent_feature]):
        centre = centres_LFB[parent, parent_feature, place]
        is_low = centre == middle if sides >= CODE_SIDES else centre <= middle
        if sides != ANY_SIDE and is_low == (sides % 2 == 1):
            continue
        weight = 0.0
        for k in range(shares_S.shape[0]):
            weight += counts_LFBS[parent, parent_feature, place, k] * shares_S[k]
        if weight < LEAST_INHERITED:
            continue
        centres_LFB[child, feature, size] = centre
        for k in range(shares_S.shape[0]):
            count = np.float32(counts_LFBS[parent, parent_feature, place, k] * shares_S[k])
            counts_LFBS[child, feature, size, k] = count
            counts_LFBS[child, feature, NUM_BINS, k] += count
        size += 1
    sizes_LF[child, feature] = size
    if size == NUM_BINS:
        _refresh_costs(histograms, child, feature, 0, NUM_BINS, True)
