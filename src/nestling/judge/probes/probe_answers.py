"""Answers of a model to a probe's rows: asked once, their shape and finiteness checked.

Axis letters: N rows, K classes or values per row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestling.core.arguments import name_kind
from nestling.core.errors import DataError, ShapeMismatch
from nestling.judge.probes.probe_result import Answering

# A row of probabilities may miss 1 by as much: half precision rounds that coarsely.
_SUM_TOLERANCE = 5e-3


@dataclass(frozen=True)
class AnsweredRows:
    """Rows of a probe with what was answered, what was right, and what is known of them.

    Attributes:
        answers: (N, K) float64 on the CPU; a row that is not finite is a failed one.
        target: (N,) classes or values (N, ...); None for none.
        columns: name -> N texts.
        changed: (N, K) answers to the changed rows; None where nobody asked.
        before: (N, K) answers of the version before; None where nobody asked.
    """

    answers: Tensor
    target: Tensor | None
    columns: Mapping[str, Sequence[str]]
    changed: Tensor | None = None
    before: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.answers)

    def select(self, rows: Sequence[int] | Tensor) -> "AnsweredRows":
        """Some of the rows, by their numbers."""
        index = torch.as_tensor(rows, dtype=torch.long, device="cpu")
        chosen: list[int] = index.tolist()
        return AnsweredRows(
            self.answers[index],
            None if self.target is None else self.target[index],
            {name: [texts[row] for row in chosen] for name, texts in self.columns.items()},
            None if self.changed is None else self.changed[index],
            None if self.before is None else self.before[index],
        )


class AnswersOnce:
    """Answers of a model, asked once for inputs that come again: the same object, not its equal.

    Args:
        answer: the model, inputs -> answers.

    Attributes:
        num_asked: times that the model was asked.

    >>> import torch
    >>> once, x = AnswersOnce(torch.exp), torch.zeros(2, 1)
    >>> bool((once(x) == once(x)).all()), once.num_asked
    (True, 1)
    """

    def __init__(self, answer: Answering) -> None:
        self.num_asked = 0
        self._answer = answer
        # The inputs are held so that no other object gets their id.
        self._known: dict[int, tuple[Any, Any]] = {}

    def __call__(self, x: Any) -> Tensor:
        """Answers to x; a copy, so that nobody changes what the next one is given."""
        if id(x) not in self._known:
            self.num_asked += 1
            self._known[id(x)] = (x, self._answer(x))
        answers = self._known[id(x)][1]
        return answers.clone() if isinstance(answers, Tensor) else answers


def read_answers(answer: Answering, x: Any, num_rows: int, are_probabilities: bool) -> Tensor:
    """Ask a model about inputs and check what it answers.

    Args:
        answer: the model; asked without gradients.
        x: inputs of N rows.
        num_rows: N.
        are_probabilities: whether each row must be 0 or more and sum to 1.

    Returns: (N, K) float64 on the CPU; rows that are not finite stay as they are.

    Raises:
        ShapeMismatch: no tensor (N, K).
        DataError: no tensor of numbers, or a finite row that is no probabilities.
    """
    with torch.no_grad():
        given: object = answer(x)
    if not isinstance(given, Tensor):
        raise DataError(f"the answer is {name_kind(given)}; give a tensor (N, K)")
    if given.ndim != 2 or len(given) != num_rows or given.shape[1] == 0:
        raise ShapeMismatch(
            f"answers of shape {tuple(given.shape)} for {num_rows} rows; "
            "give (N, K) probabilities or (N, M) values, one row each"
        )
    if given.is_complex():
        raise DataError(f"answers are {given.dtype}; real numbers work")
    answers = given.detach().to("cpu", torch.float64)
    if are_probabilities:
        finite = answers.isfinite().all(dim=1)
        off = (answers.sum(dim=1) - 1.0).abs() > _SUM_TOLERANCE
        wrong = finite & (off | (answers < 0.0).any(dim=1))
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise DataError(
                f"the answer to row {row}, {answers[row, :4].tolist()}..., is no probabilities: "
                f"it sums to {float(answers[row].sum()):.4g}; give logits.softmax(-1)"
            )
    return answers


def read_target(rows: AnsweredRows) -> Tensor:
    """The targets of rows, which the metric needs; `make_probe` refuses data without them."""
    assert rows.target is not None
    return rows.target


def predict_classes(probabilities: Tensor) -> Tensor:
    """Class of each answer: the first of the greatest probability; -1 where it is not finite.

    Args:
        probabilities: (N, K).

    Returns: (N,) int64 on the CPU.

    >>> predict_classes(torch.tensor([[0.2, 0.8], [0.5, float("nan")]])).tolist()
    [1, -1]
    """
    probabilities = probabilities.detach().cpu()
    return probabilities.argmax(dim=1).where(probabilities.isfinite().all(dim=1), -1)
