"""Judging a change contract: each clause against what was found, passed, failed or not judged.

Everything that is judged is given: figures, digests, dates. Nothing here measures or reads a clock.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Literal

from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import BOUNDS, FixedBehaviour, MayChange, MustChange, Risk
from nestling.judge.contract.findings import Finding
from nestling.judge.verdicts.behaviour import judge_behaviour, judge_duty
from nestling.judge.verdicts.contract_facts import ContractFacts, LevelChanges
from nestling.judge.verdicts.fixed_parts import join_names, judge_interface, judge_parameters

_HOUR = 3600.0


@dataclass(frozen=True)
class Duty:
    """How a duty stands: open, met or expired.

    Attributes:
        id: of its clause.
        harm: in words.
        level: that freezes when it expires.
        by: the last day.
        days_left: until then; negative after it.
        state: "open", "met" or "expired".
    """

    id: str
    harm: str
    level: str
    by: date
    days_left: int
    state: Literal["open", "met", "expired"]


def judge_contract(contract: Contract, facts: ContractFacts) -> list[Finding]:
    """Judge every clause of a contract, in every view that it names.

    A figure is judged by its point value; the message says its interval as well.

    Args:
        contract: that was checked against the plan.
        facts: what was found.

    Returns: one finding per clause and view, in the order of the document.

    >>> contract = Contract("triage", must_stay_fixed={"parameters": ["norm.*"]})
    >>> facts = ContractFacts(digests={"norm.weight": "aa"}, signed={"norm.weight": "bb"})
    >>> [finding.status for finding in judge_contract(contract, facts)]
    ['failed']
    """
    fixed = contract.must_stay_fixed
    findings = [judge_change(change, facts) for change in contract.may_change]
    findings += _judge_unnamed(contract, facts)
    if fixed.parameters:
        findings.append(judge_parameters(contract, facts))
    if interface := judge_interface(contract, facts):
        findings.append(interface)
    for clause in fixed.behaviour:
        findings += [
            judge_behaviour(contract, clause, view, facts) for view in _list_views(clause, facts)
        ]
    for duty in contract.must_change_by:
        findings += [judge_duty(contract, duty, view, facts) for view in _list_views(duty, facts)]
    if contract.protocol.probes:
        findings.append(_judge_protocol(contract, facts))
    if contract.reviews:
        findings.append(_judge_reviews(contract, facts.today))
    return findings + [_judge_risk(risk, facts.today) for risk in contract.risks]


def is_kept(findings: Iterable[Finding]) -> bool:
    """Whether a contract is kept: every clause was judged, and passed.

    >>> is_kept([Finding("B1", "passed", "")]), is_kept([Finding("B1", "not judged", "")])
    (True, False)
    """
    return all(finding.status == "passed" for finding in findings)


def list_duties(contract: Contract, findings: Iterable[Finding], today: date) -> list[Duty]:
    """How the duties of a contract stand; a duty is met if it is met in every one of its views.

    Args:
        contract: whose duties.
        findings: of `judge_contract`.
        today: the day.
    """
    by_clause: dict[str, list[Finding]] = {}
    for finding in findings:
        by_clause.setdefault(finding.clause, []).append(finding)
    duties = []
    for clause in contract.must_change_by:
        found = by_clause.get(clause.id, [])
        days_left = (clause.by - today).days
        is_met = bool(found) and all(dict(one.figures).get("met") == 1.0 for one in found)
        state: Literal["open", "met", "expired"] = "open" if days_left >= 0 else "expired"
        duties.append(
            Duty(
                clause.id,
                clause.harm,
                clause.level,
                clause.by,
                days_left,
                "met" if is_met else state,
            )
        )
    return duties


def judge_change(clause: MayChange, facts: ContractFacts) -> Finding:
    """Judge the bounds and the cadence of what may change."""
    changes = facts.changes.get(clause.level, LevelChanges())
    failed, missing, kept, figures = [], [], [], []
    for name in BOUNDS:
        bound: float | None = getattr(clause, name)
        value: float | None = getattr(changes, name)
        if value is not None:
            figures.append((name, value))
        if bound is None:
            continue
        words = name.replace("_", " ")
        if value is None and changes.is_held:
            kept.append(f"at most {bound:g} {words}, which is held")
        elif value is None:
            missing.append(words)
        elif not value <= bound:  # what is not finite is beyond any bound
            failed.append(f"{value:.4g} {words}, at most {bound:g}")
        else:
            kept.append(f"{value:.4g} {words} of {bound:g}")
    if early := _find_early_commit(clause, facts.commits.get(clause.id, ())):
        failed.append(early)
    start = f"level {clause.level!r}"
    if failed:
        message = (
            f"{start} changed by {'; '.join(failed)}; roll the level back, or have a person "
            "validate it and raise the bound"
        )
        return Finding(clause.id, "failed", message, figures=tuple(figures))
    if missing:
        message = (
            f"{start}: the change {' and '.join(missing)} was not measured; check a run, or what "
            "nl.govern keeps"
        )
        return Finding(clause.id, "not judged", message, figures=tuple(figures))
    said = f"{start} changed by {', '.join(kept)}" if kept else f"{start} has no bound to keep"
    return Finding(clause.id, "passed", said, figures=tuple(figures))


def _judge_unnamed(contract: Contract, facts: ContractFacts) -> list[Finding]:
    """Levels that no modification names and that have changed all the same."""
    named = {clause.level for clause in contract.may_change}
    found = []
    for level, changes in facts.changes.items():
        moved = max(
            (value for name in BOUNDS if (value := getattr(changes, name)) is not None),
            default=0.0,
            key=lambda value: math.inf if math.isnan(value) else value,
        )
        if level not in named and moved != 0.0:
            message = (
                f"level {level!r} changed by {moved:.4g}, and no modification lets it change; roll "
                "it back, or add a may_change clause"
            )
            found.append(Finding(level, "failed", message, figures=(("change", moved),)))
    return found


def _judge_protocol(contract: Contract, facts: ContractFacts) -> Finding:
    met = {name for results in facts.measured.values() for name in results}
    wanted = contract.protocol.probes
    if missing := [name for name in wanted if name not in met]:
        message = f"{join_names(map(repr, missing))} were not measured; give these probes data"
        return Finding("protocol", "not judged", message)
    return Finding("protocol", "passed", f"{join_names(map(repr, wanted))} were measured")


def _judge_reviews(contract: Contract, today: date | None) -> Finding:
    last = max(contract.reviews, key=lambda review: review.until)
    if today is None:
        return Finding("reviews", "not judged", "no day was given; say today")
    holding = [review for review in contract.reviews if review.on <= today <= review.until]
    if holding:
        best = max(holding, key=lambda review: review.until)
        left = (best.until - today).days
        message = f"reviewed by {best.by} on {best.on}, holds until {best.until}"
        return Finding("reviews", "passed", message, figures=(("days_left", float(left)),))
    ended = (
        f"the last review, by {last.by}, ended {last.until}"
        if last.until < today
        else f"no review holds on {today}; the last, by {last.by}, is from {last.on} on"
    )
    message = f"{ended}; a person must review the contract before anything is committed"
    return Finding("reviews", "failed", message)


def _judge_risk(risk: Risk, today: date | None) -> Finding:
    if risk.until is not None and today is not None and today > risk.until:
        message = (
            f"{risk.hazard}: accepted until {risk.until}, which is over; review the risk and say "
            "until when it is accepted"
        )
        return Finding(risk.id, "failed", message)
    if not risk.accepted_by:
        message = f"{risk.hazard}: nobody accepts what remains; name who does in accepted_by"
        return Finding(risk.id, "not judged", message)
    if risk.until is not None and today is None:
        return Finding(risk.id, "not judged", f"{risk.hazard}: no day was given; say today")
    until = f" until {risk.until}" if risk.until else ""
    return Finding(risk.id, "passed", f"{risk.hazard}: accepted by {risk.accepted_by}{until}")


def _list_views(clause: FixedBehaviour | MustChange, facts: ContractFacts) -> list[str]:
    """Its views; that of cohorts as one for each cohort that was measured."""
    views: list[str] = []
    for view in clause.views:
        parts = [name for name in facts.measured if name.startswith(f"{view}/")]
        views += parts or [view]
    return views


def _find_early_commit(clause: MayChange, commits: Sequence[float]) -> str:
    """Two commits that lie closer together than the cadence allows, in words; empty if none do."""
    ordered = sorted(commits)
    gaps = [(later - former) / _HOUR for former, later in pairwise(ordered)]
    if gaps and min(gaps) < clause.least_hours:
        return (
            f"two proposals {min(gaps):.3g} hours apart, {clause.least_hours:g} hours must lie "
            "between"
        )
    return ""
