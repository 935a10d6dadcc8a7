"""Histograms of centroids against a slow twin that inserts, then merges the nearest two."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.streams.trees.centroids import (
    CATEGORY,
    NUM_BINS,
    NUMERIC,
    Histograms,
    insert_value,
    make_histograms,
)


def insert_all(
    values: NDArray[np.float64], labels: NDArray[np.int64], kind: int = NUMERIC
) -> Histograms:
    histograms = make_histograms(2, 2, 3, np.float32)
    for value, label in zip(values.tolist(), labels.tolist(), strict=True):
        insert_value(histograms, 1, 1, kind, value, label, 0.0, 1.0)
    return histograms


def slow_histogram(
    values: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sorted bins; of one too many, those of least w_i w_j/(w_i + w_j) gap^2 merge."""
    bins: list[tuple[float, NDArray[np.float64]]] = []
    for value, label in zip(values.tolist(), labels.tolist(), strict=True):
        count = np.eye(3)[label]
        same = [place for place, (centre, _) in enumerate(bins) if centre == value]
        if same:
            bins[same[0]] = (value, bins[same[0]][1] + count)
            continue
        bins = sorted([*bins, (value, count)], key=lambda one: one[0])
        if len(bins) <= NUM_BINS:
            continue
        weights = np.array([counts.sum() for _, counts in bins])
        centres = np.array([centre for centre, _ in bins])
        costs = weights[1:] * weights[:-1] / (weights[1:] + weights[:-1]) * np.diff(centres) ** 2
        place = int(costs.argmin())
        pair = weights[place : place + 2]
        centre = float((centres[place : place + 2] * pair).sum() / pair.sum())
        bins[place : place + 2] = [(centre, bins[place][1] + bins[place + 1][1])]
    return np.array([centre for centre, _ in bins]), np.array([counts for _, counts in bins])


@pytest.mark.parametrize("seed", range(4))
def test_numbers_fall_to_the_bins_of_the_slow_twin(seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Halves of integers are exact in float32, so that ties are the same ties.
    values = np.round(generator.normal(0, 1e4, 400)) / 2
    labels = generator.integers(0, 3, 400)
    origins_LF, sizes_LF, centres_LFB, _, counts_LFBS = insert_all(values, labels)
    centres, counts = slow_histogram(values, labels)
    assert sizes_LF.tolist() == [[0, 0], [0, NUM_BINS]]
    np.testing.assert_allclose(centres_LFB[1, 1] + origins_LF[1, 1], centres, rtol=1e-4, atol=0.5)
    np.testing.assert_array_equal(counts_LFBS[1, 1, :NUM_BINS], counts)
    np.testing.assert_array_equal(counts_LFBS[1, 1, NUM_BINS], counts.sum(0))


def test_few_values_keep_a_bin_each() -> None:
    values = np.array([3.0, 1.0, 2.0, 1.0, 3.0, 3.0])
    _, sizes_LF, centres_LFB, _, counts_LFBS = insert_all(values, np.array([0, 1, 2, 1, 0, 2]))
    assert sizes_LF[1, 1] == 3
    assert centres_LFB[1, 1, :3].tolist() == [-2.0, -1.0, 0.0]  # from the first value on
    assert counts_LFBS[1, 1, :3].tolist() == [[0, 2, 0], [0, 0, 1], [2, 0, 1]]


def test_codes_keep_a_bin_each_and_the_rest_shares_the_last() -> None:
    codes = np.repeat(np.arange(40.0), 2)
    _, sizes_LF, centres_LFB, _, counts_LFBS = insert_all(codes, np.ones(80, np.int64), CATEGORY)
    assert sizes_LF[1, 1] == NUM_BINS
    assert centres_LFB[1, 1].tolist() == [*np.arange(23.0), -1.0]
    assert counts_LFBS[1, 1, :, 1].tolist() == [2.0] * 23 + [34.0, 80.0]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e12, 1e300])
def test_any_scale_stays_sorted_and_finite(scale: float) -> None:
    generator = np.random.default_rng(0)
    values = generator.standard_cauchy(3000) * scale
    values = np.clip(values, -1e307, 1e307)
    histograms = insert_all(values, generator.integers(0, 3, 3000))
    _, sizes_LF, centres_LFB, _, counts_LFBS = histograms
    assert all(np.isfinite(part).all() for part in histograms)
    assert (np.diff(centres_LFB[1, 1, : sizes_LF[1, 1]]) >= 0).all()
    assert counts_LFBS[1, 1, :NUM_BINS].sum() == 3000


def test_far_from_zero_small_differences_are_kept() -> None:
    values = 1e12 + np.arange(10.0)
    _, sizes_LF, centres_LFB, _, _ = insert_all(values, np.zeros(10, np.int64))
    assert centres_LFB[1, 1, : sizes_LF[1, 1]].tolist() == np.arange(10.0).tolist()
