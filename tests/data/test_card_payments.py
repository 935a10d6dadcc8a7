"""Made-up card payments: rare fraud, late labels, schemes that return, the same twice."""

from collections import Counter

import numpy as np
import pytest

from nestling.core.errors import SettingError
from nestling.data.events import find_schemes, make_payments

NUM = 20_000


def test_the_same_seed_gives_the_same_payments_whatever_their_number() -> None:
    first = list(make_payments(500, seed=3))
    assert list(make_payments(800, seed=3))[:500] == first
    assert list(make_payments(500, seed=4)) != first


def test_fraud_is_rare_told_weeks_late_and_some_never() -> None:
    payments = list(make_payments(NUM, seed=1))
    frauds = [one for one in payments if one.is_fraud]
    assert 0.006 < len(frauds) / NUM < 0.01
    assert all(bool(one.scheme) == one.is_fraud for one in payments)
    told = [one.told_after for one in payments if one.told_after is not None]
    assert min(told) >= 1
    assert 3_000 < np.median(told) < 4_500
    assert max(told) <= 250 * (28 + 9) + 1
    silent = [one.told_after is None for one in frauds]
    assert 0.03 < np.mean(silent) < 0.2


def test_the_prevailing_scheme_changes_where_it_is_said_to() -> None:
    payments = list(make_payments(NUM, seed=0))
    assert find_schemes(NUM) == [(0, "testing"), (10_000, "electronics")]
    for start, scheme in find_schemes(NUM):
        found = Counter(one.scheme for one in payments[start : start + 10_000] if one.is_fraud)
        assert found.most_common(1)[0][0] == scheme


def test_values_are_plain_and_the_amount_is_among_them() -> None:
    for one in make_payments(300, seed=0):
        assert all(type(value) in (float, int, str, bool) for value in one.x.values())
        assert one.x["amount"] == one.amount > 0.0
        assert 0.0 <= one.x["hour"] <= 24.0


def test_less_than_one_payment_is_refused() -> None:
    with pytest.raises(SettingError, match="num_payments is 0; give 1 or more"):
        make_payments(0)
