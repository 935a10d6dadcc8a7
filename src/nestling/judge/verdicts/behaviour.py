"""Verdicts on behaviour: what must stay within limits, and what must reach them by a date."""

import math

from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import FixedBehaviour, MustChange
from nestling.judge.contract.findings import Finding, Status
from nestling.judge.probes.probe_result import ProbeResult
from nestling.judge.verdicts.contract_facts import ContractFacts, Measured


def judge_behaviour(
    contract: Contract, clause: FixedBehaviour, view: str, facts: ContractFacts
) -> Finding:
    """Judge a behaviour that must stay, in one view."""
    result, why = _find_result(contract, clause.probe, view, facts.measured)
    if result is None:
        return Finding(clause.id, "not judged", why, view)
    figures = _list_figures(result)
    failed = _find_broken(result.value, clause.least, clause.most)
    missing = ""
    if clause.fall is not None:
        before, missing = _find_validated(result, clause.probe, view, facts.validated)
        if before is not None:
            worse = before - result.value if result.better == "higher" else result.value - before
            figures = (*figures, ("validated", before), ("fall", worse))
            if worse > clause.fall:
                failed.append(
                    f"is worse by {worse:.4g} than {before:.4g} at the last validation, at most "
                    f"{clause.fall:g}"
                )
    shown = _describe(result)
    if failed:
        message = f"{shown} {' and '.join(failed)}; roll back what changed it, or refuse the change"
        return Finding(clause.id, "failed", message, view, figures)
    if missing:
        return Finding(clause.id, "not judged", f"{shown}: {missing}", view, figures)
    limits = _say_limits(clause.least, clause.most, clause.fall)
    return Finding(clause.id, "passed", f"{shown}; {limits}", view, figures)


def judge_duty(contract: Contract, duty: MustChange, view: str, facts: ContractFacts) -> Finding:
    """Judge a known harm that must be gone by a date, in one view."""
    result, why = _find_result(contract, duty.probe, view, facts.measured)
    broken = [] if result is None else _find_broken(result.value, duty.least, duty.most)
    is_met = result is not None and not broken
    shown = why if result is None else _describe(result)
    target = _say_limits(duty.least, duty.most, None)
    figures: tuple[tuple[str, float], ...] = (("met", float(is_met)),)
    if result is not None:
        figures = (*_list_figures(result), *figures)
    if facts.today is not None:
        figures = (*figures, ("days_left", float((duty.by - facts.today).days)))
    if is_met:
        return Finding(duty.id, "passed", f"met: {shown}; target {target}", view, figures)
    if facts.today is None:
        message = f"{shown}; target {target} by {duty.by}, and no day was given; say today"
        return Finding(duty.id, "not judged", message, view, figures)
    if facts.today > duty.by:
        late = (facts.today - duty.by).days
        message = (
            f"{shown}; target {target} was due by {duty.by}, {late} {_days(late)} ago: level "
            f"{duty.level!r} freezes; meet it by a proposal, or agree on a later day"
        )
        return Finding(duty.id, "failed", message, view, figures)
    left = (duty.by - facts.today).days
    open_until = f"open: {shown}; target {target} by {duty.by}, {left} {_days(left)} left"
    status: Status = "not judged" if result is None else "passed"
    return Finding(duty.id, status, open_until, view, figures)


def _find_result(
    contract: Contract, probe: str, view: str, measured: Measured
) -> tuple[ProbeResult | None, str]:
    """What was measured, or why it cannot be judged."""
    result = measured.get(view, {}).get(probe)
    if result is None:
        return None, f"probe {probe!r} was not measured in the view {view!r}; give it data"
    if not result.is_judged:
        few = "; ".join(result.too_few) or f"{result.metric} has no finite figure"
        return None, f"probe {probe!r} cannot be judged: {few}; give it more rows"
    spec = next((spec for spec in contract.probes if spec.name == probe), None)
    if spec is not None and spec.digest and spec.digest != result.data_digest:
        return None, (
            f"probe {probe!r} was measured on data {result.data_digest[:12]}..., the contract "
            f"says {spec.digest[:12]}...; give it the data of the contract"
        )
    return result, ""


def _find_validated(
    result: ProbeResult, probe: str, view: str, validated: Measured
) -> tuple[float | None, str]:
    """The figure at the last validation, or why there is none to compare with."""
    before = validated.get(view, {}).get(probe)
    if before is None:
        return None, "no figure of the last validation to compare with; validate the version first"
    if before.data_digest != result.data_digest:
        return None, (
            f"measured on other data ({result.data_digest[:12]}...) than at the last validation "
            f"({before.data_digest[:12]}...); measure on the same data, or validate anew"
        )
    if not before.is_judged:
        return None, "the figure of the last validation was not judged; validate anew"
    return before.value, ""


def _find_broken(value: float, least: float | None, most: float | None) -> list[str]:
    broken = []
    if least is not None and not value >= least:
        broken.append(f"is below {least:g}")
    if most is not None and not value <= most:
        broken.append(f"is above {most:g}")
    return broken


def _list_figures(result: ProbeResult) -> tuple[tuple[str, float], ...]:
    return (
        ("value", result.value),
        ("low", result.low),
        ("high", result.high),
        ("num_examples", float(result.num_examples)),
    )


def _describe(result: ProbeResult) -> str:
    has_interval = math.isfinite(result.low) and math.isfinite(result.high)
    interval = (
        f" [{result.low:.4g}, {result.high:.4g}] at {result.confidence:.0%}" if has_interval else ""
    )
    return f"{result.probe} = {result.value:.4g}{interval}, {result.num_examples:,} rows"


def _say_limits(least: float | None, most: float | None, fall: float | None) -> str:
    limits = {"least": least, "most": most, "fall": fall}
    return ", ".join(f"{name} {limit:g}" for name, limit in limits.items() if limit is not None)


def _days(count: int) -> str:
    return "day" if count == 1 else "days"
