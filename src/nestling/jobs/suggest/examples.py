"""Examples to measure on: read as a job reads its data, and checked."""

from pathlib import Path

import torch
from torch import Tensor

from nestling.core.errors import DataError, NonFiniteInput, SettingError, ShapeMismatch, suggest
from nestling.data import Experience, list_datasets, list_suites, make_suite
from nestling.jobs.job import read_job
from nestling.jobs.job_files import read_job_files

# With fewer, a third held out says nothing.
MIN_EXAMPLES = 20
_SUFFIXES = (".csv", ".parquet", ".npz")


def read_examples(source: str, *, target: str = "label", seed: int = 0) -> tuple[Tensor, Tensor]:
    """Read training examples in order of arrival, from a file, data set, suite or function.

    Args:
        source: a CSV, Parquet or NPZ file, a data set's or a suite's name, or "module:function"
            that returns experiences; as in a job.
        target: of a file: the column, or the array, to predict.
        seed: of a suite.

    Returns: inputs (N, ...) and targets (N, ...); experiences one after the other.

    Raises:
        SettingError: nothing of that name.
        DataError: a file that cannot be read; see `read_job_files`.
        JobError: the function failed, or returned something else.

    >>> read_examples("digits")[0].shape
    torch.Size([1258, 64])
    """
    path = Path(source)
    if path.suffix in _SUFFIXES or path.is_file():
        # As a job reads a training file; nothing is held out of what is only measured.
        return read_job_files([path], [path], target).train[0]
    if source in list_suites():
        return _join(make_suite(source, seed).experiences)
    names = [one.name for one in list_datasets()]
    if ":" not in source and source not in names:
        known = suggest(source, [*names, *list_suites()])
        raise SettingError(
            f"data {source!r} is no file (.csv, .parquet, .npz) and no name; {known}"
        )
    # A job needs a model; reading its data does not build it.
    return _join(read_job({"model": "mlp", "data": source}).load_experiences())


def _join(experiences: list[Experience]) -> tuple[Tensor, Tensor]:
    shapes = {one.train[0].shape[1:] for one in experiences}
    if len(shapes) > 1:
        raise ShapeMismatch(f"experiences differ in the shape of inputs: {sorted(shapes)}")
    inputs, targets = zip(*(one.train for one in experiences), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def check_examples(x: Tensor, y: Tensor) -> None:
    """Raise unless something can be measured on these examples.

    Args:
        x: (N, ...) inputs.
        y: (N,) classes, or (N,) or (N, M) values.

    Raises:
        DataError: fewer than 20, one class only, or one value only.
        NonFiniteInput: NaN or infinity.
        ShapeMismatch: lengths that differ, or targets of another form.
    """
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ShapeMismatch(
            f"inputs {tuple(x.shape)} and targets {tuple(y.shape)} differ in length"
        )
    if len(x) < MIN_EXAMPLES:
        raise DataError(f"{len(x)} examples; measuring needs {MIN_EXAMPLES} or more")
    for name, values in (("inputs", x), ("targets", y)):
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise NonFiniteInput(f"{name} hold NaN or infinity; drop or impute those rows")
    if y.is_floating_point():
        if y.ndim > 2:
            raise ShapeMismatch(f"values of shape {tuple(y.shape)}; (N,) or (N, M) works")
        if bool((y == y[0]).all()):
            raise DataError(f"every target is {y[0].tolist()}; there is nothing to learn")
        return
    if y.ndim != 1:
        raise ShapeMismatch(f"classes of shape {tuple(y.shape)}; one per example, (N,), works")
    labels = y.unique()
    if int(labels[0]) < 0:
        raise DataError(f"label {int(labels[0])} is negative; number classes 0, 1, 2, ...")
    if len(labels) < 2:
        raise DataError(
            f"every example is of class {int(labels[0])}; measuring needs two classes or more"
        )
