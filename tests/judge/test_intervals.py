"""Means with intervals, against SciPy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nestling.core.errors import DataError
from nestling.judge import compare_paired, estimate_mean

values = st.lists(st.floats(-100, 100), min_size=2, max_size=60)


@given(values)
def test_the_interval_is_students(values):
    found = estimate_mean(values)
    quantile = stats.t.ppf(0.975, len(values) - 1)
    wanted = quantile * np.std(values, ddof=1) / math.sqrt(len(values))
    assert found.mean == pytest.approx(sum(values) / len(values), abs=1e-9)
    assert found.half_width == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_one_seed_promises_nothing():
    assert estimate_mean([0.5]).half_width == math.inf


def test_pairs_remove_what_seeds_share():
    base = [0.1, 0.5, 0.9]
    found = compare_paired([value + 0.01 for value in base], base)
    assert found.mean == pytest.approx(0.01)
    assert found.half_width < 1e-9


def test_wrong_input():
    with pytest.raises(DataError, match="no value"):
        estimate_mean([])
    with pytest.raises(DataError, match="same seeds"):
        compare_paired([1.0], [1.0, 2.0])
