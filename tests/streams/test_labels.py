"""Labels keep their types and their order; what cannot be a label changes nothing."""

import json
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import DataError, UnknownLabel
from nestling.streams.labels import SeenLabels, read_label

LABELS = st.one_of(
    *(st.text(max_size=3), st.integers(-5, 5), st.booleans(), st.integers(-(10**30), 10**30)),
    st.sampled_from([1.0, 0.0, -0.0, np.int64(1), np.bool_(True), np.str_("1"), np.float32(2)]),
)


def test_types_are_told_apart() -> None:
    labels = SeenLabels()
    given_labels = [True, 1, "1", "True", np.bool_(True), np.uint8(1), 1.0, torch.tensor(1), False]
    assert [labels.admit(one) for one in given_labels] == [0, 1, 2, 3, 0, 1, 1, 1, 4]
    assert [type(one) for one in labels.labels] == [bool, int, str, str, bool]
    assert labels[0] is True
    assert len(labels) == 5
    assert labels.find(0) is None
    assert labels.find(torch.tensor(True)) == 0


@pytest.mark.parametrize(
    "label",
    [
        *(None, float("nan"), np.nan, float("inf"), 1.5, [1], {"a": 1}, (1,), b"x", Decimal(1)),
        *(np.zeros(1), np.zeros(2), torch.zeros(1), np.datetime64("2020"), 1j, object()),
    ],
)
def test_no_label(label: object) -> None:
    labels = SeenLabels()
    labels.admit("spam")
    with pytest.raises(UnknownLabel, match=f"of type {type(label).__name__}"):
        labels.admit(label)
    with pytest.raises(UnknownLabel):
        labels.find(label)
    assert labels.labels == ["spam"]
    assert labels.admit("ham") == 1


@given(st.lists(LABELS), st.lists(LABELS))
def test_labels_are_numbered_as_they_appear(given_labels: list, later: list) -> None:
    labels = SeenLabels()
    model: list = []
    for label in given_labels:
        plain = read_label(label)
        if not any(type(one) is type(plain) and one == plain for one in model):
            model.append(plain)
            assert labels.find(label) is None
        place = labels.admit(label)
        assert labels.find(label) == place
        assert (type(model[place]), model[place]) == (type(plain), plain)
    twin = SeenLabels()
    twin.load_state_dict(json.loads(json.dumps(labels.state_dict())))
    assert [labels.admit(one) for one in later] == [twin.admit(one) for one in later]
    assert list(map(repr, labels.labels)) == list(map(repr, twin.labels))


def test_a_bad_state_changes_nothing() -> None:
    labels = SeenLabels()
    labels.admit("spam")
    with pytest.raises(DataError, match="stands twice"):
        labels.load_state_dict({"labels": ["a", "a"]})
    labels.load_state_dict({"labels": labels.labels})
    assert labels.labels == ["spam"]
