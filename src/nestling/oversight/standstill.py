"""Which levels stand still under a contract: those of proposals, and those that were stopped."""

from nestling.judge.contract.change_contract import Contract
from nestling.oversight.subjects.subject import Subject
from nestling.oversight.tried_change import list_fixed


class Standstill:
    """Holds what a contract fixes, levels that change by proposals only, and levels stopped.

    Args:
        subject: whose levels.
        contract: in force.
    """

    def __init__(self, subject: Subject, contract: Contract) -> None:
        self._subject, self._contract = subject, contract
        # Level -> why it was stopped.
        self.stopped: dict[str, str] = {}
        self.hold()

    def hold(self) -> None:
        """Hold all of it from now on, as it is now."""
        self._subject.hold(
            list_fixed(self._subject, self._contract), {*self._list_still(), *self.stopped}
        )

    def hold_all_but(self, level: str) -> None:
        """Let one level learn alone, e.g. feedback once more; `hold` ends it."""
        kinds = self._subject.kinds
        others = [name for name, kind in kinds.items() if kind == "gradient" and name != level]
        self._subject.hold(list_fixed(self._subject, self._contract), others)

    def stop(self, level: str, why: str) -> bool:
        """Let a level stand still; whether it did not yet."""
        is_new = level not in self.stopped
        self.stopped[level] = why
        if is_new:
            self.hold()
        return is_new

    def release(self, level: str, why: str) -> bool:
        """Let a level learn again that was stopped for this reason; whether it was."""
        if self.stopped.get(level) != why:
            return False
        del self.stopped[level]
        self.hold()
        return True

    def _list_still(self) -> set[str]:
        """Levels that change by proposals only, and gradient levels that no clause names."""
        clauses = self._contract.may_change
        learning = {clause.level for clause in clauses if clause.trigger == "automatic"}
        kinds = self._subject.kinds
        proposed = {clause.level for clause in clauses if clause.trigger == "proposal"}
        unnamed = {name for name, kind in kinds.items() if kind == "gradient"} - learning
        return proposed | unnamed
