"""Clauses of the contract in plain words, each with its state in every view."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import FixedBehaviour, MayChange, MustChange
from nestling.judge.contract.findings import Finding, Status
from nestling.report.audit.audit_records import AuditRecords, AuditVersion, ProbeReading
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
    say_time,
    say_view,
)

_MEASURES = ("value", "low", "high", "num_examples")  # of a probe; others are said by name


@dataclass(frozen=True)
class ViewState:
    """State of a clause in one view, or of one of its bounds.

    Attributes:
        view: in words.
        status: "passed", "failed" or "not judged".
        figure, limit, interval, num_examples: in words; a dash where there is none.
        message: in words; empty if there is nothing to add.
    """

    view: str
    status: Status
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
        kind: "may change", "must stay fixed", "must change by" or "other finding".
        says: what the clause says, in plain words.
        status: the worst of its views.
        views: its state in each view.
    """

    id: str
    kind: str
    says: str
    status: Status
    views: tuple[ViewState, ...]


def state_clauses(records: AuditRecords) -> list[ClauseState]:
    """Every clause of the contract with its state, from the findings of the run's last check.

    Without findings, what the records allow is judged here, and the rest is "not judged".
    """
    contract = records.contract
    findings: dict[str, list[Finding]] = {}
    for dated in records.findings or ():
        findings.setdefault(dated.finding.clause, []).append(dated.finding)
    judged = records.findings is not None
    states = []
    for may in contract.may_change:
        views = _use_findings(findings.pop(may.id, []), {}, NOTHING)
        states.append(
            _state(
                may.id, "may change", say_may(may), views if judged else _judge_bounds(records, may)
            )
        )
    states += _state_fixed(contract, findings, judged)
    probed: list[FixedBehaviour | MustChange] = [
        *contract.must_stay_fixed.behaviour,
        *contract.must_change_by,
    ]
    for clause in probed:
        readings = find_latest(records.probes, clause.probe)
        fall = clause.fall if isinstance(clause, FixedBehaviour) else None
        limit = say_limits(clause.least, clause.most, fall)
        found = findings.pop(clause.id, [])
        views = (
            _use_findings(found, readings, limit)
            if judged
            else [judge_view(records, clause, view, readings.get(view)) for view in clause.views]
        )
        if isinstance(clause, MustChange):
            states.append(_state(clause.id, "must change by", say_duty(clause), views))
        else:
            says = say_behaviour(contract, clause)
            states.append(_state(clause.id, "must stay fixed", says, views))
    for about, rest in findings.items():
        says = f"Found at the last check, about {about}."
        states.append(_state(about, "other finding", says, _use_findings(rest, {}, NOTHING)))
    return states


def find_latest(probes: Sequence[ProbeReading], probe: str) -> dict[str, ProbeReading]:
    """View -> last reading of a probe."""
    return {reading.view: reading for reading in probes if reading.result.probe == probe}


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


def judge_view(
    records: AuditRecords,
    clause: FixedBehaviour | MustChange,
    view: str,
    reading: ProbeReading | None,
) -> ViewState:
    """Judge a probe's last reading by its figure; too few rows are no pass."""
    fall = clause.fall if isinstance(clause, FixedBehaviour) else None
    limit = say_limits(clause.least, clause.most, fall)
    if reading is None:
        return ViewState(say_view(view), "not judged", limit=limit, message="No reading of it.")
    state = replace(_show_reading(view, reading), limit=limit)
    result = reading.result
    if not result.is_judged:
        few = "; ".join(result.too_few) or "there is no figure"
        return replace(state, status="not judged", message=end_sentence(few))
    is_met = (clause.least is None or result.value >= clause.least) and (
        clause.most is None or result.value <= clause.most
    )
    if is_met and fall is not None:
        before = _find_validated(records, clause.probe, view)
        if before is None or before.result.data_digest != result.data_digest:
            message = "No reading of the last validated version on the same data."
            return replace(state, status="not judged", message=message)
        lost = before.result.value - result.value
        is_met = (lost if result.better == "higher" else -lost) <= fall
    return replace(state, status="passed" if is_met else "failed")


def find_validation(records: AuditRecords) -> tuple[float, str, str] | None:
    """(when, by whom, version) of the last human validation; None if there was none."""
    found = [
        (one.at, one.by, one.version) for one in records.events if one.happening == "validated"
    ]
    found += [(one.at, one.by, one.id) for one in records.versions if one.origin == "validated"]
    # An event and a version of the same moment are one; the version is known by its id.
    return max(found, key=lambda one: (one[0], bool(one[2])), default=None)


def _find_validated(records: AuditRecords, probe: str, view: str) -> ProbeReading | None:
    """The reading of a probe at the last validation: of that version, or the last one before."""
    validation = find_validation(records)
    if validation is None:
        return None
    at, _, version = validation
    same = [one for one in records.probes if one.result.probe == probe and one.view == view]
    of_version = [one for one in same if version and one.version == version]
    return next(reversed(of_version or [one for one in same if one.at <= at]), None)


