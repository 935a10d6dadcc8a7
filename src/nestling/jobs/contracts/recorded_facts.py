"""What a governed folder recorded, as facts that a change contract is judged by."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nestling.consolidate.proposal import digest_tensor
from nestling.core.errors import DataError
from nestling.jobs.run_versions import PROBES, read_versions
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.plan_facts import PlanFacts
from nestling.judge.probes.probe_result import ProbePart, ProbeResult
from nestling.judge.verdicts.contract_facts import ContractFacts, LevelChanges
from nestling.learn.parts import read_levels_state, read_snapshot_state
from nestling.ledger.governance_log import GovernanceLog
from nestling.ledger.record_lines import RecordLines
from nestling.ledger.version_log import VERSIONS
from nestling.ledger.version_record import VersionRecord
from nestling.store import read_kind

_DAY = 86_400.0


def is_governed_folder(folder: Path) -> bool:
    """Whether it was kept by `nl.govern`, without a job from which a learner could be built."""
    return (folder / VERSIONS).exists() and not (folder / "config.json").exists()


def read_recorded_facts(folder: Path, contract: Contract) -> tuple[PlanFacts, ContractFacts]:
    """What a governed folder says of its newest version.

    Args:
        folder: with versions.jsonl, and with probes.jsonl and governance.jsonl if there are any.
        contract: whose bounds were held, if it is the one that was in force.

    Returns: levels by name, and what was measured, changed and committed. Digests are those of
        the snapshot, where it is one of a learner or of an optimizer over levels.

    Raises:
        VersionError: there is no version yet.
        DataError: a line that is no record.
        SnapshotError: a snapshot that is missing or damaged.
    """
    versions = read_versions(folder).records
    last = versions[-1]
    validated = next((one for one in reversed(versions) if one.origin == "validated"), None)
    lines = RecordLines(folder / PROBES).read()
    owned, digests = _read_tensors(folder / last.snapshot)
    plan_facts = PlanFacts(
        levels={name: tuple(owned.get(name, ())) for name in last.digests},
        kinds={},
        tensors=frozenset(digests or ()),
    )
    is_held = last.contract_digest == contract.digest
    since = {
        name: LevelChanges(since_validation=change, is_held=is_held)
        for name, change in last.since_validation.items()
    }
    facts = ContractFacts(
        digests=digests,
        changes=read_changes(folder, since),
        measured=_read_measured(lines, last),
        validated={} if validated is None else _read_measured(lines, validated),
        commits=read_commits(folder),
    )
    return plan_facts, facts


def read_changes(folder: Path, changes: Mapping[str, LevelChanges]) -> dict[str, LevelChanges]:
    """Changes of levels, with those of the last day added, as far as versions tell.

    Within a day of the newest version, a level changed by no more than its changes from version
    to version together.

    Args:
        folder: with versions.jsonl, or without.
        changes: level -> what is known already.
    """
    if not (folder / VERSIONS).exists():
        return dict(changes)
    versions = read_versions(folder).records
    recent = [one for one in versions if one.at > versions[-1].at - _DAY]
    sums = {
        name: sum(one.changes.get(name, 0.0) for one in recent)
        for name in {name for one in versions for name in one.changes}
    }
    return {name: replace(one, per_day=sums.get(name)) for name, one in changes.items()}


def read_commits(folder: Path) -> dict[str, list[float]]:
    """When proposals were committed: clause id -> seconds since 1970, UTC."""
    found: dict[str, list[float]] = {}
    for event in GovernanceLog(folder).read():
        if event.happening == "committed" and event.clause:
            found.setdefault(event.clause, []).append(event.at)
    return found


def _read_measured(
    lines: list[dict[str, Any]], version: VersionRecord
) -> dict[str, dict[str, ProbeResult]]:
    """What was measured of a version: view -> probe -> result, the newest line of each."""
    found: dict[str, dict[str, ProbeResult]] = {}
    for line in lines:
        if line.get("version") == version.id:
            result = _read_result(line)
            found.setdefault(str(line.get("view", "")), {})[result.probe] = result
    return found


def _read_result(line: Mapping[str, Any]) -> ProbeResult:
    """What `ProbeResult.to_record` gave; its None are figures that were not finite."""

    def number(value: Any) -> float:
        return math.nan if value is None else float(value)

    try:
        parts = tuple(
            ProbePart(
                part["name"],
                number(part["value"]),
                number(part["low"]),
                number(part["high"]),
                part["num_examples"],
            )
            for part in line["parts"]
        )
        return ProbeResult(
            probe=line["probe"],
            metric=line["metric"],
            value=number(line["value"]),
            low=number(line["low"]),
            high=number(line["high"]),
            num_examples=line["num_examples"],
            confidence=line["confidence"],
            better=line["better"],
            data_digest=line["data_digest"],
            parts=parts,
            too_few=tuple(line["too_few"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"'{PROBES}' has a line that is no result of a probe ({error}); put the file "
            "back from a copy, or delete that line"
        ) from None


def _read_tensors(snapshot: Path) -> tuple[dict[str, list[str]], dict[str, str] | None]:
    """Level -> names of its tensors, and name -> digest of all; None if it has no model."""
    kind, _ = read_kind(snapshot)
    if kind not in ("learner", "levels"):
        return {}, None
    is_learner = kind == "learner"
    levels = read_snapshot_state(snapshot)["levels"] if is_learner else read_levels_state(snapshot)
    owned: dict[str, list[str]] = {}
    digests: dict[str, str] = {}
    for name, state in levels["levels"].items():
        if state["spec"]["kind"] == "gradient":
            owned[name] = list(state["weights"])
            digests |= {key: digest_tensor(value) for key, value in state["weights"].items()}
    rest = {key: value for key, value in levels["rest"].items() if isinstance(value, Tensor)}
    return owned, digests | {key: digest_tensor(value) for key, value in rest.items()}
