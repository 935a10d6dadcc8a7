"""What differs between versions: figures of known tensors."""

import pytest
import torch

from nestling.core.errors import ShapeMismatch
from nestling.ledger.version_diff import compare_behaviour, count_flips, diff_level, measure_change
from nestling.ledger.version_record import VersionRecord


def test_a_level_that_is_the_same_bits_is_equal() -> None:
    one = {"w": torch.ones(3), "n": torch.tensor(2)}
    found = diff_level("head", one, {name: value.clone() for name, value in one.items()})
    assert found.is_equal
    assert (found.relative_change, found.cosine, found.num_changed) == (0.0, 1.0, 0)
    # The sign of zero is a bit.
    assert not diff_level("head", {"w": torch.zeros(1)}, {"w": -torch.zeros(1)}).is_equal


def test_figures_of_a_change() -> None:
    before = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}
    after = {"a": torch.tensor([0.0, 3.0]), "b": torch.tensor([4.0])}
    found = diff_level("head", before, after)
    assert found.relative_change == pytest.approx(18**0.5 / 5)
    assert found.cosine == pytest.approx(16 / 25)
    assert (found.largest_change, found.num_changed, found.num_tensors) == (3.0, 1, 2)
    assert found.cosine_of_changes is None


@pytest.mark.parametrize(("third", "cosine"), [(2.0, 1.0), (0.0, -1.0), (1.0, 0.0)])
def test_two_changes_in_a_row_go_the_same_way_or_back(third: float, cosine: float) -> None:
    versions = [{"w": torch.tensor([value])} for value in (0.0, 1.0, third)]
    found = diff_level("head", versions[1], versions[2], earlier=versions[0])
    assert found.cosine_of_changes == cosine


def test_rows_that_grew_are_a_change_from_zero() -> None:
    before, after = {"w": torch.ones(1, 2)}, {"w": torch.ones(2, 2), "new": torch.ones(1)}
    assert measure_change(before, after) == pytest.approx((3 / 2) ** 0.5)
    found = diff_level("head", before, after, earlier={"w": torch.zeros(1, 1)})
    assert found.num_changed == 2
    with pytest.raises(ShapeMismatch, match="'w' has the shapes"):
        measure_change(before, {"w": torch.ones(2)})


def test_behaviour_stands_side_by_side() -> None:
    one = VersionRecord("v0001", 0.0, "began", "s", {}, behaviour={"auc/spine": 0.7})
    two = VersionRecord("v0002", 0.0, "learned", "s", {})
    lines = [
        {"probe": "auc", "view": "spine", "version": "v0002", "value": 0.6},
        {"probe": "gap", "view": "whole", "version": "v0002", "value": 0.1},
        {"probe": "gap", "view": "whole", "version": "v0001", "value": None},
    ]
    assert compare_behaviour(one, two, lines) == {
        "auc/spine": (0.7, 0.6),
        "gap/whole": (None, 0.1),
    }


def test_flips_need_as_many_answers() -> None:
    rows = torch.tensor([0, 1])
    assert count_flips(rows, rows.flip(0), rows).num_lost == 2
    with pytest.raises(ShapeMismatch, match="give as many of each"):
        count_flips(rows, rows, rows[:1])
