"""`governance.jsonl`: what happened under a contract, event by event, only ever appended."""

from pathlib import Path

from nestling.core.errors import DataError
from nestling.judge.contract.findings import GovernanceEvent
from nestling.ledger.record_lines import RecordLines

GOVERNANCE = "governance.jsonl"


class GovernanceLog:
    """Log of what happened under a contract, in a run folder.

    Args:
        folder: of the run; the file is made by the first event.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = GovernanceLog(folder)
    ...     log.add(GovernanceEvent("validated", 1.0, "looked at by hand", by="Ada"))
    ...     [event.by for event in log.read()]
    ['Ada']
    """

    def __init__(self, folder: Path | str) -> None:
        self._lines = RecordLines(Path(folder) / GOVERNANCE)

    def add(self, event: GovernanceEvent) -> None:
        """Append an event and wait until the disk has it.

        Raises:
            NestlingError: it cannot be written; earlier events stay.
        """
        self._lines.add(event.to_record())

    def read(self) -> list[GovernanceEvent]:
        """All events, in the order in which they were written.

        Raises:
            DataError: a line is no event; names it.
        """
        events = []
        for number, record in enumerate(self._lines.read(), start=1):
            figures = record.get("figures") or {}
            record["figures"] = {
                name: float("nan") if value is None else value for name, value in figures.items()
            }
            try:
                events.append(GovernanceEvent.from_record(record))
            except TypeError as error:
                raise DataError(
                    f"{self._lines.name_line(number)} is no event: {error}; put the file back from "
                    "a copy, or delete that line"
                ) from None
        return events
