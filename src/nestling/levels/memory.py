"""A memory level at work: what it reads and the bank of memories it keeps."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch
from nestling.core.errors import MismatchedParameters, NotFitted
from nestling.core.params import check_same_names, digest_tensors, flatten_tensors
from nestling.levels.control import Knobs, WaitingChanges, turn_memory
from nestling.levels.events import Change, Event
from nestling.levels.level import Clock, check_kind
from nestling.levels.readings import LevelReading
from nestling.levels.spec import Memory, dump_spec, load_spec
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
        self.widths: tuple[int, ...] = ()
        self.events: list[Event] = []
        self.changes: WaitingChanges[Memory] = WaitingChanges(turn_memory)
        self.seconds = 0.0

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
        self.widths = tuple(widths)
        self.bank = _make_bank(self.spec, widths, task, foresees=self.foresees)

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
        with self._timing():
            return self.bank.learn_checked(*checked[:3])

    def read(self) -> LevelReading:
        """How it stands: it learns every example at once, so its period is 1."""
        clock = self.clock
        return LevelReading(
            level=self.spec.name,
            kind="memory",
            num_parameters=0 if self.bank is None else self.bank.num_bytes // 8,
            share=0.0,
            period=1,
            age=0,
            num_steps=clock.num_ticks,
            num_updates=clock.num_updates,
            seconds=self.seconds,
        )

    @property
    def clock(self) -> Clock:
        """Examples that arrived so far; each is an update."""
        num_examples = 0 if self.bank is None else self.bank.clock
        return Clock("examples", num_ticks=num_examples, num_updates=num_examples)

    def control(self, *, reason: str, **knobs: Unpack[Knobs]) -> Change:
        """Turn its knob `switch_rate` (of its gate), which counts from the next block on."""
        tick = self.clock.num_ticks
        change = self.changes.ask(self.spec, dict(knobs), reason, tick)
        self.spec = self.changes.take(tick)[-1].spec  # between two examples lies a boundary
        if self.bank is not None:
            self.bank.gate.switch_rate = self.spec.switch_rate
        self.events.append(change)
        return change

    def tensors(self) -> dict[str, Tensor]:
        """Sums, gate and unfinished block of its bank, by dotted names; copies."""
        return {} if self.bank is None else flatten_tensors(self.bank.state_dict())

    def digest(self) -> str:
        """The sha256 of its tensors, names, shapes and dtypes included."""
        return digest_tensors(self.tensors())

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing to answer from."""
        return self.bank is None or self.bank.is_empty

    def answer(self, rows: Tensor) -> Tensor:
        """Probabilities (R, K) or values (R, M), float64; raises NotFitted while empty."""
        if self.bank is None or self.bank.is_empty:
            raise NotFitted(f"memory {self.spec.name!r} is empty; learn something first")
        with self._timing():
            return self.bank.predict(rows)

    def answer_and_compare(self, rows: Tensor) -> tuple[Tensor, Foresight]:
        """As `answer`; with it what is known of each row."""
        if self.bank is None or self.bank.is_empty:
            raise NotFitted(f"memory {self.spec.name!r} is empty; learn something first")
        with self._timing():
            return self.bank.predict_and_compare(rows)

    def answer_cheaply(self, rows: Tensor) -> Tensor | None:
        """As `answer`, without solving, so up to a block behind; None before there is one."""
        if self.bank is None:
            return None
        with self._timing():
            return self.bank.predict_held(rows)

    @contextmanager
    def _timing(self) -> Iterator[None]:
        """Count what is done inside among its seconds: it solves when it is asked."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        """The bank, and the frozen copy that it reads; tensors are copies."""
        bank = self.bank
        return {
            "spec": dump_spec(self.spec),
            "reader": self.reader.state_dict(),
            "widths": list(self.widths),
            "seconds": self.seconds,
            "task": None if bank is None else bank.task,
            "bank": None if bank is None else bank.state_dict(),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise what `load_state_dict` would raise; nothing is changed."""
        self._read_state(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the memory that was saved, in this learner or another of the same plan.

        Raises:
            MismatchedParameters: it is of another plan or model; nothing is changed.
        """
        self.spec, self.bank = self._read_state(state)
        self.widths, self.seconds = tuple(state["widths"]), state["seconds"]
        self.reader.load_state_dict(state["reader"])

    def _read_state(self, state: Mapping[str, Any]) -> tuple[Memory, MemoryBank | None]:
        check_kind(state, self.spec, {"reader", "widths", "seconds", "task", "bank"})
        spec = load_spec(state["spec"], self.spec)
        assert isinstance(spec, Memory)
        if replace(spec, switch_rate=self.spec.switch_rate) != self.spec:
            raise MismatchedParameters(
                f"memory {self.spec.name!r} was saved as {spec}, this plan has {self.spec}; "
                "restore it with the plan it was saved with"
            )
        check_same_names(state["reader"], self.reader.state_dict())
        if state["bank"] is None:
            return spec, None
        bank = _make_bank(spec, state["widths"], state["task"], foresees=self.foresees)
        bank.load_state_dict(state["bank"])
        return spec, bank


def _make_bank(spec: Memory, widths: Sequence[int], task: Task, *, foresees: bool) -> MemoryBank:
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
    return MemoryBank(
        sum(widths),
        half_lives=tuple(spec.half_lives),
        task=task,
        features=parts[0] if len(parts) == 1 else JoinedFeatures(parts),
        ridge=spec.ridge,
        switch_rate=spec.switch_rate,
        prior_half_life=spec.prior_half_life,
        block=spec.block,
        foresees=foresees,
    )


def widen(values: Tensor) -> Tensor:
    """Float64 on the CPU, detached: the form in which experts' answers are mixed."""
    return values.detach().cpu().double()  # in this order: not every device has float64
