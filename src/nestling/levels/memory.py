"""A memory level at work: what it reads and the bank of memories it keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch
from nestling.core.errors import NotFitted
from nestling.levels import LevelReading, Memory
from nestling.levels.taps import FeatureReader
from nestling.memory import JoinedFeatures, MemoryBank, RandomFeatures
from nestling.memory.checks import check_inputs, check_rows, check_weights
from nestling.memory.prequential import Foresight
from nestling.memory.ridge import Task

# Rows (R, D), labels (R,) or values (R, M), weights (R,), and the widths that make up D.
Checked = tuple[Tensor, Tensor, Tensor, tuple[int, ...]]


@dataclass(frozen=True)
class Rows:
    """What a memory reads of a batch, a row per answer, on the CPU.

    Args:
        features: (R, D).
        widths: of each thing that is read; they add up to D.
        output: what the module that was run answered, as it gave it; None if none was run.
    """

    features: Tensor
    widths: tuple[int, ...]
    output: Tensor | None


class MemoryLevel:
    """One memory level of a learner; its bank is made when the first features arrive.

    Args:
        spec: what the plan says.
        model: the live model, of which a frozen copy may be taken.
        foresees: `learn` says how examples would have been answered before they were learned.
    """

    def __init__(self, spec: Memory, model: nn.Module, *, foresees: bool = False) -> None:
        self.spec = spec
        self.foresees = foresees
        self.reader = FeatureReader(model, spec.reads, spec.frozen)
        self.bank: MemoryBank | None = None

    def read_rows(self, batch: Batch, target: Tensor | None) -> Rows:
        """What is read of a batch; errors as in `FeatureReader.read`."""
        views, output = self.reader.read_rows(batch, target)
        # Images may be bytes.
        wide = [(v if v.is_floating_point() else v.float()).cpu() for v in views]
        return Rows(
            wide[0] if len(wide) == 1 else torch.cat(wide, dim=1),
            tuple(v.shape[1] for v in wide),
            output,
        )

    def make_bank(self, widths: Sequence[int], task: Task) -> None:
        """An empty bank for features of these widths, one of each thing that is read."""
        spec = self.spec
        parts = [
            RandomFeatures(
                width,
                num_features,
                kind=spec.features,
                seed=spec.seed + index,
                passthrough=include_read,
            )
            for index, (width, (_, num_features, include_read)) in enumerate(
                zip(widths, spec.list_views(), strict=True)
            )
        ]
        self.widths = tuple(widths)
        self.bank = MemoryBank(
            sum(widths),
            half_lives=tuple(spec.half_lives),
            task=task,
            features=parts[0] if len(parts) == 1 else JoinedFeatures(parts),
            ridge=spec.ridge,
            switch_rate=spec.switch_rate,
            prior_half_life=spec.prior_half_life,
            block=spec.block,
            foresees=self.foresees,
        )

    def check(self, rows: Rows, target: Tensor, weight: Tensor | None) -> Checked:
        """Raise what `learn` would raise, with nothing changed; else what `learn` takes.

        Args:
            rows: what `read_rows` gave.
            target: (R,) classes or values, or (R, M) values.
            weight: (R,), or None.
        """
        if self.bank is not None:
            return (*self.bank.check(rows.features, target, weight), rows.widths)
        task: Task = "regression" if target.is_floating_point() else "classification"
        return (
            check_inputs(rows.features, sum(rows.widths)),
            check_rows(target, len(rows.features), task, None),
            check_weights(weight, len(rows.features)),
            rows.widths,
        )

    def learn(self, checked: Checked, task: Task) -> list[Foresight]:
        """Take in rows with their targets; what was foreseen of blocks that are full now."""
        if self.bank is None:
            self.make_bank(checked[3], task)
        assert self.bank is not None
        return self.bank.learn_checked(*checked[:3])

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
    def clock(self) -> int:
        """Examples that arrived so far."""
        return 0 if self.bank is None else self.bank.clock

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing to answer from."""
        return self.bank is None or self.bank.is_empty

    def answer(self, rows: Tensor) -> Tensor:
        """Probabilities (R, K) or values (R, M), float64; raises NotFitted while empty."""
        if self.bank is None or self.bank.is_empty:
            raise NotFitted(f"memory {self.spec.name!r} is empty; learn something first")
        return self.bank.predict(rows)

    def answer_and_compare(self, rows: Tensor) -> tuple[Tensor, Foresight]:
        """As `answer`; with it what is known of each row."""
        if self.bank is None or self.bank.is_empty:
            raise NotFitted(f"memory {self.spec.name!r} is empty; learn something first")
        return self.bank.predict_and_compare(rows)

    def answer_cheaply(self, rows: Tensor) -> Tensor | None:
        """As `answer`, without solving, so up to a block behind; None before there is one."""
        return None if self.bank is None else self.bank.predict_held(rows)

    def state_dict(self) -> dict[str, object]:
        """The bank, and the frozen copy that it reads."""
        bank = self.bank
        return {
            "reader": self.reader.state_dict(),
            "widths": None if bank is None else list(self.widths),
            "task": None if bank is None else bank.task,
            "bank": None if bank is None else bank.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.reader.load_state_dict(state["reader"])
        self.bank = None
        if state["bank"] is not None:
            self.make_bank(state["widths"], state["task"])
            assert self.bank is not None
            # `control` may have turned it.
            self.bank.gate.switch_rate = state["bank"]["gate"]["switch_rate"]
            self.bank.load_state_dict(state["bank"])


def widen(values: Tensor) -> Tensor:
    """Float64 on the CPU, detached: the form in which experts' answers are mixed."""
    return values.detach().cpu().double()  # in this order: not every device has float64
