"""What judging a clause gave, and what happened under a contract: records for people."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["passed", "failed", "not judged"]
Happening = Literal[
    "proposed",
    "judged",
    "approved",
    "committed",
    "refused",
    "rolled back",
    "validated",
    "braked",
    "held",
    "alarm",
    "duty",
    "changed",
]


@dataclass(frozen=True)
class Finding:
    """What judging one clause gave: passed, failed, or not judged, in words and figures.

    Attributes:
        clause: id of the clause, or what it is about, such as "parameters".
        status: "passed", "failed" or "not judged", which is no pass.
        message: in words, with the value, the limit and the remedy.
        view: in which it was judged; empty where that does not matter.
        figures: by name.
    """

    clause: str
    status: Status
    message: str
    view: str = ""
    figures: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class GovernanceEvent:
    """Event under a contract: what happened to which level, by whom, why, with which figures.

    Attributes:
        happening: what kind of event.
        at: seconds since 1970, UTC.
        message: in plain words.
        level: whose; empty if of none.
        clause: id of the clause that it cites; empty if of none.
        by: who did it; empty for the system itself.
        view: in which it was judged; empty where that does not matter.
        passed: verdict of a judgement; None for what is no judgement, or was not judged.
        figures: by name.
        version: id of the version that it made or went back to; empty if of none.
        undo: the command that undoes it; empty if nothing needs to be undone.
    """

    happening: Happening
    at: float
    message: str
    level: str = ""
    clause: str = ""
    by: str = ""
    view: str = ""
    passed: bool | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    version: str = ""
    undo: str = ""

    def to_record(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "GovernanceEvent":
        """What `to_record` gave."""
        known = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        return cls(**known)
