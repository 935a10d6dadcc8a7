"""A memory level at work: what it reads and the bank of memories it keeps."""

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from nestling.levels.taps import FeatureReader, ImageSize
from nestling.memory import JoinedFeatures, MemoryBank, RandomFeatures
from nestling.memory.checks import check_inputs, check_rows, check_weights
from nestling.memory.coded.coded_features import (
    CodedFeatures,
    choose_coded_features,
    read_coded_features,
)
from nestling.memory.features import Features
from nestling.memory.prequential import Foresight
from nestling.memory.ridge import Task

# Fewer numbers of an input are told apart too coarsely by seven bits of each feature of them.
LEAST_CODED = 16
_LOGGER = logging.getLogger("nestling")
# Of the numbers that codes were made of so many may lie beyond their scale before it is said.
MOST_CLIPPED = 0.01


@dataclass(frozen=True)
class Rows:
    """What a memory reads of a batch, a row per answer, on the CPU.

    Args:
        features: (R, D).
        widths: of each thing that is read; they add up to D.
        output: what the module that was run answered, as it gave it; None if none was run.
        image_size: (C, H, W) of what is read if a row is a picture; None if it is none.
    """

    features: Tensor
    widths: tuple[int, ...]
    output: Tensor | None
    image_size: ImageSize | None = None


def join_rows(views: Sequence[Tensor], output: Tensor | None, image_size: ImageSize | None) -> Rows:
    """What is read at several places, (R, D) each, side by side."""
    # Images may be bytes.
    wide = [(v if v.is_floating_point() else v.float()).cpu() for v in views]
    joined = wide[0] if len(wide) == 1 else torch.cat(wide, dim=1)
    return Rows(joined, tuple(v.shape[1] for v in wide), output, image_size)


@dataclass(frozen=True)
class Checked:
    """What a memory level takes in.

    Args:
        features: (R, D).
        target: labels (R,) or values (R, M).
        weight: (R,).
        widths: that make up D.
        maps: the random features that the bank is to have; None if there is a bank already.
    """

    features: Tensor
    target: Tensor
    weight: Tensor
    widths: tuple[int, ...]
    maps: Features | None


