"""One version of a model as a line of `versions.jsonl`: when, why, by whom, from which parent."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Origin = Literal["began", "learned", "committed", "validated", "rolled back"]


@dataclass(frozen=True)
class VersionRecord:
    """Version of a model: digests of all levels, where its snapshot lies, and how it came about.

    Attributes:
        id: "v0001", "v0002", ... in the order in which they were made.
        at: seconds since 1970, UTC.
        origin: how it came about.
        snapshot: folder of its snapshot, relative to the run's.
        digests: level -> sha256 of its tensors.
        parent: id of the version before; empty for the first.
        plan_digest: of the plan, so that a version of another plan is told from ours.
        contract_digest: of the contract in force; empty for none.
        by: who made it; empty for the system itself.
        reason: in words.
        clause: id of the modification that it cites; empty for none.
        num_examples: learned by then.
        changes: level -> relative change since the version before.
        since_validation: level -> relative change since the last human validation.
        behaviour: "probe/view" -> figure.
    """

    id: str
    at: float
    origin: Origin
    snapshot: str
    digests: Mapping[str, str]
    parent: str = ""
    plan_digest: str = ""
    contract_digest: str = ""
    by: str = ""
    reason: str = ""
    clause: str = ""
    num_examples: int = 0
    changes: Mapping[str, float] = field(default_factory=dict)
    since_validation: Mapping[str, float] = field(default_factory=dict)
    behaviour: Mapping[str, float] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "VersionRecord":
        """What `to_record` gave."""
        known = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        return cls(**known)
