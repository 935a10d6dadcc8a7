"""`govern`: a contract at work on a learner: bounds, fixed parts, gates, approvals, versions.

What the contract fixes is held bit for bit while it learns; a level that changes by proposals only
stands still between them; every proposal is tried on a copy and judged in three views.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nestling.core.errors import SettingError
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.findings import Finding, GovernanceEvent
from nestling.judge.contract.plan_facts import check_against_plan
from nestling.judge.probes import ProbeData
from nestling.judge.probes.probe_result import Answering, Probe
from nestling.judge.verdicts.contract_facts import Measured
from nestling.judge.verdicts.judging import Duty
from nestling.ledger.version_log import VersionLog, check_same_plan
from nestling.levels.events import Event
from nestling.levels.readings import LevelReading
from nestling.oversight.change_proposal import ChangeProposal
from nestling.oversight.contract_judge import ContractJudge
from nestling.oversight.contract_probes import make_probes, sign_fixed
from nestling.oversight.governed_record import GovernedRecord
from nestling.oversight.limit_watch import LimitWatch, find_bounds
from nestling.oversight.measured_views import Cohorts
from nestling.oversight.proposal_desk import ProposalDesk
from nestling.oversight.standstill import Standstill
from nestling.oversight.subjects.finding_subjects import find_subject
from nestling.oversight.subjects.subject import Subject
from nestling.oversight.tried_change import Change


def govern(
    target: Any,
    contract: Contract | Path | str,
    *,
    probes: Mapping[str, ProbeData | Probe] | None = None,
    cohorts: Cohorts | None = None,
    folder: Path | str | None = None,
    now: Callable[[], float] = time.time,
) -> "Governed":
    """Put a learner under a change contract; it goes on learning as before, within its clauses.

    Args:
        target: a `Learner`, a `NestedOptimizer` (with the model that it trains), a stream learner,
            or a `Subject` around one of them.
        contract: or the path of its TOML file.
        probes: probe name -> data, for the probes that the contract lists without data; or probes
            of one's own.
        cohorts: name -> a function from what is governed, or a copy of it, to who answers with that
            cohort's own fast levels; the persons of a `Learner` are known.
        folder: where versions, events and figures are kept; None keeps events in memory only. A
            folder that holds a record already goes on: its last validated version, its commits and
            its budgets count, so restore the learner as it was before.
        now: tells the time, seconds since 1970, UTC.

    Returns: what proposes, checks, validates and rolls back. The model as it is given counts as
        the validated version until a person validates another.

    Raises:
        SettingError: the contract does not fit the plan, or a probe has no data.
        ContractError: a fixed parameter is not as it was signed.

    >>> import torch
    >>> import nestling as nl
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> plan = nl.Plan(nl.Level("head", match=["2.*"]), nl.Level("spine", match=["*"], period=8))
    >>> contract = nl.Contract(
    ...     "triage",
    ...     levels=[nl.judge.LevelRole("spine", role="spine")],
    ...     may_change=[
    ...         nl.judge.MayChange("M1", level="head", what="daily drift", per_update=0.5),
    ...         nl.judge.MayChange("M2", level="spine", what="guidelines", trigger="proposal"),
    ...     ],
    ... )
    >>> learner = nl.Learner(model, plan)
    >>> governed = nl.govern(learner, contract)
    >>> before = learner.levels["spine"].digest()
    >>> x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> for _ in range(16):
    ...     report = learner.learn(x, y)
    >>> learner.levels["spine"].digest() == before
    True
    >>> def train(trial: nl.Learner) -> None:
    ...     for _ in range(16):
    ...         trial.learn(x, y)
    >>> proposal = governed.propose("M2", train, by="anna", reason="new guideline")
    >>> governed.settle(proposal).status, learner.levels["spine"].digest() == before
    ('committed', False)
    """
    contract = Contract.of(contract)
    classifies = contract.must_stay_fixed.interface.task != "regression"
    is_subject = hasattr(target, "answer_by")
    subject = target if is_subject else find_subject(target, classifies=classifies)
    place = None if folder is None else Path(folder)
    return Governed(subject, contract, probes or {}, cohorts or {}, place, now)


class Governed:
    """A learner under a contract: proposes, approves, checks, validates, rolls back.

    `govern` makes it; arguments as there.

    Attributes:
        contract: in force.
    """

    def __init__(
        self,
        subject: Subject,
        contract: Contract,
        probes: Mapping[str, ProbeData | Probe],
        cohorts: Cohorts,
        folder: Path | None,
        now: Callable[[], float],
    ) -> None:
        self._subject, self.contract = subject, contract
        # Everything that can fail comes before anything that is changed.
        check_against_plan(contract, subject.describe())
        made, signed = make_probes(contract, probes), sign_fixed(subject, contract)
        self._record = GovernedRecord(subject, contract, folder, now)
        self._record.check_fixed(signed)
        references = self._record.read_references(_list_fast(subject, contract))
        self._judge = ContractJudge(contract, made, signed, references, cohorts)
        bounds = find_bounds(subject, contract)
        at = self._record.tell_time()
        self._record.write_terms(signed)
        self._still = Standstill(subject, contract)
        self._watch = LimitWatch(subject, contract, self._still, self._record)
        self._watch.bind_levels(bounds)
        self._desk = ProposalDesk(subject, self._judge, self._still, self._record)
        self._begin(at)

    def _begin(self, at: float) -> None:
        """Start the record, or go on with the one that the folder holds."""
        name = self.contract.name
        if self._record.is_resumed:
            self._record.resume(self._judge)
            self._desk.num_before = self._record.num_proposals
            self._record.note("changed", f"goes on under {self._record.say_contract()}")
        else:
            self._subject.mark_validated(self.contract.owner or "the beginning", at)
            self._judge.validate(self._subject)
            why = f"the contract {name!r} is in force"
            self._record.add_version("began", self._judge.measured, reason=why)
            self._record.note("changed", why)
        self._watch.obey_duties(self.duties)

    # --- proposals

    def propose(self, clause: str, change: Change, *, by: str, reason: str) -> ChangeProposal:
        """Try a change of a level on a copy and judge it; the live model is left as it is.

        Args:
            clause: id of the modification that the change cites.
            change: a function that alters the copy it is given (a learner, optimizer or stream
                learner, in which only the clause's level can learn), e.g. `lambda trial:
                trial.fit(loader)`; of a learner also "merge" or the name of a copy or sleep level.
            by: who proposes it.
            reason: why, in words.

        Returns: the proposal with what every gate found in every view: open, or refused if a gate
            did not pass.

        Raises:
            SettingError: no such modification, or nothing says who and why.
            ContractError: it alters what the contract does not let change.
            ProposalError: it alters nothing.
            ClockError: the clock went back.
        """
        return self._desk.propose(clause, change, by, reason)

    def approve(self, proposal: ChangeProposal, *, by: str) -> ChangeProposal:
        """Approve an open proposal.

        Raises:
            ContractError: it is settled, or this person proposed it or approved it already.
        """
        return self._desk.approve(proposal, by)

    def settle(self, proposal: ChangeProposal) -> ChangeProposal:
        """Commit a proposal that passed its gates and has its approvals.

        Where other levels have learned since the trial, or time has passed, every gate is judged
        anew first, and the proposal refused if one does not pass any more.

        Raises:
            ContractError: approvals are missing, or it is committed; nothing is changed.
        """
        return self._desk.settle(proposal)

    def refuse(self, proposal: ChangeProposal, *, by: str, reason: str) -> ChangeProposal:
        """Give an open proposal up; the model stays as it is."""
        self._record.tell_time()
        return self._desk.refuse(proposal, reason=reason, by=by)

    @property
    def proposals(self) -> list[ChangeProposal]:
        """All proposals, the newest last."""
        return list(self._desk.proposals)

    # --- checking

    def check(self) -> list[Finding]:
        """Judge the contract as it stands now, clause by clause and view by view.

        A level whose duty is overdue, or whose budget since the last validation is spent, stands
        still from now on; one whose duty is met learns again. What happened is among the events.
        """
        at = self._record.tell_time()
        self._judge.measured = self._judge.measure(self._subject)
        findings = self._judge.judge(self._subject, self._judge.measured, at)
        self._watch.obey_duties(self._judge.list_duties(findings, at))
        self._watch.watch_budgets()
        self._record.write_findings(findings)
        self._record.add_measured(self._judge.measured, "")
        return findings

    @property
    def duties(self) -> list[Duty]:
        """How what must change by a date stands, by the last check."""
        at = self._record.last_time
        findings = self._judge.judge(self._subject, self._judge.measured, at)
        return self._judge.list_duties(findings, at)

    @property
    def stopped(self) -> dict[str, str]:
        """Levels that stand still though they might learn: level -> why."""
        return dict(self._still.stopped)

    # --- validations and versions

    def validate(self, *, by: str, note: str = "") -> str:
        """Have a person validate the model as it stands: every cumulative change begins anew.

        Args:
            by: who validated it.
            note: in words.

        Returns: the id of its version; empty if no folder keeps versions.

        Raises:
            SettingError: no name.
            ClockError: the clock went back.
        """
        if not by.strip():
            raise SettingError("a validation needs a person; by='dr. chen' works")
        at = self._record.tell_time()
        self._subject.mark_validated(by, at)
        self._judge.validate(self._subject)
        self._watch.release_spent()
        version = self._record.add_version("validated", self._judge.measured, by=by, reason=note)
        said = note or "validated as it stands"
        self._record.note("validated", said, by=by, version=version)
        return version

    def keep_version(self, *, reason: str, by: str = "") -> str:
        """Keep the model as it stands as a version: its id.

        Raises:
            SettingError: no folder keeps versions.
        """
        self._record.need_versions()
        self._record.tell_time()
        self._judge.measured = self._judge.measure(self._subject)
        return self._record.add_version("learned", self._judge.measured, by=by, reason=reason)

    @property
    def versions(self) -> VersionLog:
        """All versions; SettingError if no folder keeps them."""
        return self._record.need_versions()

    def rollback(
        self,
        level: str,
        to: str,
        *,
        by: str,
        reason: str,
        feedback: Callable[[Any], object] | Iterable[Any] | None = None,
    ) -> str:
        """Put one level back to an earlier version; all others stay, bit for bit.

        Args:
            level: its name.
            to: id of the version, e.g. "v0003".
            by: who does it.
            reason: why.
            feedback: what the level shall learn again on top: batches of a learner, or a function
                that is given what is governed; no other level moves meanwhile.

        Returns: the id of the version that it made.

        Raises:
            SettingError: no folder keeps versions, or nothing says who and why.
            VersionError: no such version, or one of another plan.
            UnknownLevel: no such level. Nothing is changed by any of these.
        """
        if not by.strip() or not reason.strip():
            raise SettingError("a rollback needs who and why; by='anna', reason='...' work")
        versions = self._record.need_versions()
        record = versions.find(to)
        check_same_plan(record, self._subject.digest_plan())
        self._record.tell_time()
        before = versions.latest.id
        state = self._subject.read_level(self._record.find_snapshot(record), level)
        self._still.hold_all_but(level)
        try:
            if feedback is None or callable(feedback):
                self._subject.load_level(level, state)
            else:
                self._subject.load_level(level, state, feedback)
            if callable(feedback):
                feedback(self._subject.target)
        finally:
            self._still.hold()
        self._judge.measured = self._judge.measure(self._subject)
        version = self._record.add_version(
            "rolled back", self._judge.measured, by=by, reason=reason
        )
        self._record.note(
            "rolled back",
            f"level {level!r} is as it was in {to}: {reason}",
            level=level,
            by=by,
            version=version,
            undo=self._record.say_rollback(level, before),
        )
        return version

    # --- what it tells

    def hear(self, events: Iterable[Event]) -> None:
        """Keep what happened to levels while they learned: brakes, bounds, rows held, alarms.

        Args:
            events: of a `StepReport` or `FitReport`, or of `NestedOptimizer.take_events`.
        """
        for event in events:
            self._record.hear(event)

    def read(self) -> list[LevelReading]:
        """Statistics of every level, with its cumulative change since the last validation."""
        return self._subject.read_levels()

    @property
    def measured(self) -> Measured:
        """View -> probe -> result, as measured last."""
        return self._judge.measured

    def take_events(self) -> list[GovernanceEvent]:
        """Take what happened since the last call: proposals, verdicts, refusals, alarms."""
        events, self._record.events = self._record.events, []
        return events

    def restricted_to(self, levels: Sequence[str]) -> Answering:
        """Who answers when only some levels may: fast ones stand as they did in the beginning."""
        return self._subject.answer_by(levels, self._judge.references)


def _list_fast(subject: Subject, contract: Contract) -> list[str]:
    """Gradient levels that are silent while the spine answers alone."""
    kinds, spine = subject.kinds, set(contract.list_spine())
    return [name for name, kind in kinds.items() if kind == "gradient" and name not in spine]