class MemoryLevel:
    """One memory level of a learner; its bank is made when the first features arrive.

    Args:
        spec: what the plan says.
        model: the live model, of which a frozen copy may be taken.
        foresees: a gate asks it about every example before that is learned.
        compares: and how familiar it is.
    """

    def __init__(
        self, spec: Memory, model: nn.Module, *, foresees: bool = False, compares: bool = False
    ) -> None:
        self.spec = spec
        self.foresees = foresees
        self.compares = compares
        self.reader = FeatureReader(model, spec.reads, spec.frozen)
        self.bank: MemoryBank | None = None
        self.widths: tuple[int, ...] = ()
        self.events: list[Event] = []
        self.changes: WaitingChanges[Memory] = WaitingChanges(turn_memory)
        self.seconds = 0.0
        self.has_said_clipped = False

    def read_rows(self, batch: Batch, target: Tensor | None) -> Rows:
        """What is read of a batch; errors as in `FeatureReader.read`."""
        return join_rows(*self.reader.read_rows(batch, target))

    def make_bank(self, widths: Sequence[int], task: Task, maps: Features) -> None:
        """An empty bank for features of these widths, one of each thing that is read."""
        self.widths = tuple(widths)
        self.bank = self._build_bank(self.spec, maps, task)

    def _build_bank(self, spec: Memory, maps: Features, task: Task) -> MemoryBank:
        return MemoryBank(
            maps.num_inputs,
            half_lives=tuple(spec.half_lives),
            task=task,
            features=maps,
            ridge=spec.ridge,
            switch_rate=spec.switch_rate,
            prior_half_life=spec.prior_half_life,
            block=spec.block,
            foresees=self.foresees,
            compares=self.compares,
        )

    def check(self, rows: Rows, target: Tensor, weight: Tensor | None) -> Checked:
        """Raise what `learn` would raise, with nothing changed; else what `learn` takes.

        Args:
            rows: what `read_rows` gave.
            target: (R,) classes or values, or (R, M) values.
            weight: (R,), or None.
        """
        if self.bank is not None:
            checked = self.bank.check(rows.features, target, weight)
            return Checked(*checked, rows.widths, None)
        task: Task = "regression" if target.is_floating_point() else "classification"
        features = check_inputs(rows.features, sum(rows.widths))
        return Checked(
            features,
            check_rows(target, len(rows.features), task, None),
            check_weights(weight, len(rows.features)),
            rows.widths,
            make_features(self.spec, features, rows.widths, rows.image_size),
        )

    def renew(self) -> None:
        """Bring what `foresee` answers by up to date; whatever is learned next is not in it."""
        if self.bank is not None:
            with self._timing():
                self.bank.renew_held()

    def learn(self, checked: Checked, task: Task) -> None:
        """Take in rows with their targets."""
        if self.bank is None:
            assert checked.maps is not None
            self.make_bank(checked.widths, task, checked.maps)
            if isinstance(checked.maps, CodedFeatures):
                _LOGGER.info("memory %r sees %s", self.spec.name, checked.maps.describe())
        assert self.bank is not None
        with self._timing():
            self.bank.learn_checked(checked.features, checked.target, checked.weight)
        self._say_what_is_clipped()

    def _say_what_is_clipped(self) -> None:
        maps = None if self.bank is None else self.bank.features
        if self.has_said_clipped or not isinstance(maps, CodedFeatures) or not maps.num_clipped:
            return
        share = maps.num_clipped / maps.num_seen
        if share > MOST_CLIPPED:
            self.has_said_clipped = True
            _LOGGER.warning(
                "memory %r: %.1f %% of the numbers it read lie beyond the scale that its first "
                "examples gave (%s) and were clipped; bring all inputs to one scale",
                self.spec.name,
                100.0 * share,
                maps.scale,
            )

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

    def finish(self) -> None:
        """After many examples: see `MemoryBank.finish`."""
        if self.bank is not None:
            with self._timing():
                self.bank.finish()

    def answer_and_compare(self, rows: Tensor) -> Foresight:
        """As `answer`; with it what is known of each row."""
        if self.bank is None or self.bank.is_empty:
            raise NotFitted(f"memory {self.spec.name!r} is empty; learn something first")
        with self._timing():
            return self.bank.predict_and_compare(rows)

    def foresee(self, checked: Checked) -> Foresight | None:
        """What it would have answered to the last rows as it stood when it was last renewed; None
        before there was anything."""
        if self.bank is None:
            return None
        with self._timing():
            return self.bank.foresee(checked.features)

    @contextmanager
    def _timing(self) -> Iterator[None]:
        """Count what is done inside among its seconds: it solves when it is asked."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        """The bank, and the frozen copy that it reads; tensors are copies.

        Its next answer is solved from scratch, so that whoever is restored from it gives the same
        bits.
        """
        bank = self.bank
        if bank is not None:
            bank.settle()
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
        config = state["bank"]["config"]["features"]
        if config.get("kind") == "coded":
            maps: Features = read_coded_features(config)
        else:
            maps = _make_random_features(spec, state["widths"])
        bank = self._build_bank(spec, maps, state["task"])
        bank.load_state_dict(state["bank"])
        return spec, bank


def make_features(
    spec: Memory, rows: Tensor, widths: Sequence[int], image_size: ImageSize | None
) -> Features:
    """The features that a memory level's bank is to have.

    Args:
        spec: says of which kind.
        rows: (R, D), the first that it read.
        widths: that make up D.
        image_size: (C, H, W) if a row is a picture.

    Raises:
        SettingError: they must be of images, and no shape of an image can be guessed.
    """
    kind, is_few = spec.coded_kind, rows.shape[1] < LEAST_CODED
    if kind is None or (kind == "auto" and is_few):
        return _make_random_features(spec, widths)
    return choose_coded_features(rows, kind, spec.size, image_size, spec.seed)


def _make_random_features(spec: Memory, widths: Sequence[int]) -> Features:
    parts = [
        RandomFeatures(
            width,
            num_features,
            kind=spec.float_kind,
            seed=spec.seed + index,
            passthrough=include_read,
        )
        for index, (width, (_, num_features, include_read)) in enumerate(
            zip(widths, spec.list_views(), strict=True)
        )
    ]
    return parts[0] if len(parts) == 1 else JoinedFeatures(parts)


def make_memories(
    specs: Sequence[Memory], model: nn.Module, compared: Collection[str], slow: str | None
) -> dict[str, MemoryLevel]:
    """Name -> memory level, empty.

    Args:
        specs: what the plan says of each.
        model: the live model.
        compared: names of levels that a gate compares.
        slow: name of the memory outside of which somebody else is asked.
    """
    return {
        one.name: MemoryLevel(one, model, foresees=one.name in compared, compares=one.name == slow)
        for one in specs
    }


def widen(values: Tensor) -> Tensor:
    """Float64 on the CPU, detached: the form in which experts' answers are mixed."""
    return values.detach().cpu().double()  # in this order: not every device has float64
