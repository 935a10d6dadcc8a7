"""How far each level lies from what a person last validated, by the newest version of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from nestling.report.audit.audit_records import AuditVersion
from nestling.report.audit.wording import say_share, say_time


@dataclass(frozen=True)
class ValidatedChange:
    """Relative change of every level since the last human validation.

    Attributes:
        rows: level, and its change in words.
        since: which version it counts from, in words.
    """

    rows: Sequence[tuple[str, str]]
    since: str


def tabulate_validated(versions: Sequence[AuditVersion]) -> ValidatedChange:
    """How far levels have changed since a person last validated them.

    Args:
        versions: of a run, the oldest first; without one with a change there is no row.

    >>> began = AuditVersion("v0001", 0.0, "began")
    >>> learned = AuditVersion("v0002", 1.0, "learned", since_validation={"head": 0.25})
    >>> [name for name, _ in tabulate_validated([began, learned]).rows]
    ['head']
    """
    if not versions:
        return ValidatedChange((), "")
    validated = [version for version in versions if version.origin == "validated"]
    rows = [(name, say_share(change)) for name, change in versions[-1].since_validation.items()]
    if not validated:
        since = f"Nobody has validated a version yet: counted from the first, {versions[0].id}."
    else:
        last = validated[-1]
        since = f"Counted from {last.id}, validated by {last.by} at {say_time(last.at)}."
    return ValidatedChange(rows, f"Relative change at {versions[-1].id}. {since}")
