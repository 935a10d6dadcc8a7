"""A level of concepts at work: which meaning of the labels is in force, beside a memory."""

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from torch import Tensor

from nestling.core.errors import MismatchedParameters, SettingError
from nestling.core.params import digest_tensors, flatten_tensors
from nestling.levels.control import Knobs
from nestling.levels.events import Change, Event
from nestling.levels.level import Clock, check_kind
from nestling.levels.memory import Checked, MemoryLevel
from nestling.levels.readings import LevelReading
from nestling.levels.spec import Concepts, dump_spec, load_spec
from nestling.memory.concept_slots import ConceptSlots, answer_slot, mix_slots
from nestling.memory.exact.statistics import space_evenly
from nestling.memory.prequential import Foresight, HeldSolution
from nestling.memory.scout import select_outputs

_LOGGER = logging.getLogger("nestling")


@dataclass(frozen=True)
class ForeseenConcepts:
    """What a level of concepts would answer to examples that are to be learned next.

    Args:
        phi: (R, d) features; None while there is no slot.
        by_slot: per slot (R, K), or what the memory answers while there is none.
        mixed: (R, K) of all slots; None while there is none.
        codes: (R, D) of the memory, where these were computed.
    """

    phi: Tensor | None
    by_slot: list[Tensor]
    mixed: Tensor | None
    codes: Tensor | None


class StandingConcepts:
    """What a level of concepts answers as of its last example, whatever it learns later.

    Args:
        map_rows: from what the memory reads to the features that are looked at.
        solutions: of the slots; None of one that knows nothing.
        shares_S: how probable each slot is.
        in_force: which is.
        num_classes: K.
    """

    def __init__(
        self,
        map_rows: Callable[[Tensor], Tensor],
        solutions: Sequence[HeldSolution | None],
        shares_S: Tensor,
        in_force: int,
        num_classes: int,
    ) -> None:
        self.map_rows, self.solutions = map_rows, tuple(solutions)
        self.shares_S, self.in_force, self.num_classes = shares_S, in_force, num_classes

    def answer(self, rows: Tensor) -> Tensor:
        """Probabilities (R, K) float64, of (R, D) what the memory reads."""
        phi = self.map_rows(rows)
        return mix_slots(
            [answer_slot(one, phi, self.num_classes) for one in self.solutions],
            self.shares_S,
            self.in_force,
        )


