"""What is kept of a governed learner: contract, versions, events, figures, findings."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from nestling.core.errors import ClockError, ContractError, SettingError
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.findings import Finding, GovernanceEvent, Happening
from nestling.judge.verdicts.contract_facts import Measured
from nestling.ledger.governance_log import GovernanceLog
from nestling.ledger.record_lines import RecordLines, to_plain_json
from nestling.ledger.version_diff import measure_change
from nestling.ledger.version_log import SNAPSHOTS, VersionLog, show_time
from nestling.ledger.version_record import Origin, VersionRecord
from nestling.levels.events import (
    Alarm,
    Bounded,
    Braked,
    Change,
    DriftAlarm,
    Event,
    Held,
    Refusal,
)
from nestling.oversight.contract_judge import ContractJudge, read_changes, read_weights
from nestling.oversight.measured_views import flatten_behaviour
from nestling.oversight.subjects.subject import Subject
from nestling.store import write_whole

CONTRACT, PROBES, FINDINGS = "contract.toml", "probes.jsonl", "findings.json"
FIXED = "fixed.json"


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
        self.num_proposals = 0  # of earlier processes
        # Of the last version, for what has changed since.
        self._weights: dict[str, dict[str, Tensor]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.versions = VersionLog(folder)
            self._log = GovernanceLog(folder)
            self._probes = RecordLines(folder / PROBES)
            events = self._log.read()
            self.last_time = max([one.at for one in events], default=self.last_time)
            self.num_proposals = sum(one.happening == "proposed" for one in events)

    @property
    def is_resumed(self) -> bool:
        """Whether the folder holds the record of this plan already."""
        return bool(self._list_own())

    def _list_own(self) -> list[VersionRecord]:
        """Versions of this plan, from the last beginning on."""
        records = [] if self.versions is None else self.versions.records
        plan = self._subject.digest_plan()
        own = [one for one in records if one.plan_digest == plan]
        begins = [at for at, one in enumerate(own) if one.origin == "began"]
        return own[begins[-1] :] if begins else []

    def read_references(self, names: Iterable[str]) -> dict[str, dict[str, Tensor]]:
        """Where fast levels stood in the beginning: level -> name -> tensor."""
        own = self._list_own()
        origin = self._subject
        if own:
            origin = self._subject.read_version(self.find_snapshot(own[0]))
        return {name: origin.levels[name].tensors() for name in names}

    def resume(self, judge: ContractJudge) -> None:
        """Go on with the record: what was validated last, commits, fixed parts.

        Raises:
            ContractError: something fixed is not as it was when the record began.
        """
        own = self._list_own()
        validated = [one for one in own if one.origin == "validated"] or own[:1]
        twin = self._subject.read_version(self.find_snapshot(validated[-1]))
        self._subject.mark_validated(validated[-1].by or "the beginning", validated[-1].at, twin)
        commits: dict[str, list[float]] = {}
        for one in own:
            if one.origin == "committed":
                commits.setdefault(one.clause, []).append(one.at)
        judge.take_over(twin, commits)
        last = self._subject.read_version(self.find_snapshot(own[-1]))
        self._weights = read_weights(last)
        judge.measured = judge.measure(self._subject)

    def say_contract(self) -> str:
        """The contract in force, and whether it is the one of the newest version."""
        before = self._list_own()[-1].contract_digest
        now = self._contract.digest
        said = f"the contract {self._contract.name!r}"
        return said if before == now else f"{said}, amended ({before[:12]}... to {now[:12]}...)"

    def check_fixed(self, signed: Mapping[str, str]) -> None:
        """Compare the digests of what is fixed with those of the beginning of the record.

        Raises:
            ContractError: something is not as it was when the record began.
        """
        before = self._read_fixed()
        for name, digest in signed.items():
            if before.get(name, digest) != digest:
                raise ContractError(
                    f"{name!r} must stay fixed and is not as it was when the record in "
                    f"'{self.folder}' began; restore the model, or begin a new record"
                )

    def write_terms(self, signed: Mapping[str, str]) -> None:
        """Write the contract and the digests of what it fixes, once nothing can fail any more."""
        if self.folder is not None:
            write_whole(self.folder / CONTRACT, self._contract.to_toml())
            fixed = {**self._read_fixed(), **signed}
            write_whole(self.folder / FIXED, json.dumps(fixed, indent=1) + "\n")

    def _read_fixed(self) -> dict[str, str]:
        """Digests of what was fixed when the record began; none where it begins now."""
        path = None if self.folder is None else self.folder / FIXED
        if path is None or not self.is_resumed or not path.exists():
            return {}
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return found

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

    def hear(self, event: Event) -> None:
        """Keep what happened to a level while it learned."""
        kind, message, level = _describe(event)
        if isinstance(event, Held):
            figures = {"num_rows": float(event.num_rows)}
            self.note(kind, message, by=event.source, clause=event.rule, figures=figures)
        else:
            self.note(kind, message, level=level)

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


def _describe(event: Event) -> tuple[Happening, str, str]:
    """What kind of happening an event is, in words, and of which level."""
    if isinstance(event, Change):
        knobs = ", ".join(f"{knob} = {value}" for knob, value in event.knobs.items())
        return "changed", f"{knobs}: {event.reason}", event.level
    if isinstance(event, Braked):
        return "braked", event.reason, event.level
    if isinstance(event, Held):
        return "held", event.message, ""
    if isinstance(event, Refusal):
        return "alarm", f"an update was refused: {event.reason}", event.level or ""
    assert isinstance(event, Alarm | Bounded | DriftAlarm)
    return "alarm", event.message, event.level
