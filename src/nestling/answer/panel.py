"""All experts of a learner and the read-out that compares them on every example."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nestling.answer.experts import Answers, Experts
from nestling.answer.export import export_readout
from nestling.answer.readout import Readout
from nestling.answer.targets import TargetSpace, keep_known
from nestling.answer.unheard_rows import UnheardRows, join_unheard
from nestling.core.batches import Batch, check_batch
from nestling.core.errors import NonFiniteInput, NotFitted
from nestling.levels import Levels
from nestling.levels.memory import Checked, Rows
from nestling.memory.ridge import Task

# Rows of small batches that the gate hears of together: at most so many, and no more than a share
# of those that it has heard of. Fewer where someone knows outside, who may be wrong from one
# example to the next.
MOST_WAITING, MOST_WAITING_OUTSIDE, HEARD_PER_WAITING = 16, 8, 16


class Panel:
    """Experts and how their answers are mixed; finds out whom to believe.

    Args:
        levels: of the plan; the copies and memories among them are experts.
        find_live: the module that answers as "live".
        targets: what is declared of the targets.
        output_transform: maps outputs to the scale of floating targets; None for the identity.
        is_plain: the forward pass of training is the live model's own, be it in training mode.
    """

    def __init__(
        self,
        levels: Levels,
        find_live: Callable[[], nn.Module],
        targets: TargetSpace,
        output_transform: Callable[[Tensor], Tensor] | None,
        *,
        is_plain: bool,
    ) -> None:
        self.levels = levels
        self.experts = Experts(levels, find_live, targets, output_transform)
        self.readout: Readout | None = None
        self.waiting: list[UnheardRows] = []
        self.errors: list[float] = []  # that no watch has heard of
        moving = self.experts.list_moving()
        # Whether the forward pass of training says what the one moving expert would answer.
        self.is_heard_in_training = is_plain and moving == ["live"] and bool(levels.gradient)

    @property
    def targets(self) -> TargetSpace:
        """What is predicted, as far as it is known."""
        return self.experts.targets

    @targets.setter
    def targets(self, targets: TargetSpace) -> None:
        self.experts.targets = targets
        if targets.task is None:
            self.readout = None
        elif self.readout is None:
            self.readout = Readout(self.levels.plan, targets.task)

    def mix(self, found: Answers) -> Tensor:
        """One answer from those of all experts, once something was learned: (R, K) or (R, M)."""
        assert self.readout is not None
        return mix_answers(self.readout, self.experts, found)

    def export(self) -> nn.Module:
        """A plain module that answers as the read-out does; see `export_readout`."""
        return export_readout(self.readout, self.experts)

    # --- learning whom to believe

    def ask(self, batch: Batch) -> dict[str, Tensor] | None:
        """What experts that are moved by the step answer before it, a row per label; None where
        the step tells, or nobody compares.

        Args:
            batch: N examples with their target.
        """
        assert self.readout is not None
        if self.readout.gate is None or self.is_heard_in_training:
            return None
        return self.experts.answer_moving(batch)

    def learn(
        self,
        batch: Batch,
        labels: Tensor,
        read: Mapping[str, Rows],
        checked: Mapping[str, Checked],
        answers: Mapping[str, Tensor] | None,
        output: Tensor | None,
    ) -> None:
        """Let the gate and the memories learn a batch that they have not seen.

        The gate hears of every example, by the answers that stood before.

        Args:
            batch: that was learned by the gradient levels.
            labels: a row per answer, (R,) or (R, M), on the CPU.
            read: what each memory level reads of it.
            checked: the same as each memory takes it in.
            answers: what `ask` gave before the step.
            output: of the model in the step, before its update; None if there was no step.
        """
        readout, memories = self.readout, self.levels.memories
        assert readout is not None
        if readout.gate is not None or self.levels.concepts:
            if answers is None and output is not None:
                answers = self.experts.read_step(batch, output)
            target = labels.reshape(len(labels), -1) if readout.task == "regression" else labels
            given = self.experts.align_given(batch, read)
            rows = UnheardRows(target, dict(checked), dict(answers or {}), given)
            if self.waiting and rows.moving.keys() != self.waiting[0].moving.keys():
                self._hear()  # a step was refused, or is the first that was not
            if not self.waiting:
                for name in self.experts.list_compared():
                    memories[name].renew()
            self.waiting.append(rows.own())
        if readout.gate is None and output is not None and self._tells_live and self.is_watched:
            live = self.experts.read_step(batch, output)["live"]
            self.errors += measure_errors(live, labels, readout.task)
        for name, level in memories.items():
            level.learn(checked[name], readout.task)
        if self.waiting and self.num_waiting >= self._find_most_waiting():
            self._hear()

    @property
    def num_waiting(self) -> int:
        """Rows that the gate will hear of with the next ones."""
        return sum(map(len, self.waiting))

    def _find_most_waiting(self) -> int:
        """Asking costs much the same for one row as for some; few wait while little is known."""
        assert self.readout is not None
        num_heard = 0 if self.readout.gate is None else self.readout.gate.num_heard
        most = MOST_WAITING if self.experts.outside is None else MOST_WAITING_OUTSIDE
        return max(1, min(most, num_heard // HEARD_PER_WAITING))

    def _hear(self) -> None:
        """Let the gate, and meanings of the labels, hear of the rows that wait."""
        readout, rows = self.readout, join_unheard(self.waiting)
        assert readout is not None
        self.waiting = []
        found = self.experts.foresee(rows)
        if found.by_expert is not None and readout.gate is not None and self.is_watched:
            compared = rows.read.get(readout.compares or "")
            features = None if compared is None else compared.features
            mixed = readout.mix(found.by_expert, features, found.knowers)
            if readout.task == "classification":
                mixed = keep_known(mixed, self.experts.find_known(mixed.shape[-1]))
            self.errors += measure_errors(mixed, rows.target, readout.task)
        readout.observe(found.by_expert, rows.target, found.knowers)
        if readout.gate is not None:
            compared = rows.read.get(readout.compares or "")
            readout.count(rows.target, None if compared is None else compared.features)
        for name, concepts in self.levels.concepts.items():
            of = concepts.spec.of
            concepts.learn(self.levels.memories[of], rows.read[of], found.concepts[name])

    # --- how wrong it is, for watches

    @property
    def is_watched(self) -> bool:
        """Whether a watch hears of errors."""
        return any(watch.spec.of == "error" for watch in self.levels.watches.values())

    def ask_errors(self, batch: Batch) -> None:
        """Note how wrong the answers to a batch are before it is learned, where learning does not
        tell: without a gate, which hears of all, and with more than the live model.

        Args:
            batch: N examples with their target.
        """
        readout = self.readout
        if readout is None or readout.gate is not None or self._tells_live or not self.is_watched:
            return
        assert batch.target is not None
        mixed = self.mix(self.experts.answer(Batch(batch.inputs, batch.keywords)))
        self.errors += measure_errors(mixed, batch.target, readout.task)

    @property
    def _tells_live(self) -> bool:
        """Whether the forward pass of training is the answer."""
        return self.is_heard_in_training and self.experts.names == ("live",)

    def take_errors(self) -> list[float]:
        """Take the errors of answers since the last call, in the order of the examples."""
        errors, self.errors = self.errors, []
        return errors

    def finish(self) -> None:
        """After many examples: solve now what the next answer needs, where it has been left
        behind, and let the gate hear of all."""
        if self.waiting:
            self._hear()
        for level in self.levels.memories.values():
            level.finish()

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Targets and read-out; tensors are copies."""
        return {
            "targets": self.targets.state_dict(),
            "readout": None if self.readout is None else self.readout.state_dict(),
            "waiting": [join_unheard(self.waiting).state_dict()] if self.waiting else [],
            "errors": list(self.errors),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.readout = None
        self.targets = TargetSpace.from_state(state["targets"])
        self.waiting = [UnheardRows.from_state(one) for one in state["waiting"]]
        self.errors = list(state["errors"])
        if self.readout is not None:
            self.readout.load_state_dict(state["readout"])


def answer_rows(
    readout: Readout | None, experts: Experts, batch: Batch, kind: Task | None
) -> tuple[Tensor, tuple[int, ...], Task]:
    """The mixed answer to N examples.

    Args:
        readout: who is believed; None before anything was learned.
        experts: who answers.
        batch: without a target.
        kind: what is predicted, if it is known though nothing was learned.

    Returns: probabilities (R, K) or values (R, M), the shape that the rows have, and which.

    Raises:
        NotFitted: nothing was learned, and nobody is outside.
        NonFiniteInput: nobody has a finite answer to a row.
    """
    if readout is None:
        if experts.outside is None:
            raise NotFitted("the learner has learned nothing yet; call fit or learn first")
        mixed, shape, kind = experts.answer_as_given(batch, kind)
    else:
        found = experts.answer(batch)
        mixed, shape, kind = mix_answers(readout, experts, found), found.shape, readout.task
    check_answer(mixed)
    return mixed, shape, kind


def mix_answers(readout: Readout, experts: Experts, found: Answers) -> Tensor:
    """One answer from those of all experts, once something was learned: (R, K) or (R, M)."""
    compared = found.rows.get(readout.compares or "")
    features = None if compared is None else compared.features
    mixed = readout.mix(found.by_expert, features, found.knowers)
    if readout.task == "classification":
        mixed = keep_known(mixed, experts.find_known(mixed.shape[-1]))
    return mixed


def measure_errors(answers: Tensor, target: Tensor, task: Task) -> list[float]:
    """How wrong answers are, in their order: 0 or 1 of classes, mean absolute distances of values.

    Args:
        answers: (R, K) probabilities, or (R, M) values. No finite answer is a wrong one of
            classes, and left out of values.
        target: R classes in any shape, below 0 where there is none, which are left out; or R M
            values.
        task: which of both.

    >>> answers = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    >>> measure_errors(answers, torch.tensor([0, 0]), "classification")
    [0.0, 1.0]
    """
    answers, target = answers.detach().cpu(), target.cpu()
    is_finite = answers.isfinite().all(dim=-1)
    if task == "regression":
        gap = (answers - target.reshape(answers.shape)).abs().mean(dim=-1)
        return [float(value) for value in gap[is_finite]]
    labels = target.reshape(-1)
    is_wrong = ~is_finite | (answers.argmax(dim=-1) != labels)
    return [float(value) for value in is_wrong[labels >= 0]]


def check_answer(mixed: Tensor) -> None:
    """Raise NonFiniteInput unless every row of an answer, (R, K) or (R, M), is finite."""
    wrong = (~mixed.isfinite()).any(dim=1).nonzero()
    if len(wrong):
        raise NonFiniteInput(
            f"the model's answer to row {int(wrong[0])} is not finite and nothing else knows "
            "one; mend the model or its inputs"
        )


def answer_batch(
    readout: Readout | None,
    experts: Experts,
    batch: Batch,
    *,
    task: int | None,
    kind: Task | None,
    device: torch.device,
) -> tuple[Tensor, Task]:
    """Probabilities or values of a read-out, and which; see `Learner.predict`.

    Args:
        readout, experts: as for `answer_rows`.
        batch: its target is ignored.
        task: restricts the answer to the classes seen under this label.
        kind: what is predicted, if that is known though nothing was learned.
        device: of the model.
    """
    batch = Batch(batch.inputs, batch.keywords).to(device)
    check_batch(batch)
    if kind is None and experts.targets.declared is not None:
        kind = "classification"
    mixed, shape, kind = answer_rows(readout, experts, batch, kind)
    if kind == "classification":
        mixed = experts.targets.restrict(mixed, task)
    return mixed.reshape(*shape, mixed.shape[-1]).float(), kind
