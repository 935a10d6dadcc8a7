"""Concept trees: one tree per concept, and a filter over which concept is in force.

A concept that returns finds its tree as it was, instead of being learned again.

Axis letters as in `forest`: T trees, of which some are open.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled
from nestling.streams.trees.branches import (
    adwin_of,
    draw_poisson,
    plant_tree,
)
from nestling.streams.trees.error_windows import clear_adwin, update_adwin
from nestling.streams.trees.forest import (
    FOREST_END,
    GENERATOR,
    LEAF_SUMS,
    MEAN_WEIGHT,
    SCRATCH,
    SETTINGS,
    grow_forest,
    make_forest,
)
from nestling.streams.trees.hoeffding import answer_one_tree, find_largest, learn_one_tree

# The arrays of `make_pool` in their order: those of the forest, then the filter's two.
Pool: TypeAlias = tuple[NDArray[Any], ...]

# A tree's answer counts for this much, the rest is spread over all classes.
TRUST = 0.95
# How much of what an event says of the concepts is believed: events are not independent.
TEMPER = 0.5
# The chance that the concept has changed between two events.
CHANGE = 0.01
# What a concept that is opened is given at once.
OPENED_SHARE = 0.7

# After the arrays of the forest.
SHARES, CONCEPTS, NUM_EVENTS = range(FOREST_END, FOREST_END + 3)
# What `learn_pool` says.
NOTHING, OPENED, SWITCHED = 0, 1, 2
# Places in the last axis of `concepts`: events learned when it was opened (-1: not open), and when
# it was last in force.
BORN, LAST = range(2)


def make_pool(
    num_columns: int,
    num_classes: int,
    *,
    num_trees: int = 4,
    max_leaves: int = 64,
    check_every: int = 200,
    delta: float = 1e-4,
    mean_weight: float = 6.0,
    adwin_delta: float = 0.002,
    seed: int = 0,
) -> dict[str, NDArray[Any]]:
    """Arrays of a pool of concept trees, one of them open.

    Args:
        num_columns: of the events, >= 1.
        num_classes: K >= 1.
        num_trees: how many concepts are kept.
        max_leaves: of each tree.
        check_every: events at a leaf between two looks for a split.
        delta: chance of a wrong split that each check allows.
        mean_weight: each event is learned as often as a Poisson number of this mean.
        adwin_delta: of the ADWIN on errors whose rise opens a concept.
        seed: of Poisson numbers and columns.

    Returns:
        arrays by name; `tuple(arrays.values())` is what kernels take.
    """
    arrays = make_forest(
        num_trees,
        num_columns,
        num_classes,
        max_leaves=max_leaves,
        check_every=check_every,
        delta=delta,
        mean_weight=mean_weight,
        adwin_delta=adwin_delta,
        seed=seed,
    )
    plant_tree(tuple(arrays.values()), 0, num_columns)
    arrays["shares"] = np.zeros(num_trees)
    arrays["shares"][0] = 1.0
    arrays["concepts"] = np.full((num_trees, 2), -1, np.int64)
    arrays["concepts"][0] = 0
    arrays["num_events"] = np.zeros(1, np.int64)
    return arrays


def grow_pool(
    arrays: dict[str, NDArray[Any]], num_columns: int, num_classes: int
) -> dict[str, NDArray[Any]]:
    """The same pool with room for columns and classes that appeared later; see `grow_tree`."""
    return grow_forest(arrays, num_columns, num_classes)


@compiled
def answer_pool(
    pool: Pool,
    x_C: NDArray[np.float64],
    kinds_C: NDArray[np.int64],
    p_K: NDArray[np.float64],
) -> None:
    """Class probabilities by the trees of all concepts, each as probable as its concept.

    Args:
        pool: `tuple(make_pool(...).values())`.
        x_C: values of the event, NaN where missing.
        kinds_C: 0: number, 1: category with codes 0, 1, 2.
        p_K: filled; sums to 1, all above 0.
    """
    forest, shares_T, concepts_T2 = pool[:FOREST_END], pool[SHARES], pool[CONCEPTS]
    one_K = np.empty(p_K.shape[0])  # not the scratch: a query leaves every array as it is
    p_K[:] = 0.0
    for tree in range(shares_T.shape[0]):
        if concepts_T2[tree, BORN] >= 0:
            answer_one_tree(forest, tree, x_C, kinds_C, one_K)
            for k in range(p_K.shape[0]):
                p_K[k] += shares_T[tree] * one_K[k]


@compiled
def _open_concept(pool: Pool, num_columns: int, now: int) -> bool:
    """A new tree takes over; where all are open, that which was in force longest ago goes."""
    shares_T, concepts_T2 = pool[SHARES], pool[CONCEPTS]
    tree = 0
    for other in range(1, shares_T.shape[0]):
        if concepts_T2[other, LAST] < concepts_T2[tree, LAST]:
            tree = other
    if not plant_tree(pool[:FOREST_END], tree, num_columns):
        return False
    shares_T[tree] = 0.0
    rest = shares_T.sum()
    for other in range(shares_T.shape[0]):
        shares_T[other] *= (1.0 - OPENED_SHARE) / rest
    shares_T[tree] = OPENED_SHARE
    concepts_T2[tree, BORN] = now
    concepts_T2[tree, LAST] = now
    return True


@compiled
def learn_pool(
    pool: Pool,
    x_C: NDArray[np.float64],
    kinds_C: NDArray[np.int64],
    label: int,
    weight: float,
) -> int:
    """The filter hears of an event, and the tree of the most probable concept learns it.

    r_c ~ pi_c (.95 p_c(y) + .05/K)^.5, pi_c <- .99 r_c + .01/n over the n open concepts. Where the
    errors of the trees in force rise (ADWIN) a new concept is opened.

    Args:
        pool: `tuple(make_pool(...).values())`; changed in place; see `forest_tables.lacks_room`.
        x_C: values of the event, NaN where missing.
        kinds_C: 0: number, 1: category with codes 0, 1, 2.
        label: class, below the number of classes.
        weight: of the event; 0 learns nothing.

    Returns:
        NOTHING, OPENED a concept, or SWITCHED to another.
    """
    forest, shares_T, concepts_T2, num_events = (
        pool[:FOREST_END],
        pool[SHARES],
        pool[CONCEPTS],
        pool[NUM_EVENTS],
    )
    if weight <= 0.0:
        return NOTHING
    num_events[0] += 1
    num_classes = forest[LEAF_SUMS].shape[1]
    p_K = forest[SCRATCH][2]
    before = find_largest(shares_T)
    total = 0.0
    num_open = 0
    for tree in range(shares_T.shape[0]):
        num_open += concepts_T2[tree, BORN] >= 0
    for tree in range(shares_T.shape[0] if num_open > 1 else 0):  # one alone stays in force
        if concepts_T2[tree, BORN] >= 0:
            answer_one_tree(forest, tree, x_C, kinds_C, p_K)
            shares_T[tree] *= (TRUST * p_K[label] + (1.0 - TRUST) / num_classes) ** TEMPER
            total += shares_T[tree]
    for tree in range(shares_T.shape[0] if num_open > 1 else 0):
        if concepts_T2[tree, BORN] >= 0:
            shares_T[tree] = (1.0 - CHANGE) * shares_T[tree] / total + CHANGE / num_open
    now = find_largest(shares_T)
    concepts_T2[now, LAST] = num_events[0]
    times = draw_poisson(forest[GENERATOR], forest[SETTINGS][MEAN_WEIGHT])
    wrong = learn_one_tree(forest, now, x_C, kinds_C, label, weight * times)
    adwin = adwin_of(forest)
    if update_adwin(adwin, 1.0 if wrong else 0.0) > 0:
        clear_adwin(adwin)
        if _open_concept(pool, kinds_C.shape[0], num_events[0]):
            return OPENED
    return NOTHING if now == before else SWITCHED


def read_concepts(arrays: dict[str, NDArray[Any]]) -> list[tuple[int, float, int, int]]:
    """Which concepts a pool knows, the most probable first.

    Args:
        arrays: of `make_pool`.

    Returns:
        for each open concept: its tree, its probability, how many events had been learned when it
        was opened, and when it was last in force.
    """
    shares_T, concepts_T2 = arrays["shares"].tolist(), arrays["concepts"].tolist()
    known = [
        (tree, share, born, last)
        for tree, (share, (born, last)) in enumerate(zip(shares_T, concepts_T2, strict=True))
        if born >= 0
    ]
    return sorted(known, key=lambda concept: -concept[1])
