"""What each expert of a read-out answers: the live model, its copies, the memories."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nestling.core.errors import DataError, ShapeMismatch
from nestling.core.modes import eval_mode
from nestling.learn.answering.features import align_features
from nestling.learn.answering.readout import Task
from nestling.learn.answering.remember import MemoryLevel, widen
from nestling.learn.batches import Batch, read_output
from nestling.levels import NestedOptimizer

Layout = Literal["row", "last", "second"]


@dataclass(frozen=True)
class Form:
    """What is predicted.

    Args:
        task: "classification", "regression", or None before the first batch.
        layout: where the classes of an output are: (N, K), (N, T, K) or (N, K, H, W).
        num_outputs: K; 0 for values.
    """

    task: Task | None
    layout: Layout = "row"
    num_outputs: int = 0


class Experts:
    """Asks the experts of a read-out, and brings their answers into one form: rows.

    Args:
        find_live: the module that answers as "live".
        optimizer: holds the copies; None if nothing learns by gradient.
        levels: the memory levels, by name.
        names: who answers, in the read-out's order.
        link: maps outputs to the scale of floating targets; None for the identity.
    """

    def __init__(
        self,
        find_live: Callable[[], nn.Module],
        optimizer: NestedOptimizer | None,
        levels: Mapping[str, MemoryLevel],
        names: tuple[str, ...],
        link: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.find_live = find_live
        self.optimizer = optimizer
        self.levels = levels
        self.names = names
        self.link = link
        self.form = Form(None)

    def inspect(self, batch: Batch) -> "Form":
        """Find out from a batch what is predicted and how the model lays it out.

        Args:
            batch: with a target: (N,), (N, T) or (N, H, W) classes, or values.

        Raises:
            DataError: the model gives no logit per class for such a target.
        """
        target = batch.target
        assert target is not None
        if target.is_floating_point() and len(self.names) == 1:
            return Form("regression")
        model = self.find_live()
        with torch.no_grad(), eval_mode(model):
            output = read_output(batch.call(model))
        if target.is_floating_point():
            self._check_values(output, target)
            return Form("regression")
        if output.shape[:-1] == target.shape:
            return Form("classification", "row" if target.ndim == 1 else "last", output.shape[-1])
        if output.shape[:1] + output.shape[2:] == target.shape:
            return Form("classification", "second", output.shape[1])
        raise DataError(
            f"outputs of shape {tuple(output.shape)} do not fit classes of shape "
            f"{tuple(target.shape)}; the model must give one logit per class"
        )

    def _check_values(self, output: Tensor, target: Tensor) -> None:
        """Raise unless the model's values can be mixed with those of others."""
        values = output if self.link is None else self.link(output)
        if len(values) != len(target) or values.numel() != target.numel():
            raise ShapeMismatch(
                f"outputs of shape {tuple(values.shape)} do not fit targets of shape "
                f"{tuple(target.shape)} and cannot be mixed with {', '.join(self.names)}; bring "
                "them to the targets' shape with link=..., or choose one read-out"
            )

    @torch.no_grad()
    def answer(self, batch: Batch) -> tuple[list[Tensor], tuple[int, ...], dict[str, Tensor]]:
        """Ask every expert.

        Args:
            batch: N examples.

        Returns: per expert (R, K) probabilities or (R, M) values in float64; the shape that the
            rows have: (N,), (N, T) or (N, H, W); and what each memory read of them (R, D).
        """
        outputs = {name: self._run(batch, name) for name in self.names if name not in self.levels}
        shape: tuple[int, ...] = (batch.size,)
        target = None
        if self.form.layout != "row":
            output = next(iter(outputs.values()), None)
            output = self._run(batch, "live") if output is None else output
            is_last = self.form.layout == "last"
            shape = tuple(output.shape[:-1] if is_last else output.shape[:1] + output.shape[2:])
            target = torch.zeros(shape, dtype=torch.long, device=output.device)
        answers, rows = [], {}
        for name in self.names:
            if name in self.levels:
                level = self.levels[name]
                rows[name] = level.read_rows(batch, target)[0]
                answers.append(level.answer(rows[name]))
            else:
                answers.append(self._activate(align_features(outputs[name], target)[0]))
        return answers, shape, rows

    @torch.no_grad()
    def answer_cheaply(self, batch: Batch, rows: Mapping[str, Tensor]) -> list[Tensor] | None:
        """Ask every expert without solving a memory anew; None if one has no answer yet.

        Args:
            batch: N examples with their target; positions with label -100 are left out.
            rows: features that the memories have read of it already.
        """
        answers = []
        for name in self.names:
            if name in self.levels:
                found = self.levels[name].answer_cheaply(rows[name])
                if found is None:
                    return None
                answers.append(found)
            else:
                output = align_features(self._run(batch, name), batch.target)[0]
                answers.append(self._activate(output))
        return answers

    def _run(self, batch: Batch, name: str) -> Tensor:
        model = self.find_live()
        if name == "live":
            with eval_mode(model):
                return read_output(batch.call(model))
        assert self.optimizer is not None
        model = self.optimizer.model
        values = self.optimizer.copies[name].values
        with eval_mode(model):
            output = functional_call(model, values, batch.inputs, dict(batch.keywords))
            return read_output(output)

    def _activate(self, output: Tensor) -> Tensor:
        if self.form.task == "classification":
            return widen(output).softmax(dim=-1)
        return widen(output if self.link is None else self.link(output))
