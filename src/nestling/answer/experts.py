"""What each expert of a read-out answers: the live model, its copies, the memories."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from nestling.answer.outside import Knowers
from nestling.answer.targets import Layout, TargetSpace, activate
from nestling.answer.unheard_rows import UnheardRows
from nestling.core.batches import Batch, read_output
from nestling.core.errors import DataError, ShapeMismatch
from nestling.core.heads import find_head
from nestling.core.modes import eval_mode
from nestling.levels import Levels
from nestling.levels.concepts import ConceptsLevel, ForeseenConcepts, StandingConcepts
from nestling.levels.memory import Rows, widen
from nestling.levels.taps import align_features
from nestling.memory.prequential import Foresight
from nestling.memory.ridge import Task


@dataclass(frozen=True)
class Answers:
    """What all experts of a read-out answer.

    Args:
        by_expert: per expert (R, K) probabilities or (R, M) values in float64.
        shape: that the rows have: (N,), (N, T) or (N, H, W).
        rows: per memory what it read of them.
        knowers: what the slow memory and who knows outside it say; None if nobody does.
    """

    by_expert: list[Tensor]
    shape: tuple[int, ...]
    rows: dict[str, Rows]
    knowers: Knowers | None


@dataclass(frozen=True)
class Foreseen:
    """What is known of examples before they are learned.

    Args:
        by_expert: per expert (R, K) or (R, M); None if one has no answer yet.
        knowers: what the slow memory and who knows outside it say; None if nobody does.
        concepts: per level of concepts what that foresaw.
    """

    by_expert: list[Tensor] | None
    knowers: Knowers | None
    concepts: dict[str, ForeseenConcepts | None]


class Remembering(Protocol):
    """A memory level, or one that stands still, as far as it is asked."""

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing to answer from."""

    def read_rows(self, batch: Batch, target: Tensor | None) -> Rows:
        """What is read of a batch."""

    def answer(self, rows: Tensor) -> Tensor:
        """Probabilities (R, K) or values (R, M), float64."""

    def answer_and_compare(self, rows: Tensor) -> Foresight:
        """As `answer`; with it what is known of each row."""


