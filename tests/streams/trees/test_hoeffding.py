"""The Hoeffding tree of classes: what it learns, restarts, grows, copies, and bears."""

import copy
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.streams.trees.forest import LOW, SEEN
from nestling.streams.trees.hoeffding import answer_tree, grow_tree, learn_tree, make_tree
from streams.forest_room import make_room

Arrays = dict[str, NDArray[Any]]


def answer(arrays: Arrays, x_C: NDArray[np.float64], kinds_C: NDArray[np.int64], num: int) -> Any:
    p_K = np.zeros(num)
    answer_tree(tuple(arrays.values()), x_C, kinds_C, p_K)
    return p_K


def learn_all(
    arrays: Arrays,
    x_NC: NDArray[np.float64],
    labels: NDArray[np.int64],
    kinds_C: NDArray[np.int64] | None = None,
    weight: float = 1.0,
    block: int = 1,
) -> tuple[Arrays, list[bool], list[int]]:
    """The tree after all events, which of them it had right before, and where it restarted."""
    if kinds_C is None:
        kinds_C = np.zeros(x_NC.shape[1], np.int64)
    right, restarts = [], []
    p_K = np.zeros(arrays["leaf_sums"].shape[1])
    for row in range(len(x_NC)):
        if row % block == 0:
            arrays = make_room(arrays, block)
            tree = tuple(arrays.values())
        answer_tree(tree, x_NC[row], kinds_C, p_K)
        right.append(bool(p_K.argmax() == labels[row]))
        if learn_tree(tree, x_NC[row], kinds_C, int(labels[row]), weight):
            restarts.append(row)
    return arrays, right, restarts


