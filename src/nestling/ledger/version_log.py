"""`versions.jsonl`: every version of a model with its parent, only ever appended."""

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nestling.core.errors import ClockError, DataError, VersionError, suggest
from nestling.ledger.record_lines import RecordLines
from nestling.ledger.version_record import Origin, VersionRecord

VERSIONS = "versions.jsonl"
SNAPSHOTS = "snapshots"


class VersionLog:
    """Log of the versions of a model in a run folder: v0001, v0002, ...; only ever appended to.

    Args:
        folder: of the run; `versions.jsonl` is made by the first version.
        num_bytes: of the file that count, where a run says so in its position; None for all.

    Raises:
        DataError: a line is no version, or not the one that must follow; names it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = VersionLog(folder)
    ...     first = log.add("began", at=1.0, snapshot="snapshots/begin", digests={"head": "ab"})
    ...     first.id, log.find("v0001").at, log.latest.id
    ('v0001', 1.0, 'v0001')
    """

    def __init__(self, folder: Path | str, *, num_bytes: int | None = None) -> None:
        self.folder = Path(folder)
        self._lines = RecordLines(self.folder / VERSIONS, num_bytes=num_bytes)
        self._records = [
            self._read_record(number, record)
            for number, record in enumerate(self._lines.read(), start=1)
        ]

    @property
    def records(self) -> list[VersionRecord]:
        """All versions, the oldest first."""
        return list(self._records)

    @property
    def num_bytes(self) -> int:
        """Bytes of the file so far."""
        return self._lines.num_bytes

    @property
    def next_id(self) -> str:
        """The id that the next version gets."""
        return name_version(len(self._records) + 1)

    @property
    def latest(self) -> VersionRecord:
        """The newest version; VersionError if there is none."""
        if not self._records:
            raise VersionError(
                f"'{self.folder}' has no versions yet; a run of `nestling learn` makes one at the "
                "end of each experience, a governed learner at each change"
            )
        return self._records[-1]

    @property
    def baseline(self) -> VersionRecord | None:
        """The version that was validated last, else the first one; None if there is none."""
        validated = [one for one in self._records if one.origin == "validated"]
        return validated[-1] if validated else next(iter(self._records), None)

    def add(
        self,
        origin: Origin,
        *,
        at: float,
        snapshot: str,
        digests: Mapping[str, str],
        plan_digest: str = "",
        contract_digest: str = "",
        by: str = "",
        reason: str = "",
        clause: str = "",
        num_examples: int = 0,
        changes: Mapping[str, float] | None = None,
        since_validation: Mapping[str, float] | None = None,
        behaviour: Mapping[str, float] | None = None,
    ) -> VersionRecord:
        """Append a version, whose parent is the latest one, and wait until the disk has it.

        Args:
            origin: how it came about.
            at: seconds since 1970, UTC; not before the latest version's.
            snapshot: folder of its snapshot, relative to the run's.
            digests: level -> sha256 of its tensors.
            plan_digest: of its plan, see `digest_plan`.
            contract_digest: of the contract in force.
            by: who made it; empty for the system itself.
            reason: in words.
            clause: that it cites.
            num_examples: learned by then.
            changes: level -> relative change since the version before.
            since_validation: level -> relative change since the last validation.
            behaviour: "probe/view" -> figure.

        Raises:
            ClockError: the clock went back since the latest version; nothing is written.
            NestlingError: the disk is full, say; earlier versions stay.
        """
        self.check_time(at)
        record = VersionRecord(
            self.next_id,
            float(at),
            origin,
            snapshot,
            dict(digests),
            self._records[-1].id if self._records else "",
            plan_digest,
            contract_digest,
            by,
            reason,
            clause,
            num_examples,
            dict(changes or {}),
            dict(since_validation or {}),
            dict(behaviour or {}),
        )
        self._lines.add(record.to_record())
        self._records.append(record)
        return record

    def check_time(self, at: float) -> None:
        """Raise ClockError if a time is before the latest version's, VersionError if it is none."""
        if not math.isfinite(at):
            raise VersionError(f"a version at {at!r}; give seconds since 1970, UTC")
        if self._records and at < self._records[-1].at:
            last = self._records[-1]
            raise ClockError(
                f"the clock went back: it is {show_time(at)}, version {last.id} was made at "
                f"{show_time(last.at)}; set the clock right, or wait until that time has passed"
            )

    def find(self, id: str) -> VersionRecord:
        """The version of an id; VersionError with the nearest one if there is none."""
        known = {record.id: record for record in self._records}
        if id not in known:
            if not known:
                return self.latest  # says that there is none
            raise VersionError(f"no version {id!r} in '{self.folder}'; {suggest(id, known)}")
        return known[id]

    def list_between(self, first: str, last: str) -> list[VersionRecord]:
        """The versions from one to another, both included, the oldest first.

        Raises:
            VersionError: one is unknown, or the first came after the last.
        """
        start, end = (self._records.index(self.find(one)) for one in (first, last))
        if start > end:
            raise VersionError(f"version {first} came after {last}; ask for {last} to {first}")
        return self._records[start : end + 1]

    def _read_record(self, number: int, record: dict[str, Any]) -> VersionRecord:
        where = self._lines.name_line(number)
        try:
            found = VersionRecord.from_record(
                record
                | {
                    name: {
                        key: missing if value is None else float(value)
                        for key, value in dict(record.get(name) or {}).items()
                    }
                    for name, missing in _FIGURES.items()
                }
            )
            is_whole = isinstance(found.at, float | int) and bool(found.snapshot)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{where} is no version: {error}; put the file back from a copy"
            ) from None
        if found.id != name_version(number) or not is_whole:
            raise DataError(
                f"{where} holds version {found.id!r} where {name_version(number)!r} must stand, "
                "whole; put the file back from a copy"
            )
        return found


# Figures by level or probe, and what a null stands for: no finite change, no figure.
_FIGURES = {"changes": math.inf, "since_validation": math.inf, "behaviour": math.nan}


def name_version(number: int) -> str:
    """The id of the version of a number, counted from 1.

    >>> name_version(12)
    'v0012'
    """
    return f"v{number:04d}"


def show_time(at: float) -> str:
    """A time in words, UTC.

    >>> show_time(0.0)
    '1970-01-01 00:00:00 UTC'
    """
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def digest_plan(data: object) -> str:
    """SHA-256 digest of a plan as plain data, such as `Plan.to_data` gives; layout does not count.

    >>> digest_plan({"a": 1, "b": 2}) == digest_plan({"b": 2, "a": 1})
    True
    """
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_same_plan(target: VersionRecord, plan_digest: str) -> None:
    """Raise VersionError if a version was made under another plan than the one in force."""
    if target.plan_digest and plan_digest and target.plan_digest != plan_digest:
        raise VersionError(
            f"version {target.id} is of another plan ({target.plan_digest[:12]}; now "
            f"{plan_digest[:12]}); go back to a version of this plan, or make the model anew with "
            "that plan and restore the whole version"
        )
