"""Figures of the accuracy matrix, against the worked example and what must hold for any matrix."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import DataError, SettingError
from nestling.judge import FORMULAS, AccuracyMatrix, formula

WORKED = [[0.80, 0.10, 0.10], [0.90, 0.90, 0.20], [0.95, 0.70, 0.90]]
shares = st.floats(0.0, 1.0)
entries = st.floats(allow_infinity=False)
matrices = st.integers(2, 5).flatmap(
    lambda n: st.lists(st.lists(shares, min_size=n, max_size=n), min_size=n, max_size=n)
)


def test_definitions_of_backward_transfer_disagree_on_the_worked_example():
    judged = AccuracyMatrix(WORKED)
    assert judged.bwt() == pytest.approx(-0.025)
    assert judged.bwt("diaz-rodriguez") == pytest.approx(0.05 / 3)


@pytest.mark.parametrize(("name", "wanted"), [("chaudhry", 0.075), ("peak", 0.1), ("final", 0.025)])
def test_definitions_of_forgetting_disagree_on_the_worked_example(name, wanted):
    assert AccuracyMatrix(WORKED).forgetting(name) == pytest.approx(wanted)


def test_acc_learning_accuracy_and_forward_transfer():
    judged = AccuracyMatrix(WORKED, baseline=[0.1, 0.05, 0.1])
    assert judged.acc() == pytest.approx(0.85)
    assert judged.learning_accuracy() == pytest.approx((0.8 + 0.9 + 0.9) / 3)
    assert judged.fwt() == pytest.approx(((0.10 - 0.05) + (0.20 - 0.10)) / 2)


@given(matrices)
def test_relations_between_definitions(values):
    judged = AccuracyMatrix(values)
    assert judged.forgetting("final") == pytest.approx(-judged.bwt())
    assert judged.forgetting("peak") >= max(0.0, judged.forgetting("chaudhry")) - 1e-12
    assert judged.forgetting("chaudhry") >= judged.forgetting("final") - 1e-12


@given(shares, st.integers(2, 6))
def test_a_constant_matrix_neither_gains_nor_loses(value, size):
    judged = AccuracyMatrix([[value] * size] * size)
    for figure in (judged.bwt(), judged.bwt("diaz-rodriguez"), judged.forgetting()):
        assert figure == pytest.approx(0.0)
    assert judged.acc() == pytest.approx(value)


def test_what_was_not_measured_is_left_out():
    judged = AccuracyMatrix([[0.8, math.nan], [0.6, 0.9]])
    assert judged.bwt() == pytest.approx(-0.2)
    assert judged.forgetting() == pytest.approx(0.2)


def test_one_experience_has_no_forgetting():
    assert math.isnan(AccuracyMatrix([[0.9]]).forgetting())


@pytest.mark.parametrize("values", [[], [[0.1, 0.2]], [[0.1], [0.2]]])
def test_a_matrix_must_be_square(values):
    with pytest.raises(DataError, match="square"):
        AccuracyMatrix(values)


def test_unknown_definitions_name_the_nearest():
    with pytest.raises(SettingError, match="did you mean 'bwt lopez-paz'"):
        AccuracyMatrix(WORKED).bwt("lopez-pas")
    with pytest.raises(DataError, match="baseline"):
        AccuracyMatrix(WORKED).fwt()
    with pytest.raises(DataError, match="one for each"):
        AccuracyMatrix(WORKED, baseline=[0.1])


def test_every_formula_can_be_printed():
    assert all("=" in formula(name) for name in FORMULAS)


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(entries, min_size=n, max_size=n), min_size=n, max_size=n),
            st.none() | st.lists(entries, min_size=n, max_size=n),
        )
    )
)
def test_json_gives_the_same_matrix_back_with_what_was_not_measured(given_matrix):
    values, baseline = given_matrix
    written = AccuracyMatrix(values, baseline)
    text = written.to_json()
    read = AccuracyMatrix.from_json(text)
    # repr, since NaN differs from itself and -0.0 equals 0.0.
    assert repr((read.values, read.baseline)) == repr((written.values, written.baseline))
    assert "NaN" not in text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[[0.5]]", '"values"'),
        ("{}", "'values' is missing"),
        ('{"values": 3}', "'values' is a number"),
        ('{"values": [null]}', r"'values\[0\]' is null"),
        ('{"values": [[0.5, 1], [0.5, "x"]]}', r"'values\[1\]\[1\]' is a text"),
        ('{"values": [[true]]}', r"'values\[0\]\[0\]' is a truth value"),
        ('{"values": [[NaN]]}', r"'values\[0\]\[0\]' is not a finite number"),
        (json.dumps({"values": [[10**400]]}), r"'values\[0\]\[0\]' is not a finite number"),
        ('{"values": [[0.5]], "baseline": [{}]}', r"'baseline\[0\]' is an object"),
        ('{"values": [[0.5]], "base": [0.1]}', "field 'base'.*did you mean 'baseline'"),
        ('{"values": [[0.5, 0.5]]}', "square"),
    ],
)
def test_bad_json_names_the_field(text, wanted):
    with pytest.raises(DataError, match=wanted):
        AccuracyMatrix.from_json(text)


def test_an_infinite_entry_is_not_written():
    with pytest.raises(DataError, match=r"values\[0\]\[0\] is inf"):
        AccuracyMatrix([[math.inf]]).to_json()
