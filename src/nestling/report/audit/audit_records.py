"""Records of a governed run as an audit reads them: contract, versions, events, probes, findings.

A damaged line is left out and named, never guessed at: what it said is missing from the page.
"""

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from nestling.core.errors import DataError
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.findings import Finding, GovernanceEvent, Happening, Status
from nestling.judge.probes.probe_result import ProbePart, ProbeResult

CONTRACT, FINDINGS = "contract.toml", "findings.json"
VERSIONS, EVENTS, PROBES = "versions.jsonl", "governance.jsonl", "probes.jsonl"
LATEST = 253_402_300_799.0  # 9999-12-31T23:59:59Z: no calendar of ours has a later second

_STATUSES: tuple[Status, ...] = ("passed", "failed", "not judged")

T = TypeVar("T")


@dataclass(frozen=True)
class AuditVersion:
    """One line of `versions.jsonl`, as far as an audit needs it.

    Attributes:
        id: "v0001" and on.
        at: seconds since 1970, UTC.
        origin: how it came about, such as "committed".
        parent: id of the version before; empty for the first.
        by, reason, clause: who, why, and which clause it cites; empty if none.
        num_examples: learned by then.
        digests: level -> sha256 of its tensors.
        changes: level -> relative change since the version before.
        since_validation: level -> relative change since the last human validation.
        behaviour: "probe/view" -> figure.
        contract_digest: of the contract in force; empty for none.
    """

    id: str
    at: float
    origin: str
    parent: str = ""
    by: str = ""
    reason: str = ""
    clause: str = ""
    num_examples: int = 0
    digests: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, float] = field(default_factory=dict)
    since_validation: Mapping[str, float] = field(default_factory=dict)
    behaviour: Mapping[str, float] = field(default_factory=dict)
    contract_digest: str = ""


@dataclass(frozen=True)
class ProbeReading:
    """One line of `probes.jsonl`: what a probe measured of a version in a view.

    Attributes:
        at: seconds since 1970, UTC.
        version: id of the version that answered, or of a proposal; empty for the live model.
        view: "spine", "whole" or "cohorts/NAME".
        result: the figures.
    """

    at: float
    version: str
    view: str
    result: ProbeResult


@dataclass(frozen=True)
class CheckedFindings:
    """What the run's last check found.

    Attributes:
        at: seconds since 1970, UTC.
        findings: clause by clause and view by view.
    """

    at: float
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class AuditRecords:
    """What the folder of a governed run holds, each kind in the order in which it was written.

    Attributes:
        folder: of the run.
        contract: in force.
        versions, events, probes: the lines that could be read.
        checked: findings of the last check; None if none was recorded.
        damage: lines that could not be read, in words; what they said is missing.
        notes: what else is odd about the files, in words.
    """

    folder: Path
    contract: Contract
    versions: tuple[AuditVersion, ...] = ()
    events: tuple[GovernanceEvent, ...] = ()
    probes: tuple[ProbeReading, ...] = ()
    checked: CheckedFindings | None = None
    damage: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_audit_versions(folder: Path) -> tuple[AuditVersion, ...]:
    """The versions that a run keeps, as far as they can be read; none without a file of them."""
    return tuple(_read_lines(folder / VERSIONS, _read_version, [], []))


def read_audit_records(folder: Path | str) -> AuditRecords:
    """Read the records of a governed run.

    Args:
        folder: of the run.

    Returns: all that can be read; damaged lines are named in `damage`.

    Raises:
        DataError: the run has no contract; says what to do.
        SettingError: the contract cannot be read.
    """
    folder = Path(folder)
    path = folder / CONTRACT
    if not path.is_file():
        raise DataError(
            f"no contract in '{folder}': it has no {CONTRACT}, so there is nothing to audit "
            f"against; name the folder of a governed run, or leave --audit out"
        )
    contract = Contract.of(path)
    damage: list[str] = []
    notes: list[str] = []
    versions = _read_lines(folder / VERSIONS, _read_version, damage, notes)
    events = _read_lines(folder / EVENTS, _read_event, damage, notes)
    probes = _read_lines(folder / PROBES, _read_probe, damage, notes)
    for name, found in ((VERSIONS, versions), (EVENTS, events), (PROBES, probes)):
        notes += _find_jumps(name, [one.at for one in found])
    return AuditRecords(
        folder,
        contract,
        tuple(versions),
        tuple(events),
        tuple(probes),
        _read_findings(folder / FINDINGS, damage),
        tuple(damage),
        tuple(notes),
    )


def _read_lines(
    path: Path, read: Callable[[Mapping[str, Any]], T], damage: list[str], notes: list[str]
) -> list[T]:
    """The records of a file; a line that is none is named in `damage`."""
    if not path.is_file():
        notes.append(f"{path.name} is missing: what it would say is not on this page")
        return []
    found = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path.name}, line {number}"
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("it is no JSON object")
            found.append(read(record))
        except (ValueError, RecursionError) as error:
            if number == len(lines) and isinstance(error, json.JSONDecodeError):
                damage.append(f"{place} was cut off, as by a crash, and is left out")
            else:
                shown = line[:40].decode(errors="replace")
                damage.append(f"{place} is left out ({shown!r}): {error}")
    return found