class ConceptsLevel:
    """One level of concepts of a learner; its slots are made when the first examples arrive.

    Args:
        spec: what the plan says.
    """

    def __init__(self, spec: Concepts) -> None:
        self.spec = spec
        self.slots: ConceptSlots | None = None
        self.events: list[Event] = []
        self.seconds = 0.0
        self._map: Callable[[Tensor], Tensor] | None = None

    @property
    def is_silent(self) -> bool:
        """Whether it has nothing to say: no meaning has changed."""
        return self.slots is None or not self.slots.num_used

    def _select(self, memory: MemoryLevel, rows: Tensor, phi: Tensor | None) -> Tensor:
        """The features that the slots look at, (R, d), of what the memory reads, (R, D')."""
        assert memory.bank is not None
        if phi is not None:
            return phi[:, space_evenly(phi.shape[1], self.spec.num_features)]
        if self._map is None:
            chosen_d = space_evenly(memory.bank.num_features, self.spec.num_features)
            self._map = select_outputs(memory.bank.features, chosen_d)
        return self._map(rows)

    def answer(self, memory: MemoryLevel, rows: Tensor) -> Tensor | None:
        """Probabilities (R, K) float64 of the meaning in force, NaN for inputs unlike all that it
        was learned from; None while none has changed.

        Args:
            memory: that it stands beside.
            rows: (R, D) what that reads.
        """
        if self.is_silent or memory.bank is None:
            return None
        assert self.slots is not None
        started = time.perf_counter()
        found = self.slots.answer(self._select(memory, rows, None), memory.bank.num_classes)
        self.seconds += time.perf_counter() - started
        return found

    def hold_still(self, memory: MemoryLevel) -> StandingConcepts | None:
        """What it answers now, for whoever asks later; None while no meaning has changed."""
        if self.is_silent or memory.bank is None:
            return None
        assert self.slots is not None
        bank = memory.bank
        chosen_d = space_evenly(bank.num_features, self.spec.num_features)
        return StandingConcepts(
            select_outputs(copy.copy(bank.features), chosen_d),
            [slot.find_fresh() for slot in self.slots.slots],
            self.slots.shares,
            self.slots.in_force,
            bank.num_classes,
        )

    def foresee(
        self, memory: MemoryLevel, checked: Checked, found: Foresight | None
    ) -> ForeseenConcepts | None:
        """What it would answer to rows before it learns them; None where there is nothing to
        compare: values, or a memory that knows nothing yet.

        Args:
            memory: that it stands beside.
            checked: as that takes them in.
            found: what that would answer.
        """
        if found is None or found.known is None or memory.bank is None:
            return None
        if self.is_silent:
            return ForeseenConcepts(None, [found.answers], None, found.phi)
        assert self.slots is not None
        started = time.perf_counter()
        phi = self._select(memory, checked.features, found.phi)
        by_slot = self.slots.foresee(phi, memory.bank.num_classes)
        mixed = self.slots.mix(by_slot)
        self.seconds += time.perf_counter() - started
        return ForeseenConcepts(phi, by_slot, mixed, found.phi)

    def learn(
        self, memory: MemoryLevel, checked: Checked, foreseen: ForeseenConcepts | None
    ) -> None:
        """Take in rows by what was foreseen of them; those of weight 0 are left out."""
        if foreseen is None or memory.bank is None:
            return
        started = time.perf_counter()
        bank, rows = memory.bank, checked.weight > 0.0
        if self.slots is None:
            num_features = min(self.spec.num_features, bank.num_features)
            self.slots = ConceptSlots(num_features, self.spec.num_slots, coded=bank.is_coded)

        def map_rows() -> Tensor:
            phi = foreseen.phi
            if phi is None:
                phi = self._select(memory, checked.features, foreseen.codes)
            return phi[rows]

        if bool(rows.any()):
            is_new = self.slots.learn(
                map_rows,
                checked.target[rows],
                [one[rows] for one in foreseen.by_slot],
                lambda: bank.select_statistics(self.spec.num_features),
            )
            if is_new:
                _LOGGER.info(
                    "concepts %r: labels mean something else from example %d on; %d meanings kept",
                    *(self.spec.name, self.slots.clock, self.slots.num_used),
                )
        self.seconds += time.perf_counter() - started

    @property
    def clock(self) -> Clock:
        """Examples that arrived so far; its updates are the meanings that it found."""
        if self.slots is None:
            return Clock("examples")
        return Clock("examples", num_ticks=self.slots.clock, num_updates=self.slots.num_found)

    def read(self) -> LevelReading:
        """How it stands."""
        clock = self.clock
        return LevelReading(
            level=self.spec.name,
            kind="concepts",
            num_parameters=sum(value.numel() for value in self.tensors().values()),
            share=0.0,
            period=1,
            age=0,
            num_steps=clock.num_ticks,
            num_updates=clock.num_updates,
            seconds=self.seconds,
        )

    def control(self, *, reason: str, **knobs: Unpack[Knobs]) -> Change:
        """It has no knob: raises SettingError."""
        raise SettingError(
            f"concepts {self.spec.name!r} have nothing to turn, got {', '.join(knobs) or 'none'} "
            f"({reason}); change the plan's nl.Concepts"
        )

    def tensors(self) -> dict[str, Tensor]:
        """Sums and solutions of its slots by dotted names; copies."""
        return {} if self.slots is None else flatten_tensors(self.slots.state_dict())

    def digest(self) -> str:
        """The sha256 of its tensors, names, shapes and dtypes included."""
        return digest_tensors(self.tensors())

    def state_dict(self) -> dict[str, Any]:
        """Its slots; tensors are copies."""
        return {
            "spec": dump_spec(self.spec),
            "seconds": self.seconds,
            "slots": None if self.slots is None else self.slots.state_dict(),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise what `load_state_dict` would raise; nothing is changed."""
        self._read_state(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the level that was saved, in this learner or another of the same plan.

        Raises:
            MismatchedParameters: it is of another plan; nothing is changed.
        """
        self.slots = self._read_state(state)
        self.seconds, self._map = state["seconds"], None

    def _read_state(self, state: Mapping[str, Any]) -> ConceptSlots | None:
        check_kind(state, self.spec, {"seconds", "slots"})
        spec = load_spec(state["spec"], self.spec)
        if spec != self.spec:
            raise MismatchedParameters(
                f"concepts {self.spec.name!r} were saved as {spec}, this plan has {self.spec}; "
                "restore them with the plan they were saved with"
            )
        if state["slots"] is None:
            return None
        return ConceptSlots.from_state(state["slots"], self.spec.num_slots)
