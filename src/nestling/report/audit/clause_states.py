"""Clauses of the contract in plain words, each with its state in every view."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import FixedBehaviour, MayChange, MustChange
from nestling.judge.contract.findings import Finding
from nestling.judge.verdicts.judging import Duty
from nestling.report.audit.wording import (
    NOTHING,
    count_words,
    end_sentence,
    join_words,
    say_figure,
    say_figures,
    say_hours,
    say_interval,
    say_limits,
    say_share,
    say_view,
)

_FIXED_WORDS = {
    "reviews": "A person has reviewed the contract, and the review still holds.",
    "protocol": "Every probe that the protocol names is measured.",
}
_MEASURES = ("value", "low", "high", "num_examples", "validated", "met", "days_left")


@dataclass(frozen=True)
class ViewState:
    """State of a clause in one view.

    Attributes:
        view: in words.
        state: "passed", "failed", "not judged"; of a duty "met", "not met", "not judged".
        figure, limit, interval, num_examples: in words; a dash where there is none.
        message: in words; empty if there is nothing to add.
    """

    view: str
    state: str
    figure: str = NOTHING
    limit: str = NOTHING
    interval: str = NOTHING
    num_examples: str = NOTHING
    message: str = ""


@dataclass(frozen=True)
class ClauseState:
    """One clause and its state.

    Attributes:
        id: of the clause.
        kind: "may change", "must stay fixed", "must change by" or "also judged".
        says: what the clause says, in plain words.
        state: the worst of its views; of a duty "met", "open" or "expired".
        views: its state in each view.
    """

    id: str
    kind: str
    says: str
    state: str
    views: tuple[ViewState, ...]


def state_clauses(
    contract: Contract, findings: Sequence[Finding], duties: Sequence[Duty]
) -> list[ClauseState]:
    """Every clause of a contract with its state; risks have a section of their own.

    Args:
        contract: in force.
        findings: what judging it gave.
        duties: how they stand today.
    """
    by_clause: dict[str, list[Finding]] = {}
    for finding in findings:
        by_clause.setdefault(finding.clause, []).append(finding)
    states = [
        _state(may.id, "may change", say_may(may), by_clause.pop(may.id, []), NOTHING)
        for may in contract.may_change
    ]
    for name, says in (("parameters", say_fixed(contract)), ("interface", say_interface(contract))):
        found = by_clause.pop(name, [])
        if says:
            states.append(_state(name, "must stay fixed", says, found, NOTHING))
    for clause in contract.must_stay_fixed.behaviour:
        limit = say_limits(clause.least, clause.most, clause.fall)
        says, found = say_behaviour(contract, clause), by_clause.pop(clause.id, [])
        states.append(_state(clause.id, "must stay fixed", says, found, limit))
    standing = {duty.id: duty.state for duty in duties}
    for duty in contract.must_change_by:
        limit, found = say_limits(duty.least, duty.most), by_clause.pop(duty.id, [])
        state = _state(duty.id, "must change by", say_duty(duty), found, limit)
        states.append(replace(state, state=standing[duty.id]))
    risks = {risk.id for risk in contract.risks}
    for about, found in by_clause.items():
        if about not in risks:
            says = _FIXED_WORDS.get(about, f"No clause names '{about}'.")
            states.append(_state(about, "also judged", says, found, NOTHING))
    return states


def say_may(clause: MayChange) -> str:
    """A may-change clause as a sentence."""
    how = "by itself, as it learns"
    if clause.trigger == "proposal":
        how = "only by a proposal that passes every gate"
        if clause.approvals:
            people = "person" if clause.approvals == 1 else "people"
            how += f" and that {clause.approvals} {people} other than the proposer approve"
    pace = ""
    if clause.least_hours:
        pace = f" Between two such changes lie at least {say_hours(clause.least_hours)}."
    return (
        f"Level '{clause.level}' may change {how}: {end_sentence(clause.what)} "
        f"How far: {say_bounds(clause)}.{pace}"
    )


def say_bounds(clause: MayChange) -> str:
    """The bounds of a may-change clause, as relative changes of the level's weights."""
    bounds = (
        (clause.per_update, "per update"),
        (clause.per_day, "per day"),
        (clause.since_validation, "since the last human validation"),
    )
    said = [f"{say_share(bound)} {name}" for bound, name in bounds if bound is not None]
    return f"at most {join_words(said)}" if said else "no bound is set"


