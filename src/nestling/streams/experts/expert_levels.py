"""Levels of a stream learner: each expert with its clock, its knobs, its tensors and its state."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict, Unpack

from torch import Tensor

from nestling.core.errors import SettingError, UnknownLevel, suggest
from nestling.core.params import digest_tensors
from nestling.levels import Freeze
from nestling.levels.events import Change
from nestling.levels.level import Clock
from nestling.levels.readings import LevelReading
from nestling.levels.validation import Validation, measure_drift
from nestling.streams.experts.expert_arrays import NETWORKS
from nestling.streams.experts.expert_parts import MOST_WAITING
from nestling.streams.experts.expert_pool import (
    DECAYED,
    HALF_LIVES,
    ExpertPool,
    dump_freeze,
)
from nestling.streams.experts.level_states import find_part, put_level, take_level


class StreamKnobs(TypedDict, total=False):
    """Every knob that a level of a stream learner may have."""

    lr: float
    weight_decay: float
    half_life: float
    freeze: Freeze | None


@dataclass(frozen=True)
class StreamExpert:
    """Specification of an expert of a stream: its kind, and where its knobs stand.

    Attributes:
        name: of the level.
        kind: "gradient", "memory", "concepts", "tree" or "average".
        lr: learning rate of a gradient level.
        weight_decay: of an AdamW network.
        half_life: in examples, of a memory.
        freeze: when it stands still.
    """

    name: str
    kind: str
    lr: float | None = None
    weight_decay: float | None = None
    half_life: float | None = None
    freeze: Freeze | None = None


def _place_of_decay(name: str) -> int:
    return len(NETWORKS) + DECAYED.index(name)


def describe_expert(name: str, pool: ExpertPool) -> StreamExpert:
    """The specification of an expert as it stands."""
    freeze = pool.freezes.get(name)
    if name == "model" and pool.model is not None:
        return StreamExpert(name, "gradient", pool.model.lr, freeze=freeze)
    if name in NETWORKS:
        at = NETWORKS.index(name)
        decay = float(pool.rates[_place_of_decay(name)]) if name in DECAYED else None
        return StreamExpert(name, "gradient", float(pool.rates[at]), decay, freeze=freeze)
    if name in HALF_LIVES:
        kind = "concepts" if name == "concepts" else "memory"
        return StreamExpert(name, kind, half_life=pool.half_lives[name], freeze=freeze)
    kind = {"tree": "tree", "labels": "average"}.get(name, "concepts")
    return StreamExpert(name, kind, freeze=freeze)


class ExpertLevel:
    """One expert of a stream learner as a level: read, controlled, digested and saved alone.

    Args:
        name: of the expert.
        pool: that it belongs to.
    """

    def __init__(self, name: str, pool: ExpertPool) -> None:
        self.name, self._pool = name, pool

    @property
    def spec(self) -> StreamExpert:
        """What it is, knobs that were turned included."""
        return describe_expert(self.name, self._pool)

    @property
    def clock(self) -> Clock:
        """Examples seen, those that wait to be solved, and updates made."""
        seen = self._pool.num_learned
        waiting = self._count_waiting()
        updates = self._pool.num_solved.get(self.name, seen)
        return Clock("examples", age=waiting, num_ticks=seen, num_updates=updates)

    def _count_waiting(self) -> int:
        if self.name not in HALF_LIVES:
            return 0
        counts = self._pool.parts[self.name]["counts"]
        return int(counts[..., 0].sum())

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors of the level (copies): what a version or a digest is made of."""
        return self._pool.read_tensors(self.name)

    def digest(self) -> str:
        """SHA-256 digest of its tensors, names, shapes and dtypes included."""
        return digest_tensors(self.tensors())

    def read(self) -> LevelReading:
        """Current statistics of the level; `factor` is what the fixed share believes of it."""
        pool, clock = self._pool, self.clock
        sizes = {
            name: sum(tensor.numel() for tensor in pool.read_tensors(name).values())
            for name in pool.names
        }
        own = sizes[self.name]
        period = MOST_WAITING.get(self.name, 1)
        return LevelReading(
            level=self.name,
            kind=self.spec.kind,
            num_parameters=own,
            share=own / max(sum(sizes.values()), 1),
            period=period,
            age=clock.age,
            num_steps=clock.num_ticks,
            num_updates=clock.num_updates,
            factor=float(pool.parts["gate"]["shares"][pool.names.index(self.name)]),
            lr=self.spec.lr,
            change_since_validation=self._measure_change(),
        )

    def _measure_change(self) -> float | None:
        """Relative change of its tensors since they were validated; None if they never were."""
        found = self._pool.validation
        return None if found is None else measure_drift(found.tensors[self.name], self.tensors())

    def control(self, *, reason: str, **knobs: Unpack[StreamKnobs]) -> Change:
        """Change hyperparameters of the level, in force from the next event on.

        Args:
            reason: why; kept in the record.
            knobs: `lr`, `weight_decay` of a gradient level, `half_life` of a memory, `freeze` of
                any.

        Raises:
            SettingError: no knob, one that this level has not, or a value that does not fit.
        """
        turned = self._check(dict(knobs))
        pool, name = self._pool, self.name
        if pool.model is not None and name == "model":
            pool.model.lr = turned.lr or 0.0
        elif turned.lr is not None:
            pool.rates[NETWORKS.index(name)] = turned.lr
        if turned.weight_decay is not None:
            pool.rates[_place_of_decay(name)] = turned.weight_decay
        if turned.half_life is not None:
            pool.half_lives[name] = turned.half_life
        if "freeze" in knobs:
            pool.freeze(name, turned.freeze)
        shown = {
            knob: dump_freeze(value) if isinstance(value, Freeze) else value
            for knob, value in knobs.items()
        }
        return Change(name, shown, reason, asked_at=pool.num_learned, applied_at=pool.num_learned)

    def _check(self, knobs: Mapping[str, Any]) -> StreamExpert:
        spec = self.spec
        known = [
            knob
            for knob in ("lr", "weight_decay", "half_life")
            if getattr(spec, knob) is not None and not (knob == "half_life" and is_slotted(spec))
        ]
        known.append("freeze")
        if not knobs:
            raise SettingError(f"nothing to turn on level {self.name!r}; knobs: {known}")
        for knob, value in knobs.items():
            if knob not in known:
                raise SettingError(
                    f"level {self.name!r} has no knob {knob!r}; {suggest(knob, known)}"
                )
            if knob == "freeze":
                if not (value is None or isinstance(value, Freeze)):
                    raise SettingError(f"freeze {value!r}; give nl.Freeze(...), or None to end it")
                continue
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            least_works = (
                value >= 0.0 if is_number and knob != "half_life" else is_number and value > 0
            )
            if not least_works or (math.isinf(value) and knob != "half_life"):
                raise SettingError(
                    f"level {self.name!r}: {knob} is {value!r}; a number above 0 works"
                )
        return replace(spec, **knobs)

    def state_dict(self) -> dict[str, Any]:
        """All that its next update and answer depend on; tensors are copies."""
        pool, name = self._pool, self.name
        needed = {
            **pool.dump_course(),
            "parts": {find_part(name): pool.read_tensors(name)},
            "model": None if pool.model is None else pool.model.state_dict(),
        }
        spec = asdict(replace(self.spec, freeze=None))
        return take_level(needed, name) | {"spec": spec, "clock": self.clock.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the level that was saved, its rates included; every other level stays.

        A freeze stays, too: it says how the level shall go on, not what it has learned.

        Args:
            state: what `state_dict` gave, in this learner or one made with the same arguments.

        Raises:
            ForeignSnapshot: of another level or learner, or from before the stream grew (columns,
                categories, classes); nothing is changed then.
        """
        pool = self._pool
        before = pool.state_dict()
        pool.load_state_dict(put_level(before, self.name, state))


def is_slotted(spec: StreamExpert) -> bool:
    """Whether it keeps concepts, whose memories never forget."""
    return spec.kind == "concepts"


class StreamLevels(Mapping[str, ExpertLevel]):
    """Levels of a stream learner by name, fast and slow alike.

    Args:
        pool: the experts.
    """

    def __init__(self, pool: ExpertPool) -> None:
        self._pool = pool
        self._levels = {name: ExpertLevel(name, pool) for name in pool.names}

    def __getitem__(self, name: str) -> ExpertLevel:
        if name not in self._levels:
            raise UnknownLevel(f"no level {name!r}; {suggest(name, self._levels)}")
        return self._levels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._levels)

    def __len__(self) -> int:
        return len(self._levels)

    def release(self, event: str) -> None:
        """End the freezes that last until this event."""
        self._pool.release(event)

    def read(self) -> list[LevelReading]:
        """Statistics of all levels."""
        return [level.read() for level in self._levels.values()]

    def mark_validated(
        self, by: str, at: float, like: "Mapping[str, ExpertLevel] | None" = None
    ) -> None:
        """Keep every level's tensors as validated: its change counts from here on.

        Args:
            by: who validated.
            at: seconds since 1970 (UTC).
            like: levels of an earlier version, where that was validated.
        """
        levels = self if like is None else like
        tensors = {name: level.tensors() for name, level in levels.items()}
        self._pool.validation = Validation(by, float(at), tensors)

    def digests(self) -> dict[str, str]:
        """SHA-256 digest of each level."""
        return {name: level.digest() for name, level in self._levels.items()}
