"""Concept trees: a concept that returns finds its tree; and the filter by the book."""

import copy
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.streams.trees.concept_trees import (
    OPENED,
    SWITCHED,
    answer_pool,
    grow_pool,
    learn_pool,
    make_pool,
    read_concepts,
)
from streams.forest_room import make_room

Arrays = dict[str, NDArray[Any]]
KINDS_C = np.zeros(4, np.int64)


def learn_all(
    arrays: Arrays, x_NC: NDArray[np.float64], labels: NDArray[np.int64], block: int = 1
) -> tuple[Arrays, NDArray[np.bool_], list[int]]:
    """The pool after all events, which of them it had right before, and what it said."""
    right = np.zeros(len(x_NC), bool)
    events = []
    p_K = np.zeros(arrays["leaf_sums"].shape[1])
    for row in range(len(x_NC)):
        if row % block == 0:
            arrays = make_room(arrays, block)
            pool = tuple(arrays.values())
        answer_pool(pool, x_NC[row], KINDS_C, p_K)
        right[row] = p_K.argmax() == labels[row]
        events.append(learn_pool(pool, x_NC[row], KINDS_C, int(labels[row]), 1.0))
    return arrays, right, events


def draw_concepts(order: str, num: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Events of concept A (two thresholds) or B (another one, turned round)."""
    x_NC = np.random.default_rng(0).random((len(order) * num, 4))
    of_a = (x_NC[:, 0] > 0.3) & (x_NC[:, 1] > 0.3)
    of_b = x_NC[:, 2] < 0.5
    is_a = np.repeat([concept == "A" for concept in order], num)
    return x_NC, np.where(is_a, of_a, of_b).astype(np.int64)


def test_a_concept_that_returns_finds_its_tree() -> None:
    num = 3000
    x_NC, labels = draw_concepts("ABAB", num)
    arrays, right, events = learn_all(make_pool(4, 2), x_NC, labels)
    opened = [row for row, event in enumerate(events) if event == OPENED]
    assert len(opened) == 1
    assert num < opened[0] < num + 300
    errors = [int((~right[start : start + 500]).sum()) for start in range(0, 4 * num, num)]
    # First visits are learned, second visits are recalled.
    assert max(errors[2:]) < 0.4 * min(errors[:2])
    assert SWITCHED in events[2 * num : 2 * num + 200]
    concepts = read_concepts(arrays)
    assert [born for _, _, born, _ in concepts] == [opened[0] + 1, 0]
    assert sum(share for _, share, _, _ in concepts) == pytest.approx(1.0)
    assert concepts[0][3] == 4 * num


def test_the_filter_is_that_of_the_book() -> None:
    x_NC, labels = draw_concepts("AB", 2000)
    arrays, _, _ = learn_all(make_pool(4, 2), x_NC, labels)
    assert len(read_concepts(arrays)) == 2
    p_TK = np.zeros((2, 2))
    for tree in range(2):  # the answer of one tree is that of a pool which believes it alone
        alone = copy.deepcopy(arrays)
        alone["shares"][:] = np.eye(4)[tree]
        answer_pool(tuple(alone.values()), x_NC[0], KINDS_C, p_TK[tree])
    shares = arrays["shares"][:2].copy()
    p_K = np.zeros(2)
    answer_pool(tuple(arrays.values()), x_NC[0], KINDS_C, p_K)
    np.testing.assert_allclose(p_K, shares @ p_TK)
    expected = shares * (0.95 * p_TK[:, 1] + 0.05 / 2) ** 0.5
    expected = 0.99 * expected / expected.sum() + 0.01 / 2
    learn_pool(tuple(arrays.values()), x_NC[0], KINDS_C, 1, 1.0)
    np.testing.assert_allclose(arrays["shares"], [*expected, 0.0, 0.0])


def test_only_the_most_probable_tree_learns() -> None:
    x_NC, labels = draw_concepts("AB", 2000)
    arrays, _, _ = learn_all(make_pool(4, 2), x_NC, labels)
    acting = int(arrays["shares"].argmax())
    other = 1 - acting
    before = copy.deepcopy(arrays)
    arrays, _, _ = learn_all(arrays, x_NC[-50:], labels[-50:])

    def sum_leaves(pool: Arrays, tree: int) -> float:
        is_leaf = pool["nodes"][tree, : pool["trees"][tree, 0], 0] < 0
        rows = pool["nodes"][tree, : pool["trees"][tree, 0], 2][is_leaf]
        return float(pool["leaf_sums"][rows].sum())

    assert sum_leaves(arrays, other) == sum_leaves(before, other)
    # Poisson numbers of mean 6.
    assert 200 < sum_leaves(arrays, acting) - sum_leaves(before, acting) < 400


def draw_columns(order: list[int], num: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Concepts in each of which another column tells the class."""
    x_NC = np.random.default_rng(0).random((len(order) * num, 4))
    columns = np.repeat(order, num)
    return x_NC, (x_NC[np.arange(len(x_NC)), columns] > 0.5).astype(np.int64)


def test_four_concepts_are_kept() -> None:
    num = 2000
    x_NC, labels = draw_columns([0, 1, 2, 3, 0, 1, 2, 3], num)
    arrays, right, events = learn_all(make_pool(4, 2), x_NC, labels)
    assert events.count(OPENED) == 3
    assert read_concepts(arrays)[0][2] > 3 * num
    errors = (~right).reshape(8, num).sum(1)
    assert errors[4:].sum() < 0.3 * errors[:4].sum()


def test_where_all_trees_are_open_the_one_used_longest_ago_goes() -> None:
    x_NC, labels = draw_columns([0, 1, 2, 3], 2000)
    _, _, events = learn_all(make_pool(4, 2, num_trees=3), x_NC, labels)
    third = [row for row, event in enumerate(events) if event == OPENED][2]
    arrays, _, _ = learn_all(make_pool(4, 2, num_trees=3), x_NC[:third], labels[:third])
    oldest = int(arrays["concepts"][:, 1].argmin())
    arrays, _, events = learn_all(arrays, x_NC[third:], labels[third:])
    assert events[0] == OPENED
    assert arrays["concepts"][oldest, 0] == third + 1
    assert read_concepts(arrays)[0][0] == oldest
    free = int(arrays["free"][0])
    assert free + arrays["trees"][:, 1].sum() == len(arrays["leaf_sums"])


def test_copies_seeds_and_blocks() -> None:
    x_NC, labels = draw_concepts("AB", 1500)
    arrays, _, _ = learn_all(make_pool(4, 2, seed=3), x_NC[:1000], labels[:1000])
    twin = copy.deepcopy(arrays)
    arrays, _, _ = learn_all(arrays, x_NC[1000:], labels[1000:])
    twin, _, _ = learn_all(twin, x_NC[1000:], labels[1000:])
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], twin[name], err_msg=name)
    blocks, _, _ = learn_all(make_pool(4, 2, seed=3), x_NC, labels, block=100)
    for name in ("nodes", "thresholds", "shares", "concepts", "generator"):
        np.testing.assert_array_equal(arrays[name], blocks[name], err_msg=name)
    other, _, _ = learn_all(make_pool(4, 2, seed=4), x_NC, labels)
    assert not np.array_equal(arrays["shares"], other["shares"])


def test_it_grows_and_is_small_until_concepts_come() -> None:
    arrays = make_pool(100, 10)
    assert sum(array.nbytes for array in arrays.values()) < 600_000
    x_NC, labels = draw_concepts("A", 500)
    arrays, _, _ = learn_all(make_pool(4, 2), x_NC, labels)
    grown = grow_pool(arrays, 6, 3)
    before, after = np.zeros(2), np.zeros(3)
    answer_pool(tuple(arrays.values()), x_NC[0], KINDS_C, before)
    answer_pool(tuple(grown.values()), x_NC[0], KINDS_C, after)
    assert after[0] / after[1] == pytest.approx(before[0] / before[1])
    assert after.sum() == pytest.approx(1.0)


def test_no_weight_changes_nothing() -> None:
    arrays = make_pool(4, 2)
    before = copy.deepcopy(arrays)
    learn_pool(tuple(arrays.values()), np.ones(4), KINDS_C, 1, 0.0)
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], before[name], err_msg=name)
