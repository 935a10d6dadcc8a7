"""The files of a job, read together: matched by column name, encoded and labelled once for all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from nestling.core.errors import DataError
from nestling.core.seeds import make_generator
from nestling.data import (
    Experience,
    RawTable,
    TableEncoding,
    Targets,
    fit_encoding,
    from_arrays,
    read_columns,
)
from nestling.data.table_files import are_classes, read_arrays

Pair = tuple[Tensor, Tensor]
# Of a training file without a test file, so much is held out.
SHARE_HELD_OUT = 0.2


@dataclass(frozen=True)
class JobFiles:
    """What the files of a job hold.

    Attributes:
        train: inputs and targets of each training file.
        test: of each test file, or what was held out of each training file.
        encoding: how tables became numbers; without columns for arrays.
        held_out: rows that no test file named; empty if there are test files.
    """

    train: list[Pair]
    test: list[Pair]
    encoding: TableEncoding
    held_out: tuple[RawTable, ...] = ()


def read_job_files(
    train: Sequence[Path],
    test: Sequence[Path],
    target: str,
    *,
    targets: Targets | None = None,
    encode: bool = True,
    seed: int = 0,
    kept: TableEncoding | None = None,
) -> JobFiles:
    """Read training and test files; what their columns and targets mean is decided for all at once.

    Args:
        train: CSV and Parquet files, or NPZ files.
        test: the same; if there is none, a fifth of each training file is held out.
        target: column or array to predict.
        targets: what it holds; by default decided over all training files.
        encode: make numbers of text, dates and blanks, and scale numbers; else refuse and leave.
        seed: draws what is held out.
        kept: an encoding that was fitted before, used as it is.

    Raises:
        DataError: a file that cannot be read, or whose columns are others.
    """
    suffixes = {path.suffix == ".npz" for path in (*train, *test)}
    if suffixes == {True, False}:
        raise DataError("data mixes .npz with tables; arrays have no column names to match")
    if suffixes == {True}:
        return _read_all_arrays(train, test, target, targets, seed)
    tables = [read_columns(path) for path in train]
    held_out: tuple[RawTable, ...] = ()
    tests = [read_columns(path) for path in test]
    if not test:
        cuts = [_draw_held_out(len(t.lines), t.source, seed, at) for at, t in enumerate(tables)]
        held_out = tuple(t.select(out.tolist()) for t, (_, out) in zip(tables, cuts, strict=True))
        tables = [t.select(rest.tolist()) for t, (rest, _) in zip(tables, cuts, strict=True)]
        tests = list(held_out)
    encoding = kept or fit_encoding(tables, target, targets=targets, as_is=not encode)
    return JobFiles(
        [encoding.encode(table) for table in tables],
        [encoding.encode(table) for table in tests],
        encoding,
        held_out,
    )


def describe_targets(experiences: Sequence[Experience], target: str) -> TableEncoding:
    """What a run without tables knows of its targets: an encoding without columns."""
    classes = tuple(sorted({label for one in experiences for label in one.classes}))
    return TableEncoding(target, "classes" if classes else "values", (), classes, ())


def join_pairs(pairs: Sequence[Pair]) -> Pair:
    """All rows of several files; DataError if their inputs differ in shape."""
    widths = {x.shape[1:] for x, _ in pairs}
    if len(widths) > 1:
        raise DataError(f"data files differ in their inputs' shapes: {sorted(map(tuple, widths))}")
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def _read_all_arrays(
    train: Sequence[Path], test: Sequence[Path], target: str, targets: Targets | None, seed: int
) -> JobFiles:
    arrays: Mapping[Path, tuple[NDArray[Any], NDArray[Any]]] = {
        path: read_arrays(path, target) for path in (*train, *test)
    }
    if targets is None:
        are_numbers = all(arrays[path][1].dtype.kind in "biuf" for path in train)
        is_class = are_numbers and all(are_classes(arrays[path][1]) for path in train)
        targets = "classes" if is_class else "values"
    pairs = {
        path: from_arrays(x, y, target=target, source=str(path), targets=targets)
        for path, (x, y) in arrays.items()
    }
    trains, tests = [pairs[path] for path in train], [pairs[path] for path in test]
    if not test:
        cuts = [
            _draw_held_out(len(x), str(p), seed, at)
            for at, (p, (x, _)) in enumerate(zip(train, trains, strict=True))
        ]
        tests = [(x[out], y[out]) for (x, y), (_, out) in zip(trains, cuts, strict=True)]
        trains = [(x[rest], y[rest]) for (x, y), (rest, _) in zip(trains, cuts, strict=True)]
    found: set[int] = set()
    if targets == "classes":
        found = {label for _, y in trains for label in y.unique().tolist()}
    return JobFiles(trains, tests, TableEncoding(target, targets, (), tuple(sorted(found)), ()))


def _draw_held_out(num_rows: int, source: str, seed: int, index: int) -> tuple[Tensor, Tensor]:
    """Row numbers to learn and to hold out, each in the file's order."""
    num_held_out = max(1, round(SHARE_HELD_OUT * num_rows))
    if num_held_out >= num_rows:
        raise DataError(
            f"'{source}' has {num_rows} rows, too few to hold some out; give test files"
        )
    order = torch.randperm(
        num_rows, generator=make_generator(seed, "held out", index), device="cpu"
    )
    return order[num_held_out:].sort().values, order[:num_held_out].sort().values
