"""FileAnswers of a run that is over, or stopped, to rows of a new file."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nestling.core.errors import DataError
from nestling.core.machine import use_threads
from nestling.data import TableEncoding, from_arrays, read_columns
from nestling.data.table_files import read_archive
from nestling.jobs.rebuilding import rebuild_learner


@dataclass(frozen=True)
class FileAnswers:
    """What a run answers to the rows of a file, in their order.

    Attributes:
        target: the column that is answered.
        answers: (N,) names of classes, or values.
        classes: names of the K classes; empty for values.
        probabilities: (N, K) of each class; (N, 0) for values.
    """

    target: str
    answers: Sequence[str | float]
    classes: Sequence[str]
    probabilities: Tensor

    def to_csv(self) -> str:
        """A header and a line per row: the answer, then the probability of each class."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([self.target, *(f"p({name})" for name in self.classes)])
        for answer, row in zip(self.answers, self.probabilities.tolist(), strict=True):
            writer.writerow([answer, *(f"{value:.6g}" for value in row)])
        return text.getvalue()


def predict_file(run: Path, file: Path, *, snapshot: Path | None = None) -> FileAnswers:
    """Answer the rows of a file as a run does at its last snapshot.

    Args:
        run: folder of `nestling learn`.
        file: CSV or Parquet with the columns of the run's training files, in any order, with
            the target or without; NPZ with `x` for a run on arrays.
        snapshot: folder of another snapshot of the run than the last.

    Raises:
        DataError: no run, other columns, or a file that cannot be read.
        JobError: a run that has no snapshot yet.
    """
    rebuilt = rebuild_learner(run, snapshot)
    encoding, learner = rebuilt.encoding, rebuilt.learner
    x = _read_inputs(file, encoding)
    with use_threads(rebuilt.job.num_threads):
        if encoding.targets == "values":
            values = encoding.decode_values(learner.predict(x).reshape(len(x), -1))
            if values.shape[1] != 1:
                raise DataError(
                    f"the run predicts {values.shape[1]} values per row; one is written"
                )
            empty = torch.zeros(len(x), 0, dtype=torch.float32, device="cpu")
            return FileAnswers(encoding.target, values[:, 0].tolist(), (), empty)
        found = learner.predict_proba(x)
    if found.ndim != 2:
        raise DataError(
            f"the run answers in the form {tuple(found.shape)}; one class per row works"
        )
    # As the run scored itself: among the classes that it has met.
    classes = [label for label in encoding.classes if label < found.shape[1]]
    among = found[:, classes]
    names = [encoding.name_class(label) for label in classes]
    best = among.argmax(dim=1).tolist()
    return FileAnswers(encoding.target, [names[at] for at in best], names, among)


def _read_inputs(file: Path, encoding: TableEncoding) -> Tensor:
    if file.suffix != ".npz":
        table = read_columns(file)
        if not encoding.columns:
            raise DataError(f"'{file}' has columns, the run learned arrays; give .npz with x")
        return encoding.encode_inputs(table)
    arrays = read_archive(file)
    if encoding.columns:
        raise DataError(
            f"'{file}' has arrays, the run learned columns by name; give .csv or .parquet"
        )
    if "x" not in arrays:
        raise DataError(f"'{file}' has no array 'x', only {sorted(arrays)}")
    x = arrays["x"]
    zeros = np.zeros(len(x) if x.ndim else 0, dtype=np.float32)
    return from_arrays(x, zeros, source=str(file))[0]