def _state_fixed(
    contract: Contract, findings: dict[str, list[Finding]], judged: bool
) -> list[ClauseState]:
    """Parameters and interface that must stay fixed."""
    fixed, states = contract.must_stay_fixed, []
    unjudged = [
        ViewState(
            "",
            "not judged",
            message="It needs the model: nestling contract check CONTRACT RUN judges it.",
        )
    ]
    if fixed.parameters or fixed.digests:
        named = join_words([f"'{glob}'" for glob in fixed.parameters])
        says = f"The parameters that match {named} stay bit for bit." if named else ""
        if fixed.digests:
            says += (
                f" {count_words(len(fixed.digests), 'tensor')} must have the digest written down"
            )
            says += " when the contract was signed."
        found = findings.pop("parameters", [])
        views = _use_findings(found, {}, NOTHING) if judged else unjudged
        states.append(_state("parameters", "must stay fixed", says.strip(), views))
    interface = fixed.interface
    said = []
    if interface.task:
        said.append(f"it does {interface.task}")
    if interface.input_shape is not None:
        shape = " x ".join(map(str, interface.input_shape))
        said.append(f"an example has {shape} inputs")
    if interface.num_outputs is not None:
        said.append(f"it gives {count_words(interface.num_outputs, 'output')}")
    if said or interface.intended_use:
        says = f"The interface stays: {join_words(said)}." if said else ""
        if interface.intended_use:
            says += f" Intended use: {end_sentence(interface.intended_use)}"
        views = _use_findings(findings.pop("interface", []), {}, NOTHING) if judged else unjudged
        states.append(_state("interface", "must stay fixed", says.strip(), views))
    return states


def _use_findings(
    findings: Sequence[Finding], readings: Mapping[str, ProbeReading], limit: str
) -> list[ViewState]:
    """Findings as states; figures that a finding does not hold are the probe's last ones."""
    if not findings:
        return [
            ViewState("", "not judged", limit=limit, message="The last check did not judge it.")
        ]
    states = []
    for finding in findings:
        figures = dict(finding.figures)
        reading = readings.get(finding.view)
        state = ViewState(say_view(finding.view), finding.status)
        if "value" in figures:
            state = replace(
                state,
                figure=say_figure(figures["value"]),
                interval=say_interval(figures.get("low", math.nan), figures.get("high", math.nan)),
                num_examples=_say_count(figures.get("num_examples")),
            )
        elif reading is not None:
            state = replace(_show_reading(finding.view, reading), status=finding.status)
        others = {key: value for key, value in figures.items() if key not in _MEASURES}
        if others and state.figure == NOTHING:
            state = replace(state, figure=say_figures(others))
        states.append(replace(state, limit=limit, message=finding.message))
    return states


def _show_reading(view: str, reading: ProbeReading) -> ViewState:
    result = reading.result
    return ViewState(
        say_view(view),
        "not judged",
        figure=say_figure(result.value),
        interval=say_interval(result.low, result.high),
        num_examples=_say_count(result.num_examples),
        message=f"Version {reading.version}, {say_time(reading.at)}." if reading.version else "",
    )


def _say_count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


def _judge_bounds(records: AuditRecords, clause: MayChange) -> list[ViewState]:
    """Judge the bounds of a clause that the records tell of; the rest is not judged."""
    states = []
    moved = [one for one in records.versions if clause.level in one.since_validation]
    if clause.since_validation is not None:
        now = moved[-1].since_validation[clause.level] if moved else math.nan
        states.append(_judge_bound("since the last validation", now, clause.since_validation))
    if clause.per_update is not None:
        most = _find_largest(records.versions, clause)
        states.append(_judge_bound("largest single update", most, clause.per_update))
    if clause.per_day is not None:
        states.append(_judge_bound("within a day", math.nan, clause.per_day))
    return states or [ViewState("", "not judged", message="There is no bound to judge.")]


def _find_largest(versions: Sequence[AuditVersion], clause: MayChange) -> float:
    """Largest update; NaN for a level that learns by itself: a version holds many updates."""
    if clause.trigger != "proposal":
        return math.nan
    committed = [one for one in versions if one.origin == "committed"]
    return max((one.changes.get(clause.level, 0.0) for one in committed), default=math.nan)


def _judge_bound(name: str, value: float, bound: float) -> ViewState:
    limit = f"at most {say_share(bound)}"
    if not math.isfinite(value):
        return ViewState(name, "not judged", limit=limit, message="The records do not tell it.")
    status: Status = "passed" if value <= bound else "failed"
    return ViewState(name, status, figure=say_share(value), limit=limit)


def _state(id: str, kind: str, says: str, views: Sequence[ViewState]) -> ClauseState:
    statuses = {view.status for view in views}
    worst: Status = "passed"
    if "failed" in statuses:
        worst = "failed"
    elif "not judged" in statuses or not statuses:
        worst = "not judged"
    return ClauseState(id, kind, says, worst, tuple(views))
