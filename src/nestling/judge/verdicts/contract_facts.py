"""What a change contract is judged by: figures, digests, dates, interface, as data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from nestling.judge.probes.probe_result import ProbeResult

# View -> probe -> what was measured. Cohorts and subjects have a view each, "cohorts/NAME".
Measured = Mapping[str, Mapping[str, ProbeResult]]


@dataclass(frozen=True)
class LevelChanges:
    """Relative changes of a level, as `MayChange` bounds them; None where nothing was measured.

    Attributes:
        per_update: of its last update, or the largest one.
        per_day: within the last day.
        since_validation: since the last human validation.
        is_held: whether updates beyond the bounds cannot happen, because they are scaled back:
            what was not measured passes then.
    """

    per_update: float | None = None
    per_day: float | None = None
    since_validation: float | None = None
    is_held: bool = False


@dataclass(frozen=True)
class InterfaceFacts:
    """What a model takes and gives, as far as it was found.

    Attributes:
        task: "classification" or "regression"; empty if unknown.
        input_shape: of one example; None if unknown.
        num_outputs: per example; None if unknown.
        refusal: what the model said to inputs of the contract's shape; empty if it took them.
    """

    task: str = ""
    input_shape: tuple[int, ...] | None = None
    num_outputs: int | None = None
    refusal: str = ""


@dataclass(frozen=True)
class ContractFacts:
    """What a contract is judged by; whatever is left out is not judged, which is no pass.

    Attributes:
        today: the day, for duties, reviews and risks.
        digests: name -> sha256 of every tensor of the model now; None if it was not looked at.
        signed: name -> sha256 of fixed tensors as they stood before; the contract's own come first.
        interface: what the model takes and gives.
        changes: level -> relative changes.
        measured: view -> probe -> result now.
        validated: view -> probe -> result at the last human validation.
        commits: clause id -> when its proposals were committed, seconds since 1970, UTC.
    """

    today: date | None = None
    digests: Mapping[str, str] | None = None
    signed: Mapping[str, str] = field(default_factory=dict)
    interface: InterfaceFacts | None = None
    changes: Mapping[str, LevelChanges] = field(default_factory=dict)
    measured: Measured = field(default_factory=dict)
    validated: Measured = field(default_factory=dict)
    commits: Mapping[str, Sequence[float]] = field(default_factory=dict)
