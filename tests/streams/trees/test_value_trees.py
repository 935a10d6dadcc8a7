"""The Hoeffding tree of numbers: what it learns, restarts, copies, and bears."""

import copy
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.streams.trees.value_trees import (
    answer_value_tree,
    grow_value_tree,
    learn_value_tree,
    make_value_tree,
)
from streams.forest_room import make_room

Arrays = dict[str, NDArray[Any]]


def learn_all(
    arrays: Arrays, x_NC: NDArray[np.float64], y: NDArray[np.float64], weight: float = 1.0
) -> tuple[Arrays, NDArray[np.float64], list[int]]:
    """The tree after all events, its answers before each, and where it restarted."""
    kinds_C = np.zeros(x_NC.shape[1], np.int64)
    answers = np.zeros(len(y))
    restarts = []
    for row in range(len(y)):
        arrays = make_room(arrays, 1)
        tree = tuple(arrays.values())
        answers[row] = answer_value_tree(tree, x_NC[row], kinds_C)
        if learn_value_tree(tree, x_NC[row], kinds_C, float(y[row]), weight):
            restarts.append(row)
    return arrays, answers, restarts


def draw_steps(num: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    generator = np.random.default_rng(0)
    x_NC = generator.random((num, 4))
    steps = 10.0 * (x_NC[:, 0] > 0.3) * (x_NC[:, 1] > 0.3)
    return x_NC, steps + 0.1 * generator.normal(size=num)


def test_it_finds_the_thresholds() -> None:
    x_NC, y = draw_steps(6000)
    arrays, answers, restarts = learn_all(make_value_tree(4), x_NC, y)
    assert np.abs(answers - y)[-1000:].mean() < 0.7  # the mean alone: 5.0
    assert arrays["trees"][0, 1] >= 3
    assert arrays["thresholds"][0, 0] == pytest.approx(0.3, abs=0.03)
    assert restarts == []


def test_a_leaf_answers_by_its_best_feature_where_that_errs_less() -> None:
    generator = np.random.default_rng(0)
    x_NC = generator.random((3000, 3))
    y = np.sin(6.0 * x_NC[:, 1])
    arrays, answers, _ = learn_all(make_value_tree(3, max_leaves=1), x_NC, y)
    assert arrays["trees"][0, 1] == 1
    assert np.abs(answers - y)[-500:].mean() < 0.05  # the mean alone: .6


@pytest.mark.parametrize(("shift", "scale"), [(1e7, 1.0), (0.0, 1e-6), (-1e9, 1e3)])
def test_shift_and_scale_of_targets_do_not_matter(shift: float, scale: float) -> None:
    x_NC, y = draw_steps(3000)
    _, answers, _ = learn_all(make_value_tree(4), x_NC, y)
    _, moved, _ = learn_all(make_value_tree(4), x_NC, y * scale + shift)
    np.testing.assert_allclose((moved[1:] - shift) / scale, answers[1:], atol=1e-2)


def test_drift_restarts_it() -> None:
    x_NC, y = draw_steps(6000)
    y[3000:] = 10.0 - y[3000:]
    _, answers, restarts = learn_all(make_value_tree(4), x_NC, y)
    assert len(restarts) == 1
    assert 3000 < restarts[0] < 3400
    assert np.abs(answers - y)[-1000:].mean() < 1.5


def test_a_copy_goes_on_bit_for_bit() -> None:
    x_NC, y = draw_steps(3000)
    arrays, _, _ = learn_all(make_value_tree(4), x_NC[:1500], y[:1500])
    twin = copy.deepcopy(arrays)
    arrays, _, _ = learn_all(arrays, x_NC[1500:], y[1500:])
    twin, _, _ = learn_all(twin, x_NC[1500:], y[1500:])
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], twin[name], err_msg=name)


def test_new_columns_leave_answers_and_are_used() -> None:
    x_NC, y = draw_steps(1000)
    arrays, _, _ = learn_all(make_value_tree(4), x_NC, y)
    grown = grow_value_tree(arrays, 5)
    kinds_C = np.zeros(5, np.int64)
    for row in range(20):
        assert answer_value_tree(tuple(arrays.values()), x_NC[row], kinds_C[:4]) == (
            answer_value_tree(tuple(grown.values()), x_NC[row], kinds_C)
        )
    wide = np.concatenate([x_NC, np.random.default_rng(1).random((1000, 1))], axis=1)
    _, answers, _ = learn_all(grown, wide, 100.0 * wide[:, 4])
    assert np.abs(answers - 100.0 * wide[:, 4])[-200:].mean() < 15.0


@pytest.mark.parametrize("case", ["constant", "huge", "missing", "same target", "huge targets"])
def test_it_stays_finite(case: str) -> None:
    generator = np.random.default_rng(0)
    x_NC = generator.normal(size=(3000, 3))
    y = generator.normal(size=3000)
    if case == "constant":
        x_NC[:] = 1.0
    elif case == "huge":
        x_NC *= 1e12
        x_NC[7] = [1e300, -1e300, np.inf]
    elif case == "missing":
        x_NC[:] = np.nan
    elif case == "same target":
        y[:] = 0.1
    else:
        y *= 1e100
    arrays, answers, _ = learn_all(make_value_tree(3, delta=0.5), x_NC, y)
    assert np.isfinite(answers).all()
    for name, array in arrays.items():
        assert np.isfinite(array).all(), name
