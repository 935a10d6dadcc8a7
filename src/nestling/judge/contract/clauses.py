"""Clauses of a change contract as data: may change, must stay fixed, must change by."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from nestling.core.checked import checked

CONFIG = ConfigDict(extra="forbid", defer_build=True)
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.\-]*$")]
Text = Annotated[str, Field(min_length=1)]
Bound = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
AsTuple = AfterValidator(tuple)


def _check_digest(value: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError(
            "64 hexadecimal digits (sha256) work; `nestling contract sign` writes them"
        )
    return value


Digest = Annotated[str, AfterValidator(_check_digest)]
OneOrMore = BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
# Who answers: the slow levels by themselves, all levels, each cohort's or subject's own fast ones.
View = Literal["spine", "whole", "cohorts"]
ALL_VIEWS: tuple[View, ...] = ("spine", "whole", "cohorts")
# Bounds of a change, from the shortest time to the longest.
BOUNDS = ("per_update", "per_day", "since_validation")


@checked
@dataclass(frozen=True, config=CONFIG)
class LevelRole:
    """Role of a level under a contract: spine or fast, and how much depends on it.

    Args:
        name: of the level in the plan.
        role: "spine" answers in the view of the spine alone, "fast" does not.
        materiality: how much harm a wrong change of it can do.
        scope: "global", or "subject" for a level of one cohort or subject.

    Raises:
        SettingError: a spine of one subject: all others would answer from it.
    """

    name: Text
    role: Literal["spine", "fast"]
    materiality: Literal["low", "medium", "high"] = "medium"
    scope: Literal["global", "subject"] = "global"

    @model_validator(mode="after")
    def _check(self) -> "LevelRole":
        if self.role == "spine" and self.scope == "subject":
            raise ValueError(
                f"level {self.name!r} is a spine with scope 'subject', but a spine answers for "
                "all; role 'fast' or scope 'global' works"
            )
        return self


@checked
@dataclass(frozen=True, config=CONFIG)
class MayChange:
    """Clause of what may change: a level, within bounds, so often, approved by so many.

    Bounds are relative changes ||after - before|| / ||before|| of the level's weights.

    Args:
        id: by which a change cites it, e.g. "M1".
        level: of the plan.
        what: in words.
        per_update: largest relative change of one update; None for no bound.
        per_day: largest relative change within a day; None for no bound.
        since_validation: largest relative change since the last human validation; None for none.
        least_hours: that must lie between two proposals that are committed; 0 for no cadence.
        approvals: people, the proposer not among them, who must approve a proposal.
        trigger: "automatic" changes as it learns; "proposal" only by a proposal that passes.

    Raises:
        SettingError: bounds of which a shorter time allows more than a longer one; approvals or a
            cadence without proposals.
    """

    id: Name
    level: Text
    what: Text
    per_update: Bound | None = None
    per_day: Bound | None = None
    since_validation: Bound | None = None
    least_hours: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    approvals: Count = 0
    trigger: Literal["automatic", "proposal"] = "automatic"

    @model_validator(mode="after")
    def _check(self) -> "MayChange":
        bounds = [(name, bound) for name in BOUNDS if (bound := getattr(self, name)) is not None]
        for (short, less), (long, more) in pairwise(bounds):
            if less > more:
                raise ValueError(
                    f"modification {self.id!r} allows {short} {less:g}, more than {long} {more:g}; "
                    f"lower {short} to {more:g} or raise {long}"
                )
        if self.trigger == "automatic" and (self.approvals or self.least_hours):
            asked = (
                f"approvals = {self.approvals}"
                if self.approvals
                else f"least_hours = {self.least_hours:g}"
            )
            raise ValueError(
                f"modification {self.id!r} has {asked}, but its trigger is 'automatic' and nothing "
                "is proposed; trigger = 'proposal' works"
            )
        return self


@checked
@dataclass(frozen=True, config=CONFIG)
class FixedBehaviour:
    """Clause of behaviour that must stay: a probe, its limits, and the views it is judged in.

    Args:
        id: e.g. "B1".
        probe: by name.
        least: smallest figure that passes.
        most: largest figure that passes.
        fall: how much worse than at the last validation the figure may be, in its own unit.
        views: in which it must hold.
    """

    id: Name
    probe: Text
    least: Finite | None = None
    most: Finite | None = None
    fall: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    views: Annotated[Sequence[View], OneOrMore, AsTuple] = ("spine", "whole")

    @model_validator(mode="after")
    def _check(self) -> "FixedBehaviour":
        if self.least is None and self.most is None and self.fall is None:
            raise ValueError(f"behaviour {self.id!r} has no limit; give least, most or fall")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(
                f"behaviour {self.id!r} asks for least {self.least:g} and most {self.most:g}, "
                "which no figure meets; swap them or drop one"
            )
        if not self.views:
            raise ValueError(f"behaviour {self.id!r} has no view; views=['spine', 'whole'] works")
        return self


@checked
@dataclass(frozen=True, config=CONFIG)
class Interface:
    """Interface that must stay: what is predicted, from how many inputs, to which outputs.

    Args:
        task: "classification" or "regression".
        input_shape: of one example; None for any.
        num_outputs: classes or values per example; None for any.
        intended_use: in words.
    """

    task: Literal["classification", "regression"] | None = None
    input_shape: Annotated[Sequence[int], AsTuple] | None = None
    num_outputs: Annotated[int, Field(ge=1)] | None = None
    intended_use: str = ""


@checked
@dataclass(frozen=True, config=CONFIG)
class StaysFixed:
    """Clauses of what must stay fixed: parameters, behaviour, interface.

    Args:
        parameters: `fnmatch` globs over names of parameters and buffers that stay bit for bit.
        digests: name -> sha256 of such a tensor, as it stood when the contract was signed.
        behaviour: probes with limits.
        interface: of the model.
    """

    parameters: Annotated[Sequence[Text], OneOrMore, AsTuple] = ()
    digests: Mapping[str, Digest] = Field(default_factory=dict)
    behaviour: Annotated[Sequence[FixedBehaviour], AsTuple] = ()
    interface: Interface = Interface()


@checked
@dataclass(frozen=True, config=CONFIG)
class MustChange:
    """Clause of what must change by a date: a known harm, its probe and target.

    When the date has passed and the target is not met in every view, the level freezes and the
    duty is reported.

    Args:
        id: e.g. "H1".
        harm: in words.
        probe: by name.
        level: that freezes on expiry.
        by: the last day.
        least: smallest figure that meets the duty.
        most: largest figure that meets it.
        views: in which it must be met.
    """

    id: Name
    harm: Text
    probe: Text
    level: Text
    by: date
    least: Finite | None = None
    most: Finite | None = None
    views: Annotated[Sequence[View], OneOrMore, AsTuple] = ("spine", "whole")

    @model_validator(mode="after")
    def _check(self) -> "MustChange":
        if (self.least is None) == (self.most is None):
            raise ValueError(f"duty {self.id!r} needs one target; give least or most")
        if not self.views:
            raise ValueError(f"duty {self.id!r} has no view; views=['spine', 'whole'] works")
        return self


@checked
@dataclass(frozen=True, config=CONFIG)
class EvaluationProtocol:
    """Protocol of evaluation: which probes judge a proposal, and from how many rows on.

    Args:
        probes: measured at every proposal, though no clause may name them; for the record.
        confidence: of intervals, two-sided.
        least_examples: rows that a figure, or the figure of a group, needs to be judged.
        data: in words: where the rows come from and who holds them.
    """

    probes: Annotated[Sequence[Text], OneOrMore, AsTuple] = ()
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    least_examples: Annotated[int, Field(ge=1)] = 30
    data: str = ""


@checked
@dataclass(frozen=True, config=CONFIG)
class Review:
    """Review of the contract by a person, which expires.

    Args:
        by: who reviewed.
        on: the day.
        until: the last day on which it holds.
        note: in words.
    """

    by: Text
    on: date
    until: date
    note: str = ""

    @model_validator(mode="after")
    def _check(self) -> "Review":
        if self.until < self.on:
            raise ValueError(f"review by {self.by!r} ends {self.until}, before it began {self.on}")
        return self


@checked
@dataclass(frozen=True, config=CONFIG)
class Risk:
    """Entry of the risk review: hazard, severity, evidence, what remains and who accepts it.

    Args:
        id: e.g. "R1".
        hazard: what can go wrong, for whom.
        severity: of the harm, before what is done against it.
        evidence: clauses or probes that bear on it, or words.
        residual: what remains.
        accepted_by: who accepts it.
        until: the last day on which that holds.
    """

    id: Name
    hazard: Text
    severity: Literal["negligible", "minor", "serious", "critical", "catastrophic"]
    evidence: Annotated[Sequence[Text], OneOrMore, AsTuple] = ()
    residual: str = ""
    accepted_by: str = ""
    until: date | None = None
