"""What can be governed: a learner, a plain optimizer in any loop, a stream learner."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from nestling.answer.views.restricted import References
from nestling.core.errors import SettingError
from nestling.judge.contract.plan_facts import PlanFacts
from nestling.judge.probes.probe_result import Answering
from nestling.judge.verdicts.contract_facts import LevelChanges
from nestling.levels.bounds import ChangeBounds
from nestling.levels.readings import LevelReading


class Subject(Protocol):
    """Something with levels that answers, can be tried on a copy, and saved.

    Attributes:
        target: what a change is given: the learner, the optimizer, the stream learner.
    """

    target: Any

    @property
    def levels(self) -> Mapping[str, Any]:
        """Its live levels by name."""

    @property
    def kinds(self) -> dict[str, str]:
        """Level -> its kind, "gradient" for one that learns by gradient."""

    @property
    def num_examples(self) -> int:
        """Learned so far; optimizer steps where examples are not counted."""

    def read_levels(self) -> list[LevelReading]:
        """Current statistics of every level."""

    def measure_change(self, name: str) -> LevelChanges:
        """How far a level moved in its last update, within its day, and since it was validated."""

    def describe(self) -> PlanFacts:
        """What a contract needs to know of its plan."""

    def digest_plan(self) -> str:
        """SHA-256 digest of its plan, so that versions of another one are told apart."""

    def read_fixed(self) -> dict[str, Tensor]:
        """Everything that a contract may fix, by name; not copies."""

    def read_interface(self) -> dict[str, object]:
        """What is known of "task", "input_shape" and "num_outputs"."""

    def answer_by(self, names: Collection[str] | None, references: References) -> Answering:
        """Who answers when only some levels may; None: all of them."""

    def list_cohorts(self) -> dict[str, Answering]:
        """Answers with the fast levels of each cohort or subject that has its own."""

    def copy(self) -> "Subject":
        """A twin on which a change is tried."""

    def hold(self, tensors: Collection[str], levels: Collection[str]) -> None:
        """Keep tensors, and whole levels, as they are bit for bit from now on; replaces the last
        call."""

    def check_bounds(self, name: str, bounds: ChangeBounds) -> None:
        """Raise SettingError unless a level can be held to these bounds; nothing is changed."""

    def bind(self, name: str, bounds: ChangeBounds, now: Callable[[], float]) -> None:
        """Hold a level to bounds of its change; without any in them they end.

        Args:
            name: of the level.
            bounds: of its relative change.
            now: seconds since 1970, UTC.
        """

    def mark_validated(self, by: str, at: float, like: "Subject | None" = None) -> None:
        """Let the cumulative change of every level begin anew.

        Args:
            by: who validated.
            at: seconds since 1970, UTC.
            like: what was validated, where that was an earlier version; None for what is now.
        """

    def load_level(self, name: str, state: Mapping[str, Any], feedback: Iterable[Any] = ()) -> None:
        """Let one level become what was saved, others untouched; then it alone learns feedback."""

    def read_part(self, name: str) -> Mapping[str, Any]:
        """What of a level a proposal takes over: its weights, or its whole state."""

    def write(self, path: Path, last: Path | None) -> None:
        """Save everything as a snapshot; what an earlier one holds is linked."""

    def read_version(self, path: Path) -> "Subject":
        """A twin as it was when a snapshot was written."""

    def read_level(self, path: Path, name: str) -> Mapping[str, Any]:
        """The state of one level of a snapshot, for `load_level`."""


def check_no_batches(feedback: Iterable[Any]) -> None:
    """Raise SettingError if batches are given to what has no loop of its own."""
    for _ in feedback:
        raise SettingError(
            "only a learner takes feedback as batches; give a function that lets the optimizer or "
            "the stream learner learn it"
        )
