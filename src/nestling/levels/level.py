"""The protocol of a level: state with its own clock, read, changed, digested and saved alike."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, Unpack

from torch import Tensor

from nestling.core.errors import MismatchedParameters
from nestling.levels.control import Knobs
from nestling.levels.events import Change, Event
from nestling.levels.readings import LevelReading
from nestling.levels.spec import AnySpec

Unit = Literal["steps", "examples", "tokens"]


@dataclass
class Clock:
    """Clock of a level: counts steps, examples or tokens, and the level's updates.

    Attributes:
        unit: what it counts: optimizer steps, examples or tokens.
        age: units since the last boundary.
        num_ticks: units that the level has seen.
        num_updates: updates that were made and stand.

    >>> Clock("steps", num_ticks=3).state_dict()
    {'unit': 'steps', 'age': 0, 'num_ticks': 3, 'num_updates': 0}
    """

    unit: Unit = "steps"
    age: int = 0
    num_ticks: int = 0
    num_updates: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Its counts, as plain data."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.age, self.num_ticks = state["age"], state["num_ticks"]
        self.num_updates = state["num_updates"]


class LiveLevel(Protocol):
    """Protocol of a live level of any kind: its tensors, digest, state and knobs.

    Attributes:
        spec: what the plan says of it, knobs that were turned included.
        events: what happened to it since it was last asked.
    """

    spec: AnySpec
    events: list[Event]

    @property
    def clock(self) -> Clock:
        """The level's clock."""

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors of the level (copies): what a version, a digest or a client is made of."""

    def digest(self) -> str:
        """SHA-256 digest of its tensors, names, shapes and dtypes included."""

    def read(self) -> LevelReading:
        """Current statistics of the level; see `LevelReading`."""

    def state_dict(self) -> dict[str, Any]:
        """All that its next update and answer depend on; tensors are copies."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the level that was saved, of this plan; raises with nothing changed."""

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise what `load_state_dict` would raise; nothing is changed."""

    def control(self, *, reason: str, **knobs: Unpack[Knobs]) -> Change:
        """Change hyperparameters: checked now, in force at its next boundary; gives the record."""


def check_kind(state: Mapping[str, Any], spec: AnySpec, keys: set[str]) -> None:
    """Raise unless a saved level is of the kind and the layout of a live one.

    Args:
        state: what was saved.
        spec: of the live level.
        keys: entries that a state of that kind has.

    Raises:
        MismatchedParameters: another kind, or entries that are missing.
    """
    saved = state.get("spec", {}) if isinstance(state, Mapping) else {}
    kind = saved.get("kind") if isinstance(saved, Mapping) else None
    if kind != spec.kind:
        raise MismatchedParameters(
            f"level {spec.name!r} is a {spec.kind} level, the state is of "
            f"{'a ' + kind + ' level' if isinstance(kind, str) else 'none'}; give it the "
            "state_dict() of the same level of a learner with this plan"
        )
    if missing := sorted(keys - state.keys()):
        raise MismatchedParameters(
            f"the state of level {spec.name!r} lacks {missing[0]!r}; give it a whole state_dict()"
        )


def check_level_names(kind: str, ours: Iterable[str], saved: Iterable[str]) -> None:
    """Raise MismatchedParameters unless a state has the levels of a plan, in its order."""
    own, other = list(ours), list(saved)
    if own != other:
        raise MismatchedParameters(
            f"the state has {kind} {other}, this plan has {own}; "
            "restore it with the plan it was saved with"
        )
