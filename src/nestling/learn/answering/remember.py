"""A memory level at work: what it reads and the bank of memories it keeps."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nestling.core.errors import NotFitted
from nestling.learn.answering.features import FeatureReader, align_features
from nestling.learn.batches import Batch
from nestling.levels import LevelReading, Memory
from nestling.memory import MemoryBank, RandomFeatures
from nestling.memory.checks import check_inputs, check_rows, check_weights
from nestling.memory.ridge import Task

Checked = tuple[Tensor, Tensor, Tensor]  # rows (R, D), labels (R,) or values (R, M), weights (R,)


class MemoryLevel:
    """One memory level of a learner; its bank is made when the first features arrive.

    Args:
        spec: what the plan says.
        model: the live model, of which a frozen copy may be taken.
    """

    def __init__(self, spec: Memory, model: nn.Module) -> None:
        self.spec = spec
        self.reader = FeatureReader(model, spec.on, spec.frozen)
        self.bank: MemoryBank | None = None

    def read_rows(self, batch: Batch, target: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Features (R, D) and targets on the CPU, a row per answer; see `align_features`."""
        rows, labels = align_features(self.reader.read(batch), target)
        rows = rows if rows.is_floating_point() else rows.float()  # images of bytes
        return rows.cpu(), None if labels is None else labels.cpu()

    def make_bank(self, num_inputs: int, task: Task) -> None:
        """An empty bank for features of that width."""
        spec = self.spec
        self.bank = MemoryBank(
            num_inputs,
            half_lives=tuple(spec.half_lives),
            task=task,
            features=RandomFeatures(
                num_inputs,
                spec.num_features,
                kind=spec.features,
                seed=spec.seed,
                passthrough=spec.include_read,
            ),
            ridge=spec.ridge,
            share=spec.share,
            prior_half_life=spec.prior_half_life,
            block=spec.block,
        )

    def check(self, rows: Tensor, target: Tensor, weight: Tensor | None) -> Checked:
        """Raise what `add` would raise, with nothing changed; else what `add` takes.

        Args:
            rows: (R, D) features.
            target: (R,) classes or values, or (R, M) values.
            weight: (R,), or None.
        """
        if self.bank is not None:
            return self.bank.check(rows, target, weight)
        task: Task = "regression" if target.is_floating_point() else "classification"
        return (
            check_inputs(rows, rows.shape[1]),
            check_rows(target, len(rows), task, None),
            check_weights(weight, len(rows)),
        )

    def add(self, checked: Checked, task: Task) -> int:
        """Take in rows with their targets; returns the bank's clock before them."""
        if self.bank is None:
            self.make_bank(checked[0].shape[1], task)
        assert self.bank is not None
        return self.bank.add_checked(*checked)

    def read(self) -> LevelReading:
        """The level's reading: it learns every example at once, so its period is 1."""
        clock = 0 if self.bank is None else self.bank.clock
        return LevelReading(
            level=self.spec.name,
            kind="memory",
            num_parameters=0 if self.bank is None else self.bank.num_bytes // 8,
            share=0.0,
            period=1,
            age=0,
            num_steps=clock,
            num_updates=clock,
        )

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing to answer from."""
        return self.bank is None or self.bank.is_empty

    def answer(self, rows: Tensor) -> Tensor:
        """Probabilities (R, K) or values (R, M), float64; raises NotFitted while empty."""
        if self.bank is None or self.bank.is_empty:
            raise NotFitted(f"memory {self.spec.name!r} is empty; learn something first")
        return self.bank.predict(rows)

    def answer_cheaply(self, rows: Tensor) -> Tensor | None:
        """As `answer`, without solving, so up to a block behind; None before there is one."""
        return None if self.bank is None else self.bank.predict_held(rows)

    def state_dict(self) -> dict[str, object]:
        """The bank, and the frozen copy that it reads."""
        bank = self.bank
        return {
            "reader": self.reader.state_dict(),
            "num_inputs": None if bank is None else bank.num_inputs,
            "task": None if bank is None else bank.task,
            "bank": None if bank is None else bank.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.reader.load_state_dict(state["reader"])
        self.bank = None
        if state["bank"] is not None:
            self.make_bank(state["num_inputs"], state["task"])
            assert self.bank is not None
            self.bank.gate.share = state["bank"]["gate"]["share"]  # `control` may have turned it
            self.bank.load_state_dict(state["bank"])


def widen(values: Tensor) -> Tensor:
    """Float64 on the CPU, detached: the form in which experts' answers are mixed."""
    return values.detach().cpu().double()  # in this order: not every device has float64
