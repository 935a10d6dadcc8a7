"""Duties with their dates, and budgets since the last validation: watched, and levels stopped."""

import math
from collections.abc import Mapping, Sequence

from nestling.judge.contract.change_contract import Contract
from nestling.judge.verdicts.judging import Duty
from nestling.levels.bounds import ChangeBounds
from nestling.oversight.contract_judge import find_end, read_changes
from nestling.oversight.governed_record import GovernedRecord
from nestling.oversight.standstill import Standstill
from nestling.oversight.subjects.subject import Subject

# Share of its budget since the last validation from which on a level is reported.
NEARLY_SPENT = 0.8
_SPENT = "its budget since the last validation is spent"
_OVERDUE = "a duty is overdue"


def find_bounds(subject: Subject, contract: Contract) -> dict[str, ChangeBounds]:
    """Bounds of every level that has some or learns by gradient, which is then braked.

    Raises:
        SettingError: a level cannot be held to the bounds of its clause; nothing is changed.
    """
    kinds, found = subject.kinds, dict[str, ChangeBounds]()
    for clause in contract.may_change:
        bounds = ChangeBounds(clause.per_update, clause.per_day, clause.since_validation)
        if bounds != ChangeBounds():
            subject.check_bounds(clause.level, bounds)
        if bounds != ChangeBounds() or kinds[clause.level] == "gradient":
            found[clause.level] = bounds
    return found


class LimitWatch:
    """Watches the dates of duties and the budgets of levels, and stops levels past them.

    Args:
        subject: whose levels.
        contract: in force.
        still: stops levels.
        record: of what happened.
    """

    def __init__(
        self, subject: Subject, contract: Contract, still: Standstill, record: GovernedRecord
    ) -> None:
        self._subject, self._contract = subject, contract
        self._still, self._record = still, record
        # Duties that were not met when they were last judged.
        self._unmet: list[Duty] = []
        self._next_end = math.inf

    def bind_levels(self, bounds: Mapping[str, ChangeBounds]) -> None:
        """Hold levels to bounds, and brake them.

        A level that is bound is put back to its last good state when it explodes, and asks for the
        time before each update, so that a duty can stop it.

        Args:
            bounds: of `find_bounds`.
        """
        for level, bound in bounds.items():
            self._subject.bind(level, bound, self.tell_levels)

    def tell_levels(self) -> float:
        """The time, for levels that ask before an update; a duty that runs out stops its level."""
        at = self._record.tell_time()
        if at >= self._next_end:
            self._stop_overdue([duty for duty in self._unmet if find_end(duty.by) <= at])
            self._next_end = self._find_next_end(after=at)
        return at

    def _find_next_end(self, after: float) -> float:
        """When the next duty runs out that is not met."""
        ends = [find_end(duty.by) for duty in self._unmet]
        return min((end for end in ends if end > after), default=math.inf)

    def obey_duties(self, duties: Sequence[Duty]) -> None:
        """Stop levels whose duties are overdue, and let those go whose duties are met."""
        self._unmet = [duty for duty in duties if duty.state != "met"]
        self._next_end = self._find_next_end(after=self._record.last_time)
        expired = {duty.level: duty for duty in duties if duty.state == "expired"}
        for level in {duty.level for duty in duties} - expired.keys():
            if self._still.release(level, _OVERDUE):
                self._record.note("duty", f"level {level!r} meets its duty and learns again")
        self._stop_overdue(list(expired.values()))

    def _stop_overdue(self, duties: Sequence[Duty]) -> None:
        for duty in duties:
            level = duty.level
            if self._still.stop(level, _OVERDUE):
                self._record.note(
                    "duty",
                    f"{duty.harm}: due by {duty.by} and not gone; level {level!r} stands still "
                    "until a proposal mends it",
                    level=level,
                    clause=duty.id,
                    passed=False,
                )

    def watch_budgets(self) -> None:
        """Report levels near the end of their budget; stop those past it that nothing held."""
        changes = read_changes(self._subject)
        for clause in self._contract.may_change:
            change, budget = changes.get(clause.level), clause.since_validation
            if budget is None or change is None or change < NEARLY_SPENT * budget:
                continue
            message = (
                f"level {clause.level!r} has changed by {change:.4g} since its last validation, "
                f"{100 * change / budget:.0f} % of its budget"
            )
            # A trust region lets nothing past it; a level without one is stopped.
            if change > budget * (1.0 + 1e-6) and self._still.stop(clause.level, _SPENT):
                message += "; it stands still until somebody validates it"
            figures = {"since_validation": change, "budget": budget}
            self._record.note(
                "alarm", message, level=clause.level, clause=clause.id, figures=figures
            )

    def release_spent(self) -> None:
        """After a validation every budget begins anew."""
        for level in list(self._still.stopped):
            self._still.release(level, _SPENT)