def _find_jumps(name: str, times: list[float]) -> list[str]:
    """That a file's clock went back, in words."""
    back = sum(later < earlier for earlier, later in itertools.pairwise(times))
    if not back:
        return []
    return [f"{name}: the clock went back {back} time{'s' if back > 1 else ''} between lines"]


def _read_version(record: Mapping[str, Any]) -> AuditVersion:
    return AuditVersion(
        id=_text(record, "id", needed=True),
        at=_time(record),
        origin=_text(record, "origin", needed=True),
        parent=_text(record, "parent"),
        by=_text(record, "by"),
        reason=_text(record, "reason"),
        clause=_text(record, "clause"),
        num_examples=int(_number(record, "num_examples", 0.0)),
        digests={name: str(value) for name, value in _table(record, "digests").items()},
        changes=_numbers(record, "changes", math.inf),
        since_validation=_numbers(record, "since_validation", math.inf),
        behaviour=_numbers(record, "behaviour"),
        contract_digest=_text(record, "contract_digest"),
    )


def _read_event(record: Mapping[str, Any]) -> GovernanceEvent:
    happening = _text(record, "happening", needed=True)
    if happening not in get_args(Happening):
        raise ValueError(f"'happening' is {happening!r}; known: {sorted(get_args(Happening))}")
    passed = record.get("passed")
    if passed not in (True, False, None):
        raise ValueError(f"'passed' is {passed!r:.40}; it must be true, false or null")
    texts = {
        name: _text(record, name)
        for name in ("message", "level", "clause", "by", "view", "version", "undo")
    }
    plain = {"happening": happening, "at": _time(record), "passed": passed}
    return GovernanceEvent.from_record({**plain, **texts, "figures": _numbers(record, "figures")})


def _read_probe(record: Mapping[str, Any]) -> ProbeReading:
    parts = record.get("parts") or []
    better = record.get("better")
    if better not in ("higher", "lower"):
        raise ValueError(f"'better' is {better!r:.40}; it must be 'higher' or 'lower'")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ValueError("'parts' must be a list of objects")
    result = ProbeResult(
        probe=_text(record, "probe", needed=True),
        metric=_text(record, "metric"),
        value=_number(record, "value"),
        low=_number(record, "low"),
        high=_number(record, "high"),
        num_examples=int(_number(record, "num_examples", 0.0)),
        confidence=_number(record, "confidence"),
        better="higher" if better == "higher" else "lower",
        data_digest=_text(record, "data_digest"),
        parts=tuple(
            ProbePart(
                _text(part, "name", needed=True),
                _number(part, "value"),
                _number(part, "low"),
                _number(part, "high"),
                int(_number(part, "num_examples", 0.0)),
            )
            for part in parts
        ),
        too_few=tuple(str(one) for one in record.get("too_few") or ()),
    )
    view = _text(record, "view", needed=True)
    return ProbeReading(_time(record), _text(record, "version"), view, result)


def _read_findings(path: Path, damage: list[str]) -> CheckedFindings | None:
    """Findings of the last check; None if there is none."""
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_bytes())
        if not isinstance(data, dict) or not isinstance(data.get("findings"), list):
            raise ValueError("it must hold an object with 'at' and 'findings'")
        return CheckedFindings(_time(data), tuple(map(_read_finding, data["findings"])))
    except (ValueError, TypeError, RecursionError) as error:
        damage.append(f"{path.name} is left out: {error}")
        return None


def _read_finding(record: Any) -> Finding:
    if not isinstance(record, dict):
        raise ValueError(f"{record!r:.40} is no finding")
    status = next((one for one in _STATUSES if one == record.get("status")), None)
    if status is None:
        raise ValueError(f"'status' is {record.get('status')!r:.40}; known: {list(_STATUSES)}")
    # JSON has no tuples of pairs: they come as lists.
    figures = _numbers({"figures": dict(record.get("figures") or ())}, "figures")
    clause, message = _text(record, "clause", needed=True), _text(record, "message")
    return Finding(clause, status, message, _text(record, "view"), tuple(figures.items()))


def _text(record: Mapping[str, Any], name: str, *, needed: bool = False) -> str:
    value = record.get(name)
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or (needed and not value):
        raise ValueError(f"'{name}' is {value!r:.40}; it must be a text")
    return value


def _number(record: Mapping[str, Any], name: str, missing: float = math.nan) -> float:
    value = record.get(name)
    if value is None:
        return missing
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        raise ValueError(f"'{name}' is {value!r:.40}; it must be a number or null")
    return float(value)


def _time(record: Mapping[str, Any]) -> float:
    at = _number(record, "at")
    if not 0.0 <= at <= LATEST:
        raise ValueError(f"'at' is {record.get('at')!r:.40}; it must be seconds since 1970")
    return at


def _table(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name) or {}
    if not isinstance(value, dict):
        raise ValueError(f"'{name}' is {value!r:.40}; it must be an object")
    return value


def _numbers(record: Mapping[str, Any], name: str, missing: float = math.nan) -> dict[str, float]:
    """Name -> number of an object; a null, which was not finite, is left out or `missing`."""
    table = _table(record, name)
    found = {key: _number(table, key, missing) for key in table}
    return {key: value for key, value in found.items() if not math.isnan(value)}
