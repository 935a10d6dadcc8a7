"""What an examination found: one line per check, one row per level."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Outcome = Literal["ok", "failed", "not examined"]


@dataclass(frozen=True)
class Check:
    """Result of one check of a model, plan or optimizer.

    Args:
        name: what was checked.
        subject: whom it is about: a level, parameters, an optimizer; "model" for all of it.
        outcome: "not examined" is no pass; `finding` says why.
        finding: what was seen, with a number, and what would work.
    """

    name: str
    subject: str
    outcome: Outcome
    finding: str


@dataclass(frozen=True)
class LevelRow:
    """One level after the run of an examination.

    Args:
        level: its name.
        kind: "gradient", "copy" or another kind of the plan.
        period: optimizer steps between two updates; None where it has no such clock.
        due: updates that were due in the run.
        updates: updates that were made.
        relative_change: ||end - start|| / ||start|| over the run; None where nothing is known.
        state: one word or two on how it stands.
    """

    level: str
    kind: str
    period: int | None
    due: int | None
    updates: int | None
    relative_change: float | None
    state: str


@dataclass(frozen=True)
class Examination:
    """Report of an examination; `failed` is what has to be mended.

    Args:
        steps: optimizer steps that were taken.
        levels: a row per level.
        checks: in the order in which they were made.

    >>> Examination(0, (), (Check("causal", "model", "ok", "..."),)).is_healthy
    True
    """

    steps: int
    levels: tuple[LevelRow, ...]
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome == "failed")

    @property
    def is_healthy(self) -> bool:
        """Whether no check failed and one at least could be made."""
        return not self.failed and any(check.outcome == "ok" for check in self.checks)

    def to_data(self) -> dict[str, object]:
        """All of it as plain data, for JSON."""
        return {
            "healthy": self.is_healthy,
            "steps": self.steps,
            "levels": [_clean(asdict(row)) for row in self.levels],
            "checks": [asdict(check) for check in self.checks],
        }


def _clean(row: dict[str, object]) -> dict[str, object]:
    """What is not finite, which JSON cannot say, as None."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def passed(name: str, subject: str, finding: str) -> Check:
    """A check that was made and holds."""
    return Check(name, subject, "ok", finding)


def failed(name: str, subject: str, finding: str) -> Check:
    """A check that was made and does not hold."""
    return Check(name, subject, "failed", finding)


def skipped(name: str, subject: str, reason: str) -> Check:
    """A check that could not be made."""
    return Check(name, subject, "not examined", reason)


def list_names(names: Sequence[str], most: int = 6) -> str:
    """Names for a line of text; of many the first.

    >>> list_names(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
