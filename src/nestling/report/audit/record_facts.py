"""What the records of a run say a contract can be judged by, where the run recorded no check."""

from datetime import date

from nestling.judge.contract.findings import Finding
from nestling.judge.probes.probe_result import ProbeResult
from nestling.judge.verdicts.contract_facts import ContractFacts, LevelChanges, Measured
from nestling.judge.verdicts.judging import judge_contract
from nestling.report.audit.audit_records import AuditRecords, ProbeReading


def judge_records(records: AuditRecords, today: date) -> tuple[Finding, ...]:
    """Findings of the run's last check; without one, what its records allow to judge today."""
    if records.checked is not None:
        return records.checked.findings
    return tuple(judge_contract(records.contract, gather_facts(records, today)))


def gather_facts(records: AuditRecords, today: date) -> ContractFacts:
    """What a contract is judged by, as far as the records tell it; the model is not looked at."""
    validation = find_validation(records)
    validated = [one for one in records.probes if validation and one.version == validation[2]]
    commits: dict[str, list[float]] = {}
    for version in records.versions:
        if version.origin == "committed" and version.clause:
            commits.setdefault(version.clause, []).append(version.at)
    since: dict[str, float] = {}
    for version in records.versions:
        since |= version.since_validation
    largest = find_largest_commits(records)
    return ContractFacts(
        today=today,
        changes={
            level: LevelChanges(largest.get(level), None, since.get(level))
            for level in {*largest, *since}
        },
        measured=_gather(list_live(records)),
        validated=_gather(validated),
        commits=commits,
    )


def list_live(records: AuditRecords) -> list[ProbeReading]:
    """Readings of the live model and its versions, without those of mere proposals."""
    known = {"", *(version.id for version in records.versions)}
    return [reading for reading in records.probes if reading.version in known]


def find_latest(records: AuditRecords, probe: str) -> dict[str, ProbeReading]:
    """View -> last reading of a probe of the live model."""
    return {one.view: one for one in list_live(records) if one.result.probe == probe}


def find_validation(records: AuditRecords) -> tuple[float, str, str] | None:
    """(when, by whom, version) of the last human validation; None if there was none."""
    found = [
        (one.at, one.by, one.version) for one in records.events if one.happening == "validated"
    ]
    found += [(one.at, one.by, one.id) for one in records.versions if one.origin == "validated"]
    # An event and a version of the same moment are one; the version is known by its id.
    return max(found, key=lambda one: (one[0], bool(one[2])), default=None)


def find_largest_commits(records: AuditRecords) -> dict[str, float]:
    """Level -> largest update, of levels that change by proposals only.

    A version of a level that learns by itself holds many updates, so it does not tell how large one
    of them was.
    """
    by_proposal = {one.level for one in records.contract.may_change if one.trigger == "proposal"}
    largest: dict[str, float] = {}
    for version in records.versions:
        for level in by_proposal & version.changes.keys():
            if version.origin == "committed":
                largest[level] = max(largest.get(level, 0.0), version.changes[level])
    return largest


def _gather(readings: list[ProbeReading]) -> Measured:
    measured: dict[str, dict[str, ProbeResult]] = {}
    for reading in readings:
        measured.setdefault(reading.view, {})[reading.result.probe] = reading.result
    return measured
