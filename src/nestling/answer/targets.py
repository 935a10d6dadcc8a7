"""What is predicted: classes or values, how many, and which belong to which task label."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from nestling.core.errors import DataError
from nestling.memory.ridge import Task

Layout = Literal["row", "last", "second"]


@dataclass(frozen=True)
class TargetSpace:
    """What is known of the targets; it never changes, `admit` gives another one.

    Args:
        declared: the declared number of classes; None lets the head grow.
        task: "classification", "regression", or None before the first batch.
        layout: where the classes of an output are: (N, K), (N, T, K) or (N, K, H, W).
        num_outputs: K; 0 for values.
        classes: labels that were learned.
        task_classes: task label -> labels that were learned under it.

    >>> space = TargetSpace(task="classification", num_outputs=3).admit({0, 2}, task=1)
    >>> sorted(space.classes), space.restrict(torch.full((1, 3), 1 / 3), task=1).tolist()
    ([0, 2], [[0.5, 0.0, 0.5]])
    """

    declared: int | None = None
    task: Task | None = None
    layout: Layout = "row"
    num_outputs: int = 0
    classes: frozenset[int] = frozenset()
    task_classes: Mapping[int, frozenset[int]] = field(default_factory=dict)

    def admit(self, labels: Iterable[int], task: int | None) -> "TargetSpace":
        """With labels that were learned now, under a task label if there is one."""
        new = frozenset(labels)
        if task is None and new <= self.classes:  # as for most batches
            return self
        by_task = dict(self.task_classes)
        if task is not None and self.task == "classification":
            by_task[task] = by_task.get(task, frozenset()) | new
        return replace(self, classes=self.classes | new, task_classes=by_task)

    def restrict(self, probabilities: Tensor, task: int | None) -> Tensor:
        """Probabilities (R, K) of the classes seen under a task label alone; None: of all.

        Raises:
            DataError: nothing was learned under that label.
        """
        if task is None:
            return probabilities
        if task not in self.task_classes:
            raise DataError(f"task {task} was never learned; known: {sorted(self.task_classes)}")
        kept = torch.zeros(probabilities.shape[-1], dtype=torch.bool, device="cpu")
        kept[sorted(self.task_classes[task])] = True
        return keep_known(probabilities, kept)

    def find_known(self, num_given: int, num_classes: int) -> Tensor | None:
        """Classes (K,) bool that may be answered; None: all of them.

        A head's output whose class never came says nothing, but for those of a model that was
        given as one that knows.

        Args:
            num_given: outputs of that model; 0 without one.
            num_classes: K.
        """
        if not self.classes or self.classes.union(range(num_given)).issuperset(range(num_classes)):
            return None
        known = torch.zeros(num_classes, dtype=torch.bool, device="cpu")
        known[sorted(self.classes)] = True
        known[:num_given] = True
        return known

    def state_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "declared": self.declared,
            "task": self.task,
            "layout": self.layout,
            "num_outputs": self.num_outputs,
            "classes": sorted(self.classes),
            "task_classes": {str(task): sorted(c) for task, c in self.task_classes.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "TargetSpace":
        """What `state_dict` took apart."""
        by_task = {int(task): frozenset(c) for task, c in state["task_classes"].items()}
        return cls(**{**state, "classes": frozenset(state["classes"]), "task_classes": by_task})


def keep_known(probabilities: Tensor, known: Tensor | None) -> Tensor:
    """Probabilities (R, K) of known classes (K,) alone; None: of all.

    >>> keep_known(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([True, True, False]))
    tensor([[0.6250, 0.3750, 0.0000]])
    """
    if known is None:
        return probabilities
    # A little everywhere among them, so that a row without any mass there stays a row.
    inside = (probabilities + 1e-12) * known
    return inside / inside.sum(dim=-1, keepdim=True)


def activate(
    output: Tensor,
    task: Task | None,
    output_transform: Callable[[Tensor], Tensor] | None,
    make_wide: Callable[[Tensor], Tensor],
) -> Tensor:
    """A model's rows of outputs as probabilities (R, K) or values (R, M).

    Args:
        output: (R, K) logits or (R, M).
        task: what is predicted.
        output_transform: maps outputs to the scale of values; None for the identity.
        make_wide: to float64, wherever the caller wants it.
    """
    if task == "classification":
        return make_wide(output).softmax(dim=-1)
    return make_wide(output if output_transform is None else output_transform(output))
