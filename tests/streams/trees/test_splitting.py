"""Splits of a leaf against gains by the book."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.streams.trees.centroids import (
    CATEGORY,
    NUMERIC,
    Histograms,
    insert_value,
    make_histograms,
)
from nestling.streams.trees.splitting import find_split, sum_side


def entropy(labels: NDArray[np.int64]) -> float:
    shares = np.bincount(labels) / len(labels)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def fill(
    x_NF: NDArray[np.float64], kinds: list[int], labels: NDArray[np.int64] | None, y: object = None
) -> tuple[Histograms, NDArray[np.int32], NDArray[np.int64]]:
    num_features = x_NF.shape[1]
    dtype = np.float32 if labels is not None else np.float64
    histograms = make_histograms(1, num_features, 3, dtype)
    for row in range(len(x_NF)):
        for feature in range(num_features):
            value = float(x_NF[row, feature])
            if np.isfinite(value):
                label = int(labels[row]) if labels is not None else -1
                target = 0.0 if labels is not None else float(np.asarray(y)[row])
                insert_value(histograms, 0, feature, kinds[feature], value, label, target, 1.0)
    return histograms, np.arange(num_features, dtype=np.int32)[None], np.array(kinds, np.int64)


def test_best_split_and_runner_up_are_those_of_all_boundaries() -> None:
    generator = np.random.default_rng(0)
    x_NF = generator.integers(0, 12, (300, 3)).astype(float)
    labels = (x_NF[:, 1] > 6).astype(np.int64) + (x_NF[:, 2] == 4).astype(np.int64)
    kinds = [NUMERIC, NUMERIC, CATEGORY]
    gains = []
    for feature in range(3):
        column = x_NF[:, feature]
        sides = [
            column == value if kinds[feature] == CATEGORY else column <= value
            for value in np.unique(column)
        ]
        gains.append(
            max(
                entropy(labels)
                - side.mean() * entropy(labels[side])
                - (~side).mean() * entropy(labels[~side])
                for side in sides
                if 0.01 <= side.mean() <= 0.99
            )
        )
    histograms, columns_LF, kinds_C = fill(x_NF, kinds, labels)
    room = np.zeros((3, 3))
    feature, threshold, gain, second = find_split(histograms, 0, 3, columns_LF, kinds_C, True, room)
    assert (feature, threshold) == (1, 6.5)
    assert gain == pytest.approx(sorted(gains)[-1], abs=1e-6)
    assert second == pytest.approx(sorted(gains)[-2], abs=1e-6)
    low_S, high_S = np.zeros(3), np.zeros(3)
    sum_side(histograms, 0, 1, NUMERIC, threshold, low_S, high_S)
    assert low_S.tolist() == np.bincount(labels[x_NF[:, 1] <= 6.5], minlength=3).tolist()
    assert high_S.tolist() == np.bincount(labels[x_NF[:, 1] > 6.5], minlength=3).tolist()


def test_numbers_split_where_variance_falls_most() -> None:
    generator = np.random.default_rng(1)
    x_NF = generator.integers(0, 10, (300, 2)).astype(float)
    y = 5.0 * (x_NF[:, 0] > 3) + generator.normal(size=300)
    histograms, columns_LF, kinds_C = fill(x_NF, [NUMERIC, NUMERIC], None, y)
    feature, threshold, gain, second = find_split(
        histograms, 0, 2, columns_LF, kinds_C, False, np.zeros((3, 3))
    )
    low = x_NF[:, 0] <= 3
    left = low.mean() * y[low].var() + (~low).mean() * y[~low].var()
    assert (feature, threshold) == (0, 3.5)
    assert gain == pytest.approx(y.var() - left)
    assert second < 0.1 * gain


def test_missing_values_weaken_a_split() -> None:
    x_NF = np.tile([[0.0, 0.0], [1.0, 1.0]], (100, 1))
    labels = np.tile([0, 1], 100)
    x_NF[:100, 0] = np.nan
    histograms, columns_LF, kinds_C = fill(x_NF, [NUMERIC, NUMERIC], labels)
    feature, _, gain, second = find_split(
        histograms, 0, 2, columns_LF, kinds_C, True, np.zeros((3, 3))
    )
    assert (feature, gain, second) == (1, pytest.approx(1.0), pytest.approx(0.5))


def test_a_side_of_less_than_one_percent_is_no_split() -> None:
    x_NF = np.zeros((300, 1))
    x_NF[:2] = 1.0
    labels = (x_NF[:, 0] > 0).astype(np.int64)
    histograms, columns_LF, kinds_C = fill(x_NF, [NUMERIC], labels)
    found = find_split(histograms, 0, 1, columns_LF, kinds_C, True, np.zeros((3, 3)))
    assert found[0] == -1
