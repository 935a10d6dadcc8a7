"""All experts of a learner and the read-out that compares them on every example."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from nestling.answer.experts import Experts
from nestling.answer.export import export_readout
from nestling.answer.held_answers import HeldAnswers
from nestling.answer.readout import Readout
from nestling.answer.targets import TargetSpace, keep_known
from nestling.core.batches import Batch
from nestling.core.errors import NonFiniteInput, NotFitted
from nestling.levels import Levels
from nestling.levels.memory import Checked, Rows
from nestling.memory.ridge import Task

# Examples between two looks of the read-out's gate: asking the experts costs a forward pass each.
_SCORED_EVERY = 128


class Panel:
    """Asks experts, mixes their answers, and finds out whom to believe.

    Args:
        levels: of the plan; the copies and memories among them are experts.
        find_live: the module that answers as "live".
        targets: what is declared of the targets.
        output_transform: maps outputs to the scale of floating targets; None for the identity.
        is_plain: the forward pass of training gives what the live model would answer.
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
        moving = [name for name in self.experts.names if name not in levels.memories]
        # Whether the forward pass of training says what the one moving expert would answer.
        self.is_heard_in_training = is_plain and moving == ["live"]
        self._num_unscored = 0

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

    # --- answering

    def answer(self, batch: Batch, kind: Task | None) -> tuple[Tensor, tuple[int, ...], Task]:
        """The mixed answer to N examples.

        Args:
            batch: without a target.
            kind: what is predicted, if it is known though nothing was learned.

        Returns: probabilities (R, K) or values (R, M), the shape that the rows have, and which.

        Raises:
            NotFitted: nothing was learned, and nobody is outside.
            NonFiniteInput: nobody has a finite answer to a row.
        """
        if self.readout is None:
            if self.experts.outside is None:
                raise NotFitted("the learner has learned nothing yet; call fit or learn first")
            mixed, shape, kind = self.experts.answer_as_given(batch, kind)
        else:
            found = self.experts.answer(batch)
            compared = found.read.get(self.readout.compares or "")
            mixed = self.readout.mix(found.by_expert, compared, found.knowers)
            shape, kind = found.shape, self.readout.task
            if kind == "classification":
                mixed = keep_known(mixed, self.experts.find_known(mixed.shape[-1]))
        wrong = (~mixed.isfinite()).any(dim=1).nonzero()
        if len(wrong):
            raise NonFiniteInput(
                f"the model's answer to row {int(wrong[0])} is not finite and nothing else knows "
                "one; mend the model or its inputs"
            )
        return mixed, shape, kind

    def export(self) -> nn.Module:
        """A plain module that answers as the read-out does; see `export_readout`."""
        return export_readout(self.readout, self.experts)

    # --- learning whom to believe

    def ask(self, batch: Batch, read: Mapping[str, Rows]) -> list[Tensor] | None:
        """Every block of examples, what each expert answers before it learns them.

        Where someone knows outside a memory, that is asked of every batch: of all but the memory,
        which will say what it foresaw, or, if the others cost a forward pass, of the given model.
        Where the step tells what the live model answers, nobody is asked before it.

        Args:
            batch: N examples with their target.
            read: what each memory level reads of it.
        """
        assert self.readout is not None
        is_due = self._num_unscored + batch.size >= _SCORED_EVERY
        if self.readout.outside is not None:
            given = self.experts.ask_given(batch, read)
            is_asked = is_due and not self.is_heard_in_training
            others = self.experts.answer_cheaply(batch, read) if is_asked else None
            return [given, *(others or [])]
        if self.readout.gate is None or not is_due or self.is_heard_in_training:
            return None
        return self.experts.answer_cheaply(batch, read)

    def learn(
        self,
        batch: Batch,
        labels: Tensor,
        read: Mapping[str, Rows],
        checked: Mapping[str, Checked],
        answers: list[Tensor] | None,
        output: Tensor | None,
    ) -> None:
        """Let the gate and the memories learn a batch that they have not seen.

        Args:
            batch: that was learned by the gradient levels.
            labels: a row per answer, (R,) or (R, M), on the CPU.
            read: what each memory level reads of it.
            checked: the same as each memory takes it in.
            answers: what `ask` gave before the step.
            output: of the model in the step, before its update; None if there was no step.
        """
        readout, experts = self.readout, self.experts
        assert readout is not None
        target = labels.reshape(len(labels), -1) if readout.task == "regression" else labels
        if readout.gate is not None:
            self._num_unscored += len(labels)
            compared = read.get(readout.compares or "")
            readout.count(labels, None if compared is None else compared.features)
        if readout.outside is not None:
            assert answers is not None
            others = answers[1:]
            if output is not None and self.is_heard_in_training:
                others = experts.answer_cheaply(batch, read, output) or []
            clock = self.levels.memories[experts.slow].clock.num_ticks
            readout.hold(clock, target, answers[0], others)
            self._num_unscored = 0 if others else self._num_unscored
        elif readout.gate is not None:
            is_due = self._num_unscored >= _SCORED_EVERY
            if output is not None and self.is_heard_in_training and is_due:
                checked = {
                    name: self.levels.memories[name].map(one) for name, one in checked.items()
                }
                answers = experts.answer_cheaply(batch, read, output, checked)
            if answers is not None:
                self._num_unscored = 0
                readout.observe(answers, target)
        for name, level in self.levels.memories.items():
            foreseen = level.learn(checked[name], readout.task)
            if name == experts.slow:
                for foresight in foreseen:
                    readout.hear(foresight)

    def finish(self) -> None:
        """After many examples: solve now what the next answer needs, where it has been left
        behind."""
        for level in self.levels.memories.values():
            level.finish()

    def forget_held(self, name: str) -> None:
        """Drop what was held for a memory whose clock has begun anew."""
        if name == self.experts.slow and self.readout is not None:
            self.readout.held = HeldAnswers()

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Targets, read-out, and how many examples it has not heard of; tensors are copies."""
        return {
            "targets": self.targets.state_dict(),
            "readout": None if self.readout is None else self.readout.state_dict(),
            "num_unscored": self._num_unscored,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.readout = None
        self.targets = TargetSpace.from_state(state["targets"])
        if self.readout is not None:
            self.readout.load_state_dict(state["readout"])
        self._num_unscored = state["num_unscored"]
