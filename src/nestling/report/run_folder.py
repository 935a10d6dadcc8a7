"""A run folder: its configuration, and its records as JSON lines that are only ever appended."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nestling.core.errors import DataError, NestlingError
from nestling.report.fields import check_record
from nestling.store import write_whole

CONFIG, METRICS = "config.json", "metrics.jsonl"
_START = b'{"kind": "'  # of every record


@dataclass(frozen=True)
class Run:
    """Contents of a run folder: configuration and records.

    Attributes:
        folder: where it lies.
        config: what was run, and on which machine.
        records: in the order in which they were written; each has a "kind".
        lines: of the file, counted from 1, one per record.
        note: what is wrong with the file, in plain words; empty if nothing.
    """

    folder: Path
    config: Mapping[str, object]
    records: list[dict[str, object]]
    lines: list[int]
    note: str = ""

    def select(self, kind: str) -> list[dict[str, object]]:
        """The records of one kind, each with all that a report reads of it.

        Raises:
            DataError: a field is missing or of the wrong kind; names file and line.
        """
        num_experiences = sum(record["kind"] == "experience" for record in self.records)
        found = []
        for record, line in zip(self.records, self.lines, strict=True):
            if record["kind"] == kind:
                place = f"'{self.folder / METRICS}', line {line}"
                check_record(record, place, num_experiences)
                found.append(record)
        return found


class RunWriter:
    """Write the records of a run to a folder, one durable JSON line each.

    Args:
        folder: made if missing; records are added to those that are there.
        config: JSON-ready; written once, kept if it is there already.

    Raises:
        NestlingError: the folder cannot be written.
    """

    def __init__(self, folder: Path | str, config: Mapping[str, object]) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / CONFIG).exists():
                write_whole(self.folder / CONFIG, json.dumps(_to_json(config), indent=2) + "\n")
            self._end_torn_line()
            self._file = (self.folder / METRICS).open("ab", buffering=0)
        except OSError as error:
            raise NestlingError(f"cannot write run folder '{self.folder}': {error}") from None

    def write(self, kind: str, record: Mapping[str, object]) -> None:
        """Append one record; a number that is not finite becomes null.

        Args:
            kind: of the record.
            record: JSON-ready; a "kind" of its own (of an alarm, say) is kept as "<kind>_kind".

        Raises:
            NestlingError: the disk is full, say; earlier records stay.
        """
        body = dict(record)
        if "kind" in body:
            # Left in place it would hide the record from whoever selects its kind.
            body[f"{kind}_kind"] = body.pop("kind")
        line = json.dumps(_to_json({"kind": kind} | body), allow_nan=False) + "\n"
        # Not `tell`: after a failed write it stands beyond the end of the file.
        start = os.fstat(self._file.fileno()).st_size
        try:
            data = line.encode()
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            os.truncate(self.folder / METRICS, start)
            raise NestlingError(
                f"cannot write '{self.folder / METRICS}': {error}; earlier records are kept"
            ) from None

    def close(self) -> None:
        """Close the file; writing afterwards is an error."""
        self._file.close()

    def _end_torn_line(self) -> None:
        """A crash may have left half a line: drop it, so that the next record is a line."""
        path = self.folder / METRICS
        content = path.read_bytes() if path.exists() else b""
        start = content.rfind(b"\n") + 1
        if start < len(content):
            if _read_record(content[start:]) is None and _is_cut(content[start:]):
                os.truncate(path, start)
            else:
                with path.open("ab") as file:
                    file.write(b"\n")


def read_run(folder: Path | str) -> Run:
    """Read a run folder.

    Args:
        folder: that `RunWriter` wrote.

    Returns: the run; a last line that a crash cut off is left out and said in its note.

    Raises:
        DataError: there is no run in it, or a line of its records is none; names the line.
    """
    folder = Path(folder)
    config = folder / CONFIG
    if not config.is_file():
        raise DataError(f"no run in '{folder}': it has no {CONFIG}; name a folder of a run")
    try:
        data = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"'{config}' is damaged: {error}") from None
    if not isinstance(data, dict):
        raise DataError(f"'{config}' is damaged: it must hold a JSON object")
    records, places, note = [], [], ""
    path = folder / METRICS
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        record = _read_record(line)
        if record is not None:
            records.append(record)
            places.append(number)
        elif number == len(lines) and _is_cut(line):
            note = f"{METRICS}: line {number} was cut off, as by a crash, and is left out"
        elif line.strip():
            raise DataError(
                f"'{path}', line {number}: {line[:40].decode(errors='replace')!r} is no record, "
                "which is a JSON object with its 'kind'; delete that line, or make the run anew"
            )
    return Run(folder, data, records, places, note)


def _read_record(line: bytes) -> dict[str, object] | None:
    """A line of metrics as a record; None if it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # also an integer of too many digits
        return None
    is_record = isinstance(record, dict) and isinstance(record.get("kind"), str)
    return record if is_record else None


def _is_cut(line: bytes) -> bool:
    """Whether a line is the beginning of what `RunWriter.write` writes."""
    return bool(line) and (line.startswith(_START) or _START.startswith(line))


def _to_json(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