def say_behaviour(contract: Contract, clause: FixedBehaviour) -> str:
    """A fixed-behaviour clause as a sentence."""
    spec = next((spec for spec in contract.probes if spec.name == clause.probe), None)
    metric = f" ({spec.metric})" if spec is not None else ""
    views = join_words([say_view(view) for view in clause.views])
    limits = say_limits(clause.least, clause.most, clause.fall)
    return f"Probe '{clause.probe}'{metric} stays {limits}. It is judged for: {views}."


def say_duty(clause: MustChange) -> str:
    """A must-change-by clause as a sentence."""
    views = join_words([say_view(view) for view in clause.views])
    return (
        f"This known harm must be gone by {clause.by}: {end_sentence(clause.harm)} It is gone when "
        f"probe '{clause.probe}' is {say_limits(clause.least, clause.most)}, judged for: {views}. "
        f"Otherwise level '{clause.level}' freezes."
    )


def say_fixed(contract: Contract) -> str:
    """What parameters must stay fixed, as sentences; empty if none."""
    fixed = contract.must_stay_fixed
    named = join_words([f"'{glob}'" for glob in fixed.parameters])
    said = [f"The parameters that match {named} stay bit for bit."] if named else []
    if fixed.digests:
        verb = "has" if len(fixed.digests) == 1 else "have"
        tensors = count_words(len(fixed.digests), "tensor")
        said.append(f"{tensors} {verb} the digest that was signed.")
    return " ".join(said)


def say_interface(contract: Contract) -> str:
    """What of the interface stays, as sentences; empty if nothing is said."""
    interface = contract.must_stay_fixed.interface
    parts = []
    if interface.task:
        parts.append(f"the task is {interface.task}")
    if interface.input_shape is not None:
        shape = " x ".join(map(str, interface.input_shape))
        parts.append(f"an example has {shape} inputs")
    if interface.num_outputs is not None:
        parts.append(f"there are {count_words(interface.num_outputs, 'output')}")
    said = [f"The interface stays: {join_words(parts)}."] if parts else []
    if interface.intended_use:
        said.append(f"Intended use: {end_sentence(interface.intended_use)}")
    return " ".join(said)


def _state(id: str, kind: str, says: str, findings: Sequence[Finding], limit: str) -> ClauseState:
    """A clause with what was found of it; what nobody judged has not passed."""
    views = [_show_finding(finding, limit) for finding in findings]
    if not findings:
        views = [ViewState("", "not judged", limit=limit, message="It was not judged.")]
    states = {view.state for view in views}
    worst = next((one for one in ("failed", "not judged") if one in states), "passed")
    return ClauseState(id, kind, says, worst, tuple(views))


def _show_finding(finding: Finding, limit: str) -> ViewState:
    figures = dict(finding.figures)
    state: str = finding.status
    if "met" in figures:
        is_known = "value" in figures
        state = "met" if figures["met"] == 1.0 else "not met" if is_known else "not judged"
    shown = ViewState(say_view(finding.view), state, limit=limit, message=finding.message)
    if "value" not in figures:
        others = {name: value for name, value in figures.items() if name not in _MEASURES}
        return replace(shown, figure=say_figures(others) or NOTHING)
    has_passed = state in ("passed", "met")
    rows = figures.get("num_examples", math.nan)
    return replace(
        shown,
        figure=say_figure(figures["value"]),
        interval=say_interval(figures.get("low", math.nan), figures.get("high", math.nan)),
        num_examples=f"{rows:,.0f}" if math.isfinite(rows) else NOTHING,
        # The figures say it all; else the message holds the reason or the remedy.
        message="" if has_passed else finding.message,
    )
