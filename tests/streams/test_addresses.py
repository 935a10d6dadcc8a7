"""Kernels read the arrays that Python keeps: types, shapes and numbers, each at its address."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nestling.streams.experts.expert_arrays import EXPERTS, VALUE_EXPERTS
from nestling.streams.experts.expert_pool import ExpertPool
from nestling.streams.kernels.addresses import ROW, tabulate
from nestling.streams.kernels.gate_step import open_gate
from nestling.streams.kernels.network_step import open_networks
from nestling.streams.kernels.ridge_step import open_ridges
from nestling.streams.kernels.views import open_views
from nestling.streams.trees.forest_tables import open_pool, open_tree, open_value_tree


def flatten(found: Any) -> Iterator[NDArray[Any]]:
    if isinstance(found, tuple):
        for one in found:
            yield from flatten(one)
    else:
        yield found


def make_pool(*, classifies: bool) -> ExpertPool:
    names = EXPERTS if classifies else VALUE_EXPERTS
    pool = ExpertPool(names, 0, classifies=classifies)
    pool.grow([0, 1, 0], [0, 3, 0], 4 if classifies else 1)
    return pool


@pytest.mark.parametrize(
    ("section", "open_section"),
    [
        ("views", open_views),
        ("networks", open_networks),
        ("ridges", open_ridges),
        ("gate", open_gate),
        ("tree", open_tree),
        ("trees", open_pool),
    ],
)
def test_kernels_see_the_arrays_of_classes(section: str, open_section: Callable[..., Any]) -> None:
    check_section(make_pool(classifies=True), section, open_section)


@pytest.mark.parametrize("section", ["tree", "trees_recent"])
def test_kernels_see_the_arrays_of_values(section: str) -> None:
    check_section(make_pool(classifies=False), section, open_value_tree)


def check_section(pool: ExpertPool, section: str, open_section: Callable[..., Any]) -> None:
    kept = pool._table.held[section]
    opened = list(flatten(open_section(tabulate(kept))))
    assert [(a.dtype, a.shape) for a in opened] == [(a.dtype, a.shape) for a in kept]
    for seen, own in zip(opened, kept, strict=True):
        assert seen.ctypes.data == own.ctypes.data or own.size == 0


def test_a_table_has_a_row_for_each_array() -> None:
    arrays = [np.zeros((2, 3)), np.zeros(0), np.zeros((1, 2, 3, 4), dtype=np.float32)]
    table = tabulate(arrays).reshape(-1, ROW)
    assert table[:, 1:].tolist() == [[2, 3, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4]]
