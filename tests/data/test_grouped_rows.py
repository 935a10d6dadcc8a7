"""Rows with their groups: found, chosen, split and joined; wrong ones are refused."""

import pytest
import torch

from nestling.core.errors import DataError
from nestling.data.groups import GroupedRows, join_rows


@pytest.fixture
def rows() -> GroupedRows:
    columns = {"sex": ("f", "m", "f", "m"), "place": ("a", "a", "b", "b")}
    return GroupedRows(torch.eye(4), torch.arange(4), columns)


def test_rows_are_found_by_all_values(rows: GroupedRows) -> None:
    assert rows.find({"sex": "f", "place": "b"}).tolist() == [False, False, True, False]
    assert rows.find({}).all()
    with pytest.raises(DataError, match="no column 'sez'"):
        rows.find({"sez": "f"})


def test_what_is_chosen_keeps_inputs_labels_and_columns_together(rows: GroupedRows) -> None:
    chosen = rows.select([3, 0])
    assert chosen.y.tolist() == [3, 0]
    assert chosen.columns["sex"] == ("m", "f")
    assert torch.equal(chosen.x, torch.eye(4)[[3, 0]])
    by_mask = rows.select(torch.tensor([False, True, False, True]))
    assert by_mask.y.tolist() == [1, 3]
    first, others = rows.split(1)
    joined = join_rows([others, first])
    assert joined.y.tolist() == [1, 2, 3, 0]
    assert joined.columns["place"] == ("a", "b", "b", "a")


def test_an_order_is_drawn_by_its_seed_and_salt(rows: GroupedRows) -> None:
    many = join_rows([rows] * 8)
    assert many.shuffle(0, "a").y.tolist() == many.shuffle(0, "a").y.tolist()
    assert many.shuffle(0, "a").y.tolist() != many.shuffle(0, "b").y.tolist()
    assert many.shuffle(0, "a").y.tolist() != many.shuffle(1, "a").y.tolist()


def test_rows_that_do_not_fit_are_refused(rows: GroupedRows) -> None:
    with pytest.raises(DataError, match="4 rows have 3 'labels'"):
        GroupedRows(torch.eye(4), torch.arange(3), {})
    with pytest.raises(DataError, match="4 rows have 1 'sex'"):
        GroupedRows(torch.eye(4), torch.arange(4), {"sex": ("f",)})
    with pytest.raises(DataError, match="no rows to join"):
        join_rows([])
    with pytest.raises(DataError, match="cannot join"):
        join_rows([rows, GroupedRows(torch.eye(4), torch.arange(4), {})])
