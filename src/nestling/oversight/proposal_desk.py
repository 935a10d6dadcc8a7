"""Proposals under a contract: tried on a copy, judged, approved, committed or refused."""

from nestling.core.errors import ContractError, NestlingError, SettingError
from nestling.judge.contract.findings import Finding
from nestling.oversight.change_proposal import (
    ChangeProposal,
    check_approval,
    judge_bounds,
    judge_cadence,
    keep_gates,
)
from nestling.oversight.contract_judge import ContractJudge, read_changes
from nestling.oversight.governed_record import GovernedRecord
from nestling.oversight.standstill import Standstill
from nestling.oversight.subjects.subject import Subject
from nestling.oversight.tried_change import Change, find_not_finite, try_change


class ProposalDesk:
    """Where proposals are made, approved and settled.

    Args:
        subject: the live model.
        judge: of candidates.
        still: what is held between proposals.
        record: of all that happens.
    """

    def __init__(
        self, subject: Subject, judge: ContractJudge, still: Standstill, record: GovernedRecord
    ) -> None:
        self._subject, self._judge, self._still = subject, judge, still
        self._record, self._contract = record, judge.contract
        self.proposals: list[ChangeProposal] = []
        self.num_before = 0  # in the record, of earlier processes

    def propose(self, clause: str, change: Change, by: str, reason: str) -> ChangeProposal:
        """Try a change on a copy and judge it; see `Governed.propose`."""
        if not by.strip() or not reason.strip():
            raise SettingError("a proposal needs who and why; by='anna', reason='...' work")
        cited = self._contract.find_modification(clause)
        at = self._record.tell_time()
        trial = try_change(self._subject, self._contract, clause, change)
        before = self._judge.measure(self._subject)
        proposal = ChangeProposal(
            f"p{self.num_before + len(self.proposals) + 1:04d}",
            clause,
            cited.level,
            by,
            reason,
            at,
            trial.changes,
            (),
            before,
            {},
            cited.approvals,
            states=trial.states,
            digests=trial.digests,
        )
        self._pass_gates(proposal, trial.candidate, at)
        self.proposals.append(proposal)
        size = trial.changes[cited.level]
        self._record.note(
            "proposed",
            f"{proposal.id}: {reason}; level {cited.level!r} would change by {size:.4g}",
            level=cited.level,
            clause=clause,
            by=by,
            figures={"relative_change": size},
        )
        self._record.note_gates(proposal.gates, proposal.id, cited.level)
        self._record.add_measured(proposal.after, proposal.id)
        if not proposal.is_passed:
            self.refuse(proposal, reason=proposal.describe(), by="")
        return proposal

    def _pass_gates(self, proposal: ChangeProposal, candidate: Subject, at: float) -> None:
        """Judge a candidate by everything that must stay, by its bounds and by its cadence."""
        proposal.after = self._judge.measure(candidate)
        found = self._judge.judge(candidate, proposal.after, at)
        gates = keep_gates(found, self._contract, proposal.level)
        if wrong := find_not_finite(proposal.states):
            gates.append(Finding("finite", "failed", f"{wrong!r} would become non-finite"))
        since = read_changes(candidate)
        for clause in self._contract.may_change:
            if clause.level in proposal.changes:
                # Another level that it takes along, such as a fast one that begins anew: the
                # bounds of an update and of a day are of what that level learns by itself.
                is_cited = clause.level == proposal.level
                change = proposal.changes[clause.level] if is_cited else None
                gates += judge_bounds(clause, change, since.get(clause.level))
        cited = self._contract.find_modification(proposal.clause)
        last = self._judge.commits.get(proposal.clause, [])[-1:]
        gates += judge_cadence(cited, last[0] if last else None, at)
        proposal.gates = tuple(gates)

    def approve(self, proposal: ChangeProposal, by: str) -> ChangeProposal:
        """Note an approval; see `Governed.approve`."""
        check_approval(proposal, by)
        proposal.approvals[by] = self._record.tell_time()
        given = f"{len(proposal.approvals)} of {proposal.num_needed}"
        self._record.note(
            "approved",
            f"{proposal.id} approved by {by}, {given}",
            level=proposal.level,
            clause=proposal.clause,
            by=by,
        )
        return proposal

    def settle(self, proposal: ChangeProposal) -> ChangeProposal:
        """Commit or refuse; see `Governed.settle`."""
        if proposal.status == "refused":
            return proposal
        if proposal.status != "open":
            raise ContractError(f"proposal {proposal.id} is {proposal.status}; propose again")
        if proposal.num_missing:
            raise ContractError(
                f"proposal {proposal.id} has {len(proposal.approvals)} of {proposal.num_needed} "
                f"approvals; {proposal.num_missing} more must approve it, other people than "
                f"{proposal.by!r}"
            )
        at = self._record.tell_time()
        digests = {name: level.digest() for name, level in self._subject.levels.items()}
        if moved := [name for name in proposal.states if digests[name] != proposal.digests[name]]:
            why = f"level {moved[0]!r} has changed since the trial; propose again"
            return self.refuse(proposal, reason=why, by="")
        if digests != dict(proposal.digests) or at > proposal.at:
            # Fast levels went on learning while people thought: judge what would be now.
            candidate = self._subject.copy()
            for name, state in proposal.states.items():
                candidate.load_level(name, state)
            proposal.before = self._judge.measure(self._subject)
            self._pass_gates(proposal, candidate, at)
            if not proposal.is_passed:
                self._record.note_gates(proposal.gates, proposal.id, proposal.level)
                return self.refuse(proposal, reason=proposal.describe(), by="")
        self._take_over(proposal)
        return self._note_commit(proposal, at)

    def refuse(self, proposal: ChangeProposal, *, reason: str, by: str) -> ChangeProposal:
        """Give an open proposal up; the model stays as it is."""
        if proposal.status != "open":
            raise ContractError(f"proposal {proposal.id} is {proposal.status} already")
        proposal.status, proposal.states = "refused", {}
        self._record.note(
            "refused",
            f"{proposal.id} refused: {reason}",
            level=proposal.level,
            clause=proposal.clause,
            by=by,
            passed=False,
        )
        return proposal

    def _take_over(self, proposal: ChangeProposal) -> None:
        """Put the new weights into the live model, all or none."""
        before = {name: self._subject.read_part(name) for name in proposal.states}
        done: list[str] = []
        try:
            for name, state in proposal.states.items():
                self._subject.load_level(name, state)
                done.append(name)
        except NestlingError:
            for name in done:
                self._subject.load_level(name, before[name])
            raise
        finally:
            self._still.hold()

    def _note_commit(self, proposal: ChangeProposal, at: float) -> ChangeProposal:
        proposal.status, proposal.states = "committed", {}
        self._judge.commits.setdefault(proposal.clause, []).append(at)
        self._judge.measured = proposal.after
        version = self._record.add_version(
            "committed",
            proposal.after,
            by=proposal.by,
            reason=proposal.reason,
            clause=proposal.clause,
        )
        approved = ", ".join(proposal.approvals) or "nobody, as none was wanted"
        self._record.note(
            "committed",
            f"{proposal.id}: {proposal.reason}; approved by {approved}",
            level=proposal.level,
            clause=proposal.clause,
            by=proposal.by,
            version=version,
            figures={f"change of {name}": value for name, value in proposal.changes.items()},
            undo=self._record.say_undo(proposal.level),
        )
        return proposal