class Experts:
    """Asks the experts of a read-out, and brings their answers into one form: rows.

    Args:
        levels: of a plan; its read-out says who answers.
        find_live: the module that answers as "live".
        targets: what is known of the targets.
        output_transform: maps outputs to the scale of floating targets; None for the identity.
    """

    def __init__(
        self,
        levels: Levels,
        find_live: Callable[[], nn.Module],
        targets: TargetSpace,
        output_transform: Callable[[Tensor], Tensor] | None,
    ) -> None:
        plan = levels.plan
        self.model = levels.model
        self.copies = levels.copies
        self.memories = levels.memories
        self.concepts = levels.concepts
        self.asked: Mapping[str, Remembering] = levels.memories
        self.meanings: Mapping[str, StandingConcepts] = {}
        # Of a twin that stands still, see `hold_still`.
        self.run: Callable[[Batch, str], Tensor] | None = None
        self.num_given: int | None = None
        self.find_live = find_live
        self.targets = targets
        self.output_transform = output_transform
        # The copy that is asked about what the slow memory has not seen.
        self.outside = plan.outside
        self.names = tuple(name for name in plan.answering if name != plan.outside)
        self.slow = plan.find_slow_memory() or ""
        self.is_lent = self.outside is not None and self._can_lend(self.outside)

    def list_moving(self) -> list[str]:
        """The experts that are modules: the live model and the copies that move."""
        return [n for n in self.names if n not in self.asked and n not in self.concepts]

    def list_read(self) -> list[str]:
        """The memory levels whose rows the experts look at, each once."""
        return list(dict.fromkeys(filter(None, map(self._find_memory, self.names))))

    def _find_memory(self, name: str) -> str:
        """The memory level whose rows an expert looks at; empty for a module."""
        if name in self.concepts:
            return self.concepts[name].spec.of
        return name if name in self.asked else ""

    def _answer_concepts(self, name: str, rows: Mapping[str, Rows]) -> Tensor | None:
        """What a level of concepts answers, (R, K); None where it is silent."""
        level = self.concepts[name]
        read = rows[level.spec.of].features
        if name in self.meanings:
            return self.meanings[name].answer(read)
        memory = self.memories.get(level.spec.of)
        return None if memory is None else level.answer(memory, read)

    def _can_lend(self, outside: str) -> bool:
        """Whether the frozen copy that the slow memory reads is the same model as a copy level."""
        copied, reader = self.copies[outside], self.memories[self.slow].reader
        trainable = {n for n, p in self.model.named_parameters() if p.requires_grad}
        is_whole = reader.module is not None and reader.is_frozen
        return is_whole and copied.is_fixed and copied.values.keys() == trainable

    def hold_still(
        self, run: Callable[[Batch, str], Tensor], asked: Mapping[str, Remembering]
    ) -> "Experts":
        """A twin that asks what stands still, and can do nothing but answer.

        Args:
            run: runs "live" or a copy on a batch.
            asked: the memories.
        """
        twin = copy.copy(self)
        twin.run, twin.asked, twin.num_given = run, asked, self._count_given()
        found = {
            name: level.hold_still(self.memories[level.spec.of])
            for name, level in self.concepts.items()
        }
        twin.meanings = {name: one for name, one in found.items() if one is not None}
        twin.concepts = {name: ConceptsLevel(one.spec) for name, one in self.concepts.items()}
        # Nothing that learns is kept alive.
        twin.model, twin.copies, twin.memories, twin.find_live = nn.Module(), {}, {}, nn.Module
        return twin

    def inspect(self, batch: Batch) -> TargetSpace:
        """Find out from a batch what is predicted and how the model lays it out.

        Args:
            batch: with a target: (N,), (N, T) or (N, H, W) classes, or values.

        Raises:
            DataError: the model gives no logit per class for such a target.
        """
        target = batch.target
        assert target is not None
        if target.is_floating_point() and len(self.names) == 1 and self.outside is None:
            return replace(self.targets, task="regression")
        model = self.find_live()
        with torch.no_grad(), eval_mode(model):
            output = read_output(batch.call(model))
        if target.is_floating_point():
            self._check_values(output, target)
            return replace(self.targets, task="regression")
        if output.shape[:-1] == target.shape:
            return self._name_classes("row" if target.ndim == 1 else "last", output.shape[-1])
        if output.shape[:1] + output.shape[2:] == target.shape:
            return self._name_classes("second", output.shape[1])
        raise DataError(
            f"outputs of shape {tuple(output.shape)} do not fit classes of shape "
            f"{tuple(target.shape)}; the model must give one logit per class"
        )

    def _name_classes(self, layout: Layout, num_outputs: int) -> TargetSpace:
        return replace(self.targets, task="classification", layout=layout, num_outputs=num_outputs)

    def _check_values(self, output: Tensor, target: Tensor) -> None:
        """Raise unless the model's values can be mixed with those of others."""
        values = output if self.output_transform is None else self.output_transform(output)
        if output.ndim == target.ndim + 1 and output.shape[1] > 1 and not target.frac().any():
            raise ShapeMismatch(
                f"targets are {str(target.dtype).removeprefix('torch.')} but the model gives "
                f"{output.shape[1]} outputs per example, as for classes; convert them with .long()"
            )
        if len(values) != len(target) or values.numel() != target.numel():
            raise ShapeMismatch(
                f"outputs of shape {tuple(values.shape)} do not fit targets of shape "
                f"{tuple(target.shape)} and cannot be mixed with {', '.join(self.names)}; bring "
                "them to the targets' shape with output_transform=..., or choose one read-out"
            )

    def find_known(self, num_classes: int) -> Tensor | None:
        """Classes (K,) bool that may be answered; None: all, see `TargetSpace.find_known`."""
        return self.targets.find_known(self._count_given(), num_classes)

    def _count_given(self) -> int:
        """Outputs of who knows outside; 0 if nobody does."""
        if self.num_given is not None:
            return self.num_given
        if self.outside is None:
            return 0
        copied, head = self.copies[self.outside], find_head(self.model)
        rows = (copied.values | copied.buffers).get(f"{head}.weight" if head else "weight")
        return self.targets.num_outputs if rows is None else len(rows)

    @torch.no_grad()
    def answer(self, batch: Batch) -> Answers:
        """Ask every expert about a batch of N examples."""
        outputs = {name: self._run(batch, name) for name in self.list_moving()}
        shape: tuple[int, ...] = (batch.size,)
        target = None
        if self.targets.layout != "row":
            output = next(iter(outputs.values()), None)
            output = self._run(batch, "live") if output is None else output
            shape, target = self._find_positions(output, self.targets.layout)
        rows = {name: self.asked[name].read_rows(batch, target) for name in self.list_read()}
        given, knowers = None, None
        if self.outside is not None:
            given = self._align_given(batch, rows, target)
        if given is not None and self.asked[self.slow].is_empty:
            # Nothing was learned that counts: it stands in for everyone.
            return Answers([given for _ in self.names], shape, rows, None)
        answers = []
        for name in self.names:
            if name == self.slow:
                assert given is not None
                found = self.asked[name].answer_and_compare(rows[name].features)
                knowers = _pair(found, given)
                answers.append(found.answers)
            elif name in self.asked:
                answers.append(self.asked[name].answer(rows[name].features))
            elif name in self.concepts:
                found_concept = self._answer_concepts(name, rows)
                answers.append(_silence(answers[0]) if found_concept is None else found_concept)
            else:
                answers.append(self._read(outputs[name], target))
        return Answers(answers, shape, rows, knowers)

    def _find_positions(self, output: Tensor, layout: Layout) -> tuple[tuple[int, ...], Tensor]:
        """The shape of answers per position, and a target of it that leaves nothing out."""
        is_last = layout == "last"
        shape = tuple(output.shape[:-1] if is_last else output.shape[:1] + output.shape[2:])
        return shape, torch.zeros(shape, dtype=torch.long, device=output.device)

    def _align_given(self, batch: Batch, rows: Mapping[str, Rows], target: Tensor | None) -> Tensor:
        """What who knows outside answers, (R, K) or (R, M)."""
        assert self.outside is not None
        output = rows[self.slow].output if self.is_lent and rows else None
        output = self._run(batch, self.outside) if output is None else output
        return self._read(output, target)

    @torch.no_grad()
    def answer_as_given(
        self, batch: Batch, task: Task | None, output: Tensor | None = None
    ) -> tuple[Tensor, tuple[int, ...], Task]:
        """What who knows outside answers to N examples before anything is learned.

        Args:
            batch: N examples.
            task: what is predicted; None: classes, if there are two outputs or more per row.
            output: what it gave, where that is known already.

        Returns: (R, K) or (R, M), the shape that the rows have, and what is predicted.

        Raises:
            DataError: classes are asked for and the model gives one number per row.
        """
        assert self.outside is not None
        output = self._run(batch, self.outside) if output is None else output
        has_classes = output.ndim >= 2 and output.shape[1] >= 2
        if self.output_transform is not None and task is None:
            task = "regression"  # it maps outputs to the scale of values
        if task == "classification" and not has_classes:
            raise DataError(
                f"outputs of shape {tuple(output.shape)} are no logits of classes; "
                "the model must give one logit per class"
            )
        if task == "regression" or not has_classes:
            shape: tuple[int, ...] = (batch.size,)
            answer = self._activate(align_features(output, None)[0], "regression")
            return answer if answer.ndim > 1 else answer[:, None], shape, "regression"
        layout: Layout = "row" if output.ndim == 2 else "last" if output.ndim == 3 else "second"
        shape, target = (batch.size,), None
        if layout != "row":
            shape, target = self._find_positions(output, layout)
        answer = self._activate(align_features(output, target)[0], "classification")
        return answer, shape, "classification"

    @torch.no_grad()
    def answer_moving(self, batch: Batch) -> dict[str, Tensor]:
        """What the live model and the copies that move answer to N examples with their target, a
        row per label."""
        return {
            name: self._read(self._run(batch, name), batch.target) for name in self.list_moving()
        }

    def read_step(self, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        """The same from the output of the training step, where nobody moves but the live model."""
        return {"live": self._read(output, batch.target)}

    def list_compared(self) -> list[str]:
        """The memory levels that are asked about examples before they are learned, each once."""
        names = (*self.names, *self.concepts)
        return list(dict.fromkeys(filter(None, map(self._find_memory, names))))

    @torch.no_grad()
    def align_given(self, batch: Batch, rows: Mapping[str, Rows]) -> Tensor | None:
        """What who knows outside answers to N examples with their target, a row per label; None if
        nobody does."""
        return None if self.outside is None else self._align_given(batch, rows, batch.target)

    @torch.no_grad()
    def foresee(self, rows: UnheardRows) -> Foreseen:
        """What every expert answered to rows before they were learned, without solving a memory
        anew."""
        found = {
            name: self.memories[name].foresee(rows.read[name]) for name in self.list_compared()
        }
        concepts = {
            name: level.foresee(
                self.memories[level.spec.of], rows.read[level.spec.of], found[level.spec.of]
            )
            for name, level in self.concepts.items()
        }
        slow = found.get(self.slow)
        knowers = None
        if slow is not None:
            assert rows.given is not None
            knowers = _pair(slow, rows.given)
        first = next((one.answers for one in found.values() if one is not None), None)
        answers: list[Tensor] = []
        for name in self.names:
            answer = rows.moving.get(name)
            if name in self.memories:
                memory = found[name]
                answer = None if memory is None else memory.answers
            elif name in self.concepts and first is not None:
                concept = concepts[name]
                answer = concept.mixed if concept is not None else None
                answer = _silence(first) if answer is None else answer
            if answer is None:  # it knows nothing yet, or the step was refused
                return Foreseen(None, None, concepts)
            answers.append(answer)
        return Foreseen(answers, knowers, concepts)

    def _read(self, output: Tensor, target: Tensor | None) -> Tensor:
        return self._activate(align_features(output, target)[0])

    def _run(self, batch: Batch, name: str) -> Tensor:
        if self.run is not None:
            return self.run(batch, name)
        if name == "live":
            model = self.find_live()
            with eval_mode(model):
                return read_output(batch.call(model))
        values = self.copies[name].read_values()
        with eval_mode(self.model):
            return read_output(batch.call(self.model, values))

    def _activate(self, output: Tensor, task: Task | None = None) -> Tensor:
        return activate(output, task or self.targets.task, self.output_transform, widen)


def _silence(like: Tensor) -> Tensor:
    """The answer of who has nothing to say: another stands in."""
    return torch.full_like(like, torch.nan)


def _pair(found: Foresight, given: Tensor) -> Knowers:
    """What a memory found and what the given model answers to the same rows."""
    assert found.novelty is not None
    return Knowers(found.answers, found.known, given, found.novelty, found.num_effective)
