"""What a router is, and the one that goes by task labels.

Letters: N examples, D features, C contexts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from nestling.core.errors import DataError, SettingError, ShapeMismatch, UnknownLabel, suggest
from nestling.memory.checks import check_saved

Task = str | int
# Asked for only by routers that need it: the mean loss of a batch under each module, (C,), inf
# for slots that are not in use.
Score = Callable[[], Tensor]


class Explanation(NamedTuple):
    """Context that a batch is assigned to while it is learned, and how surprising it is.

    Args:
        context: 0 to C - 1.
        surprise: how badly even this context explains the batch, in nats per example; None if
            the router cannot be surprised.
    """

    context: int
    surprise: float | None


class Router(Protocol):
    """Protocol of routers: which context (slot of a `ModuleBank`) an input belongs to."""

    @property
    def num_contexts(self) -> int:
        """Number of contexts, C."""

    def route(self, z_ND: Tensor, task: Task | Sequence[Task] | None = None) -> Tensor:
        """Weights (N, C) that sum to 1 in each row, for answering.

        Args:
            z_ND: (N, D) features.
            task: label of all, or of each example, where the scenario allows it.
        """

    def explain(self, z_ND: Tensor, task: Task | None, score: Score) -> Explanation:
        """The context that a batch (N, D) is to be learned in; changes nothing."""

    def observe(self, z_ND: Tensor, context: int) -> None:
        """Take in that examples (N, D) belong to a context."""

    def state_dict(self) -> dict[str, Any]:
        """All that it knows and how it was built."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the router that was saved; ForeignSnapshot if it was built otherwise."""


class TaskRouter:
    """Router by given task labels: each label has a module of its own.

    Args:
        tasks: labels, the context of each being its place.

    Raises:
        SettingError: no label, or one that stands twice.

    >>> TaskRouter(["day", "night"]).route(torch.zeros(2, 3), task="night")
    tensor([[0., 1.],
            [0., 1.]])
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = list(tasks)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise SettingError(f"tasks {self.tasks}; one or more labels, each once, work")

    @property
    def num_contexts(self) -> int:
        """Number of contexts, C, one per label."""
        return len(self.tasks)

    def find_context(self, task: Task) -> int:
        """The context of a label; UnknownLabel if there is none."""
        if task not in self.tasks:
            known = [str(name) for name in self.tasks]
            raise UnknownLabel(f"task {task!r}; {suggest(str(task), known)}")
        return self.tasks.index(task)

    def route(self, z_ND: Tensor, task: Task | Sequence[Task] | None = None) -> Tensor:
        """Ones (N, C) at the labels' contexts.

        Raises:
            DataError: no label; ShapeMismatch: not one per example; UnknownLabel.
        """
        if task is None:
            raise DataError("a task router needs task=LABEL, or another router where none is known")
        N = len(z_ND)
        labels = [task] * N if isinstance(task, str | int) else list(task)
        if len(labels) != N:
            raise ShapeMismatch(f"{len(labels)} task labels for {N} examples; one or {N} work")
        columns = torch.tensor(
            [self.find_context(label) for label in labels], dtype=torch.int64, device="cpu"
        )
        return make_one_hot(columns, self.num_contexts).to(z_ND.device)

    def explain(self, z_ND: Tensor, task: Task | None, score: Score) -> Explanation:
        """The label's context, never surprised; errors as in `route`."""
        if task is None:
            raise DataError("a task router needs task=LABEL to learn")
        return Explanation(self.find_context(task), None)

    def observe(self, z_ND: Tensor, context: int) -> None:
        """Nothing is learned: labels are told."""

    def state_dict(self) -> dict[str, Any]:
        """The labels."""
        return {"config": {"tasks": list(self.tasks)}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that the labels are the same."""
        check_saved(state["config"], {"tasks": self.tasks}, "task router")


def make_one_hot(columns_N: Tensor, num_contexts: int) -> Tensor:
    """(N, C) float32 with a one in each row.

    >>> make_one_hot(torch.tensor([1]), 2)
    tensor([[0., 1.]])
    """
    weights_NC = torch.zeros(
        len(columns_N), num_contexts, dtype=torch.float32, device=columns_N.device
    )
    return weights_NC.scatter_(1, columns_N[:, None], 1.0)


def turn_to_weights(scores_NC: Tensor, known_C: Tensor, hard: bool) -> Tensor:
    """softmax over known contexts, or all on the best one; the first where none is known.

    Args:
        scores_NC: logits.
        known_C: whether a context was ever observed.
        hard: all weight on the largest.

    >>> known = torch.tensor([True, True, False])
    >>> turn_to_weights(torch.tensor([[0.0, 0.0, 9.0]]), known, False)
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    if not bool(known_C.any()):
        return make_one_hot(
            torch.zeros(len(scores_NC), dtype=torch.int64, device="cpu"), len(known_C)
        )
    scores_NC = scores_NC.masked_fill(~known_C, -torch.inf)
    if hard:
        return make_one_hot(scores_NC.argmax(1), len(known_C))
    return scores_NC.softmax(1).to(torch.float32)


def check_column(context: int, num_contexts: int) -> None:
    """Raise SettingError unless there is such a context.

    >>> check_column(1, 2)
    """
    if not 0 <= context < num_contexts:
        raise SettingError(f"context {context}; 0 to {num_contexts - 1} work")
