"""What is kept of a governed learner: contract, versions, events, figures, findings."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from nestling.core.errors import ClockError, SettingError
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.findings import Finding, GovernanceEvent, Happening
from nestling.judge.verdicts.contract_facts import Measured
from nestling.ledger.governance_log import GovernanceLog
from nestling.ledger.record_lines import RecordLines, to_plain_json
from nestling.ledger.version_diff import measure_change
from nestling.ledger.version_log import SNAPSHOTS, VersionLog, show_time
from nestling.ledger.version_record import Origin, VersionRecord
from nestling.oversight.contract_judge import read_changes, read_weights
from nestling.oversight.measured_views import flatten_behaviour
from nestling.oversight.subjects.subject import Subject
from nestling.store import write_whole

CONTRACT, PROBES, FINDINGS = "contract.toml", "probes.jsonl", "findings.json"


class GovernedRecord:
    """Record of a governed learner: events in memory, and all of it in a folder if there is one.

    Args:
        subject: whose versions are saved.
        contract: in force, written beside the record.
        folder: made if missing; None keeps events only.
        now: tells the time, seconds since 1970, UTC.
    """

    def __init__(
        self, subject: Subject, contract: Contract, folder: Path | None, now: Callable[[], float]
    ) -> None:
        self.folder, self._subject, self._contract, self._now = folder, subject, contract, now
        self.last_time = -float("inf")
        self.events: list[GovernanceEvent] = []
        self.versions: VersionLog | None = None
        self._log: GovernanceLog | None = None
        self._probes: RecordLines | None = None
        # Of the last version, for what has changed since.
        self._weights: dict[str, dict[str, Tensor]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.versions = VersionLog(folder)
            self._log = GovernanceLog(folder)
            self._probes = RecordLines(folder / PROBES)
            if self.versions.records:
                self.last_time = self.versions.latest.at
            write_whole(folder / CONTRACT, contract.to_toml())

    def tell_time(self) -> float:
        """Now; raises ClockError, with nothing changed, if the clock went back."""
        at = float(self._now())
        if not at >= self.last_time:
            raise ClockError(
                f"the clock went back: it is {show_time(at)}, and was "
                f"{show_time(self.last_time)}; set it right, or wait until that time has passed"
            )
        self.last_time = at
        return at

    def need_versions(self) -> VersionLog:
        """The versions; SettingError if none are kept."""
        if self.versions is None:
            raise SettingError("no versions are kept; nl.govern(..., folder='runs/governed') does")
        return self.versions

    def find_snapshot(self, record: VersionRecord) -> Path:
        """Where the snapshot of a version lies."""
        assert self.folder is not None
        return self.folder / record.snapshot

    def note(
        self,
        happening: Happening,
        message: str,
        *,
        level: str = "",
        clause: str = "",
        by: str = "",
        view: str = "",
        passed: bool | None = None,
        figures: Mapping[str, float] | None = None,
        version: str = "",
        undo: str = "",
    ) -> None:
        """Keep an event of this moment; see `GovernanceEvent`."""
        at, known = self.last_time, dict(figures or {})
        event = GovernanceEvent(
            happening, at, message, level, clause, by, view, passed, known, version, undo
        )
        self.events.append(event)
        if self._log is not None:
            self._log.add(event)

    def note_gates(self, gates: Iterable[Finding], proposal: str, level: str) -> None:
        """Keep what each gate found of a proposal."""
        for gate in gates:
            self.note(
                "judged",
                f"{proposal}: {gate.message}",
                level=level,
                clause=gate.clause,
                view=gate.view,
                passed=None if gate.status == "not judged" else gate.status == "passed",
                figures=dict(gate.figures),
            )

    def add_measured(self, measured: Measured, version: str) -> None:
        """Keep what probes measured in each view, under the id of a version or a proposal."""
        if self._probes is None:
            return
        for view, results in measured.items():
            for result in results.values():
                head = {"at": self.last_time, "version": version, "view": view}
                self._probes.add({**head, **result.to_record()})

    def write_findings(self, findings: Iterable[Finding]) -> None:
        """Keep how the contract was found at the last check."""
        if self.folder is not None:
            data = {"at": self.last_time, "findings": [asdict(one) for one in findings]}
            write_whole(self.folder / FINDINGS, json.dumps(to_plain_json(data), indent=1) + "\n")

    def add_version(
        self,
        origin: Origin,
        measured: Measured,
        *,
        by: str = "",
        reason: str = "",
        clause: str = "",
    ) -> str:
        """Save a snapshot and note it as a version: its id; empty without a folder."""
        versions, subject = self.versions, self._subject
        if versions is None or self.folder is None:
            return ""
        versions.check_time(self.last_time)
        weights = read_weights(subject)
        last = self.find_snapshot(versions.latest) if versions.records else None
        name = f"{SNAPSHOTS}/{versions.next_id}"
        subject.write(self.folder / name, last)
        record = versions.add(
            origin,
            at=self.last_time,
            snapshot=name,
            digests={level: one.digest() for level, one in subject.levels.items()},
            plan_digest=subject.digest_plan(),
            contract_digest=self._contract.digest,
            by=by,
            reason=reason,
            clause=clause,
            num_examples=subject.num_examples,
            changes={
                level: measure_change(self._weights[level], own)
                for level, own in weights.items()
                if level in self._weights
            },
            since_validation=read_changes(subject),
            behaviour=flatten_behaviour(measured),
        )
        self._weights = weights
        self.add_measured(measured, record.id)
        return record.id

    def say_undo(self, level: str) -> str:
        """The command that undoes the newest version's change of a level; empty for none."""
        if self.versions is None or len(self.versions.records) < 2:
            return ""
        return self.say_rollback(level, self.versions.records[-2].id)

    def say_rollback(self, level: str, version: str) -> str:
        """The command that puts a level back to a version."""
        return f"nestling rollback {self.folder} {level} --to {version}"