def draw_steps(num: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Two classes by two thresholds: one split alone does not tell them apart."""
    x_NC = np.random.default_rng(seed).random((num, 4))
    return x_NC, (x_NC[:, 0] > 0.3).astype(np.int64) * (x_NC[:, 1] > 0.3)


def assert_same(first: Arrays, second: Arrays) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_it_finds_the_thresholds() -> None:
    x_NC, labels = draw_steps(6000)
    arrays, right, restarts = learn_all(make_tree(4, 2), x_NC, labels)
    assert np.mean(right[-1000:]) > 0.97
    assert arrays["trees"][0, 1] >= 3
    assert arrays["nodes"][0, 0, 0] in (0, 1)
    assert arrays["thresholds"][0, 0] == pytest.approx(0.3, abs=0.03)
    assert restarts == []


def test_a_leaf_answers_by_naive_bayes_where_that_errs_less() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 2000)
    x_NC = generator.normal(labels[:, None] * 1.0, 1.0, (2000, 4))
    arrays, right, _ = learn_all(make_tree(4, 2, max_leaves=1), x_NC, labels)
    assert arrays["trees"][0, 1] == 1
    # Bayes-optimal is .841.
    assert np.mean(right[-1000:]) > 0.8


def test_naive_bayes_is_the_product_of_shares() -> None:
    kinds_C = np.ones(2, np.int64)
    generator = np.random.default_rng(0)
    x_NC = generator.integers(0, 3, (400, 2)).astype(float)
    labels = (generator.random(400) < 0.2 + 0.3 * x_NC[:, 0]).astype(np.int64)
    arrays, _, _ = learn_all(make_tree(2, 2, max_leaves=1), x_NC, labels, kinds_C)
    scores = np.bincount(labels).astype(float)
    for feature in range(2):
        here = x_NC[:, feature] == 2.0
        share = here.mean()
        for k in range(2):
            near = (here & (labels == k)).sum()
            scores[k] *= (near + share) / ((labels == k).sum() + 1.0) / share
    expected = (400 * scores / scores.sum() + 1.0) / 402.0
    np.testing.assert_allclose(
        answer(arrays, np.array([2.0, 2.0]), kinds_C, 2), expected, rtol=1e-5
    )


def test_answers_are_probabilities_from_the_first_event_on() -> None:
    arrays = make_tree(4, 3)
    kinds_C = np.zeros(4, np.int64)
    np.testing.assert_allclose(answer(arrays, np.zeros(4), kinds_C, 3), 1 / 3)
    x_NC, labels = draw_steps(300)
    arrays, _, _ = learn_all(arrays, x_NC, labels)
    for row in range(20):
        p_K = answer(arrays, x_NC[row], kinds_C, 3)
        assert p_K.sum() == pytest.approx(1.0)
        assert (p_K > 0).all()


def test_answering_changes_nothing_but_scratch() -> None:
    x_NC, labels = draw_steps(500)
    arrays, _, _ = learn_all(make_tree(4, 2), x_NC, labels)
    before = copy.deepcopy(arrays)
    answer(arrays, x_NC[0], np.zeros(4, np.int64), 2)
    assert_same(before, arrays)


def test_drift_restarts_it() -> None:
    x_NC, labels = draw_steps(6000)
    labels[3000:] = 1 - labels[3000:]
    arrays, right, restarts = learn_all(make_tree(4, 2), x_NC, labels)
    assert len(restarts) == 1
    assert 3000 < restarts[0] < 3300
    assert arrays["trees"][0, 2] == 1
    assert np.mean(right[-1000:]) > 0.9


def test_a_copy_goes_on_bit_for_bit() -> None:
    generator = np.random.default_rng(0)
    x_NC = generator.normal(size=(3000, 60))
    labels = (x_NC[:, 0] > 0).astype(np.int64)
    labels[2000:] = 1 - labels[2000:]
    arrays, _, _ = learn_all(make_tree(60, 2, seed=7), x_NC[:1500], labels[:1500])
    twin = copy.deepcopy(arrays)
    arrays, _, _ = learn_all(arrays, x_NC[1500:], labels[1500:])
    twin, _, _ = learn_all(twin, x_NC[1500:], labels[1500:])
    assert_same(arrays, twin)
    again, _, _ = learn_all(make_tree(60, 2, seed=7), x_NC, labels)
    assert_same(arrays, again)


def test_blocks_grow_the_same_tree() -> None:
    x_NC, labels = draw_steps(5000)
    one, right, _ = learn_all(make_tree(4, 2, delta=0.1), x_NC, labels)
    many, right_many, _ = learn_all(make_tree(4, 2, delta=0.1), x_NC, labels, block=250)
    assert right == right_many
    np.testing.assert_array_equal(one["nodes"], many["nodes"])
    np.testing.assert_array_equal(one["thresholds"], many["thresholds"])


def test_more_columns_than_forty_are_chosen_by_the_seed() -> None:
    leaf = make_tree(100, 2)["nodes"][0, 0, LOW]
    chosen = [make_tree(100, 2, seed=seed)["leaf_columns"][leaf] for seed in (0, 0, 1)]
    assert chosen[0].tolist() == sorted(set(chosen[0].tolist()))
    assert len(chosen[0]) == 40
    assert chosen[0].max() < 100
    assert chosen[0].tolist() == chosen[1].tolist() != chosen[2].tolist()


def test_room_for_columns_and_classes_leaves_answers() -> None:
    x_NC, labels = draw_steps(3000)
    arrays, _, _ = learn_all(make_tree(4, 2), x_NC, labels)
    grown = grow_tree(arrays, 6, 3)
    wide = np.concatenate([x_NC, np.full((3000, 2), np.nan)], axis=1)
    for row in range(50):
        before = answer(arrays, x_NC[row], np.zeros(4, np.int64), 2)
        after = answer(grown, wide[row], np.zeros(6, np.int64), 3)
        # Each class of K has (n p + 1)/(n + K).
        odds = (before - after[:2]) / before
        assert odds == pytest.approx(odds[0], rel=1e-6)
        assert 0 < after[2] < 0.1
    # A new column that tells a new class is used.
    generator = np.random.default_rng(1)
    wide[:, 4:] = generator.random((3000, 2))
    labels = np.where(wide[:, 5] > 0.5, 2, labels)
    grown, right, _ = learn_all(grown, wide, labels)
    assert np.mean(right[-500:]) > 0.9


def test_missing_values_go_where_most_went() -> None:
    x_NC, labels = draw_steps(4000)
    arrays, _, _ = learn_all(make_tree(4, 2), x_NC, labels)
    kinds_C = np.zeros(4, np.int64)
    unknown = answer(arrays, np.full(4, np.nan), kinds_C, 2)
    infinite = answer(arrays, np.full(4, np.inf), kinds_C, 2)
    short = answer(arrays, np.zeros(0), kinds_C, 2)
    # .49 of all are 1, .7 of those with the column of the root above its threshold.
    assert unknown[1] > 0.5
    np.testing.assert_array_equal(unknown, infinite)
    np.testing.assert_array_equal(unknown, short)


def test_a_category_is_split_by_one_code() -> None:
    generator = np.random.default_rng(0)
    x_NC = generator.integers(0, 7, (3000, 2)).astype(float)
    labels = (x_NC[:, 1] == 3).astype(np.int64)
    kinds_C = np.ones(2, np.int64)
    arrays, right, _ = learn_all(make_tree(2, 2), x_NC, labels, kinds_C)
    assert arrays["nodes"][0, 0, :2].tolist() == [1, 1]
    assert arrays["thresholds"][0, 0] == 3.0
    assert np.mean(right[-500:]) == 1.0
    # A code never seen before is not that one.
    assert answer(arrays, np.array([0.0, 99.0]), kinds_C, 2)[0] > 0.9


def test_weights_count_as_repeats_and_zero_as_nothing() -> None:
    x_NC, labels = draw_steps(40)
    twice, _, _ = learn_all(make_tree(4, 2), x_NC, labels, weight=2.0)
    leaf = twice["nodes"][0, 0, LOW]
    assert twice["leaf_sums"][leaf].tolist() == (2.0 * np.bincount(labels)).tolist()
    assert twice["leaf_numbers"][leaf, SEEN] == 80.0
    none, _, _ = learn_all(make_tree(4, 2), x_NC, labels, weight=0.0)
    assert none["leaf_sums"].sum() == 0.0


@pytest.mark.parametrize(
    "case", ["constant", "duplicate", "huge", "missing", "identical", "tiny weights"]
)
def test_it_stays_finite(case: str) -> None:
    generator = np.random.default_rng(0)
    num = 200_000 if case == "identical" else 3000
    x_NC = generator.normal(size=(num, 3))
    weight = 1.0
    if case == "constant":
        x_NC[:, 1] = 5.0
    elif case == "duplicate":
        x_NC[:, 1] = x_NC[:, 0]
    elif case == "huge":
        x_NC *= 1e12
        x_NC[7] = [1e300, -1e300, np.inf]
    elif case == "missing":
        x_NC[:] = np.nan
    elif case == "identical":
        x_NC[:] = x_NC[0]
    else:
        weight = 1e-300
    labels = generator.integers(0, 2, num)
    if case == "identical":
        labels[:] = 1
    arrays, _, _ = learn_all(make_tree(3, 2, delta=0.5), x_NC, labels, weight=weight, block=1000)
    for name, array in arrays.items():
        assert np.isfinite(array).all(), name
    p_K = answer(arrays, x_NC[-1], np.zeros(3, np.int64), 2)
    assert np.isfinite(p_K).all()


def test_nine_trees_of_a_hundred_columns_fit_into_thirty_megabytes() -> None:
    arrays = make_tree(100, 10)
    while len(arrays["leaf_sums"]) < 64:
        arrays = make_room(arrays, 10_000)
    assert 9 * sum(array.nbytes for array in arrays.values()) <= 30e6
    small = make_tree(6, 2)
    assert sum(array.nbytes for array in small.values()) < 40_000
