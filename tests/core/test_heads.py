"""The head of a model is its last linear layer; where there is none, that is said."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from nestling.core.errors import SettingError
from nestling.core.heads import check_width, find_head, find_head_layer
from nestling.levels.low_rank import attach_low_rank


def test_it_is_what_was_registered_last_however_deep() -> None:
    inner = nn.Sequential(OrderedDict(body=nn.Linear(3, 3), out=nn.Linear(3, 2)))
    model = nn.Sequential(OrderedDict(first=nn.Linear(3, 3), rest=inner, end=nn.ReLU()))
    assert find_head(model) == "rest.out"
    found = find_head_layer(model)
    assert found is not None
    assert found[0] == "rest.out"
    assert found[1] is inner.out


def test_a_linear_layer_is_its_own_head() -> None:
    layer = nn.Linear(2, 2)
    assert find_head(layer) == ""
    assert find_head_layer(layer) == ("", layer)


def test_an_overlay_does_not_hide_the_head() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    attach_low_rank(model, ["2.weight"], rank=1, generator=torch.Generator())
    assert find_head(model) == "2"


def test_without_one_the_error_says_what_would_work() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten())
    assert find_head_layer(model) is None
    with pytest.raises(
        SettingError, match=r"Sequential has no linear layer; name it: head='\.\.\.'"
    ):
        find_head(model)
    with pytest.raises(SettingError, match="no linear layer; read the input"):
        find_head(model, "read the input")


@pytest.mark.parametrize("num_classes", [2, 5])
def test_a_width_that_some_layer_has_may_be_the_heads(num_classes: int) -> None:
    """Which layer is run last is certain only in a sequence; elsewhere its first batch tells."""
    parts = nn.ModuleDict({"head": nn.Linear(5, 2), "spine": nn.Linear(4, 5)})
    check_width(parts, num_classes)
    with pytest.raises(SettingError, match="num_classes=7 but head 'spine' has 5 outputs"):
        check_width(parts, 7)


def test_a_sequence_says_how_wide_its_head_is() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2), nn.Softplus())
    check_width(model, 2)
    with pytest.raises(SettingError, match="num_classes=5 but head '2' has 2 outputs"):
        check_width(model, 5)
    # What follows the last linear layer may be the head.
    check_width(nn.Sequential(nn.Linear(4, 5), nn.Unflatten(1, (5, 1)), nn.Conv1d(5, 3, 1)), 3)
    check_width(nn.Sequential(nn.ReLU()), 3)
