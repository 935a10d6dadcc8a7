"""Student's t is that of SciPy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import SettingError
from nestling.judge.student import student_quantile, student_tail


@given(st.integers(1, 60), st.floats(-30, 30))
def test_the_tail_is_that_of_scipy(num_degrees: int, t: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = 2 * stats.t.sf(abs(t), num_degrees)
    assert student_tail(t, num_degrees) == pytest.approx(expected, abs=1e-13)


@given(st.integers(1, 200), st.floats(1e-4, 0.999))
def test_the_quantile_is_that_of_scipy(num_degrees: int, tail: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.t.isf(tail / 2, num_degrees)
    assert student_quantile(tail, num_degrees) == pytest.approx(expected, rel=1e-8)


def test_wrong_input() -> None:
    with pytest.raises(SettingError, match="0 degrees of freedom"):
        student_tail(1.0, 0)
    with pytest.raises(SettingError, match="0 degrees of freedom"):
        student_quantile(0.05, 0)
    for tail in (0.0, 1.0, float("nan")):
        with pytest.raises(SettingError, match="a tail of"):
            student_quantile(tail, 3)
