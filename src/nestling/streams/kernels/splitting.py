"""Where a leaf would best be split: the gain of every boundary between centroids.

Axis letters as in `centroids`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.centroids import CATEGORY, NUM_BINS, Histograms
from nestling.streams.kernels.compiled import compiled

# A split that sends less than this share of the events to one side is none.
LEAST_SIDE = 0.01


@compiled
def _scatter(counts_S: NDArray[np.float64], by_class: bool) -> float:
    """What is uncertain in a set of events, times their weight: entropy in bits, or variance."""
    if not by_class:
        if counts_S[0] <= 0.0:
            return 0.0
        return max(float(counts_S[2] - counts_S[1] * counts_S[1] / counts_S[0]), 0.0)
    total = 0.0
    bits = 0.0
    for k in range(counts_S.shape[0]):
        count = counts_S[k]
        if count > 0.0:
            total += count
            bits -= count * math.log2(count)
    return bits + total * math.log2(total) if total > 0.0 else 0.0


@compiled
def _weigh(counts_S: NDArray[np.float64], by_class: bool) -> float:
    """Weight of a set of events."""
    if not by_class:
        return float(counts_S[0])
    total = 0.0
    for k in range(counts_S.shape[0]):
        total += counts_S[k]
    return total


@compiled
def find_split(
    histograms: Histograms,
    leaf: int,
    num_features: int,
    columns_LF: NDArray[np.int32],
    kinds_C: NDArray[np.int64],
    by_class: bool,
    sums_3S: NDArray[np.float64],
) -> tuple[int, float, float, float]:
    """The best split of a leaf and how far it is ahead of the best split by another feature.

    gain = scatter(all) - scatter(low) - scatter(high), per unit of weight, over the events whose
    value is known, times their share. A number splits by `x <= threshold`, halfway between two
    centres; a category by `code == threshold`.

    Args:
        histograms: what the leaf has seen.
        leaf: row of the leaf.
        num_features: how many of its features are in use.
        columns_LF: column of each feature.
        kinds_C: NUMERIC or CATEGORY.
        by_class: entropy of classes, else variance of targets.
        sums_3S: room to count in.

    Returns:
        feature (-1: nothing to split by), threshold, gain, gain of the best other feature.
    """
    origins_LF, sizes_LF, centres_LFB, _, counts_LFBS = histograms
    num_statistics = counts_LFBS.shape[3]
    most_known = 0.0
    for feature in range(num_features):
        for k in range(num_statistics):
            sums_3S[0, k] = counts_LFBS[leaf, feature, NUM_BINS, k]
        most_known = max(most_known, _weigh(sums_3S[0], by_class))
    best, best_threshold, best_gain, second_gain = -1, 0.0, 0.0, 0.0
    for feature in range(num_features):
        size = sizes_LF[leaf, feature]
        if size < 2:
            continue
        for k in range(num_statistics):
            sums_3S[0, k] = counts_LFBS[leaf, feature, NUM_BINS, k]
            sums_3S[1, k] = 0.0
        known = _weigh(sums_3S[0], by_class)
        whole = _scatter(sums_3S[0], by_class)
        gain, threshold = 0.0, 0.0
        is_category = kinds_C[columns_LF[leaf, feature]] == CATEGORY
        for place in range(size if is_category else size - 1):
            for k in range(num_statistics):
                count = counts_LFBS[leaf, feature, place, k]
                sums_3S[1, k] = count if is_category else sums_3S[1, k] + count
                sums_3S[2, k] = (
                    max(sums_3S[0, k] - sums_3S[1, k], 0.0)
                    if by_class
                    else (sums_3S[0, k] - sums_3S[1, k])
                )
            centre = float(centres_LFB[leaf, feature, place])
            if is_category and centre < 0.0:
                continue  # all other categories: no single code
            low = _weigh(sums_3S[1], by_class)
            if low < LEAST_SIDE * known or low > (1.0 - LEAST_SIDE) * known:
                continue
            left = whole - _scatter(sums_3S[1], by_class) - _scatter(sums_3S[2], by_class)
            here = left / most_known
            if here > gain:
                gain = here
                threshold = centre
                if not is_category:
                    after = float(centres_LFB[leaf, feature, place + 1])
                    threshold = origins_LF[leaf, feature] + 0.5 * (centre + after)
        if gain > best_gain:
            second_gain = best_gain
            best, best_threshold, best_gain = feature, threshold, gain
        elif gain > second_gain:
            second_gain = gain
    return best, best_threshold, best_gain, second_gain


@compiled
def sum_side(
    histograms: Histograms,
    leaf: int,
    feature: int,
    kind: int,
    threshold: float,
    low_S: NDArray[np.float64],
    high_S: NDArray[np.float64],
) -> None:
    """Statistics of the events that a split sends to either side, written to `low_S`, `high_S`."""
    origins_LF, sizes_LF, centres_LFB, _, counts_LFBS = histograms
    low_S[:] = 0.0
    high_S[:] = 0.0
    for place in range(sizes_LF[leaf, feature]):
        centre = float(centres_LFB[leaf, feature, place])
        if kind == CATEGORY:
            is_low = centre == threshold
        else:
            is_low = centre + origins_LF[leaf, feature] <= threshold
        for k in range(counts_LFBS.shape[3]):
            if is_low:
                low_S[k] += counts_LFBS[leaf, feature, place, k]
            else:
                high_S[k] += counts_LFBS[leaf, feature, place, k]
