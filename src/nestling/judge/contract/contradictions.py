"""Contradictions of a change contract with itself: pure checks over its clauses.

What is wrong with one clause alone is said by that clause; what two of them make impossible, here.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import combinations

from nestling.core.errors import suggest
from nestling.judge.contract.clauses import (
    EvaluationProtocol,
    FixedBehaviour,
    LevelRole,
    MayChange,
    MustChange,
    Risk,
    StaysFixed,
)
from nestling.judge.contract.probe_spec import ProbeSpec

Clause = MayChange | FixedBehaviour | MustChange | Risk
# Evidence of a risk that is written as one word can only be a name.
_ONE_WORD = re.compile(r"^[A-Za-z][A-Za-z0-9_\-]*$")


def find_contradiction(
    *,
    levels: Sequence[LevelRole] = (),
    may_change: Sequence[MayChange] = (),
    fixed: StaysFixed | None = None,
    duties: Sequence[MustChange] = (),
    protocol: EvaluationProtocol | None = None,
    risks: Sequence[Risk] = (),
    probes: Sequence[ProbeSpec] = (),
) -> str:
    """Find what makes the clauses of a contract contradict each other.

    Args:
        levels: roles.
        may_change: what may change.
        fixed: what must stay fixed.
        duties: what must change by a date.
        protocol: of evaluation.
        risks: the risk review.
        probes: that the contract lists; with none listed every name of a probe is taken for one
            that is given in Python.

    Returns: the first contradiction on one line, with the remedy; empty if there is none.

    >>> find_contradiction(
    ...     may_change=[
    ...         MayChange("M1", level="head", what="daily drift"),
    ...         MayChange("M2", level="head", what="a new class", trigger="proposal"),
    ...     ]
    ... )
    "modifications 'M1' and 'M2' of level 'head' have the triggers 'automatic' and 'proposal';
    give both the same, or keep one"
    """
    fixed, protocol = fixed or StaysFixed(), protocol or EvaluationProtocol()
    clauses: list[Clause] = [*may_change, *fixed.behaviour, *duties, *risks]
    found = (
        _find_twice("clauses have the id", [clause.id for clause in clauses]),
        _find_twice("levels are called", [level.name for level in levels]),
        _find_twice("probes are called", [probe.name for probe in probes]),
        _find_two_triggers(may_change),
        _find_idle_duty(duties, may_change),
        _find_uncovered_digest(fixed),
        _find_unknown_probe(fixed.behaviour, duties, protocol, probes),
        _find_unknown_evidence(risks, clauses, probes),
        _find_excluding_limits([*fixed.behaviour, *duties]),
    )
    return next((said for said in found if said), "")


def covers(patterns: Iterable[str], name: str) -> bool:
    """Whether an `fnmatch` glob covers a name.

    >>> covers(["norm.*"], "norm.weight"), covers([], "norm.weight")
    (True, False)
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _find_twice(what: str, names: Sequence[str]) -> str:
    twice = next((name for name in names if names.count(name) > 1), None)
    return "" if twice is None else f"two {what} {twice!r}; give each its own"


def _find_two_triggers(may_change: Sequence[MayChange]) -> str:
    for first, second in combinations(may_change, 2):
        if first.level == second.level and first.trigger != second.trigger:
            return (
                f"modifications {first.id!r} and {second.id!r} of level {first.level!r} have the "
                f"triggers {first.trigger!r} and {second.trigger!r}; give both the same, or keep "
                "one"
            )
    return ""


def _find_idle_duty(duties: Sequence[MustChange], may_change: Sequence[MayChange]) -> str:
    changing = {clause.level for clause in may_change}
    for duty in duties:
        if duty.level not in changing:
            return (
                f"duty {duty.id!r} can never be met: no modification lets level {duty.level!r} "
                f"change; add one, or name another level ({suggest(duty.level, changing)})"
            )
    return ""


def _find_uncovered_digest(fixed: StaysFixed) -> str:
    for name in fixed.digests:
        if not covers(fixed.parameters, name):
            return (
                f"must_stay_fixed has a digest of {name!r}, which none of its parameters "
                f"{list(fixed.parameters)} covers; add {name!r} to parameters or drop the digest"
            )
    return ""


def _find_unknown_probe(
    behaviour: Sequence[FixedBehaviour],
    duties: Sequence[MustChange],
    protocol: EvaluationProtocol,
    probes: Sequence[ProbeSpec],
) -> str:
    known = {probe.name for probe in probes}
    named = [
        *((f"behaviour {clause.id!r}", clause.probe) for clause in behaviour),
        *((f"duty {duty.id!r}", duty.probe) for duty in duties),
        *(("the protocol", name) for name in protocol.probes),
    ]
    for who, name in named:
        if known and name not in known:
            return f"{who} names the probe {name!r}, which is not listed; {suggest(name, known)}"
    return ""


def _find_unknown_evidence(
    risks: Sequence[Risk],
    clauses: Sequence[Clause],
    probes: Sequence[ProbeSpec],
) -> str:
    known = {clause.id for clause in clauses} | {probe.name for probe in probes}
    for risk in risks:
        for evidence in risk.evidence:
            if probes and _ONE_WORD.match(evidence) and evidence not in known:
                return (
                    f"risk {risk.id!r} names the evidence {evidence!r}, which is no clause and no "
                    f"probe; {suggest(evidence, known)} (words of your own need a blank)"
                )
    return ""


def _find_excluding_limits(clauses: Sequence[FixedBehaviour | MustChange]) -> str:
    """Two clauses of one probe and one view that no figure meets both."""
    for first, second in combinations(clauses, 2):
        if first.probe != second.probe or not set(first.views) & set(second.views):
            continue
        for low, high in ((first, second), (second, first)):
            if low.least is not None and high.most is not None and low.least > high.most:
                return (
                    f"{_name(low)} asks for least {low.least:g} of probe {low.probe!r} and "
                    f"{_name(high)} for most {high.most:g}, which no figure meets both; move one "
                    "of the limits or judge them in different views"
                )
    return ""


def _name(clause: FixedBehaviour | MustChange) -> str:
    kind = "behaviour" if isinstance(clause, FixedBehaviour) else "duty"
    return f"{kind} {clause.id!r}"
