"""JSON lines that are only ever appended: durable, whole or not there, a damaged line is named."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestling.core.errors import DataError, NestlingError
from nestling.store import append_whole

# A line longer than this many characters is shown by its beginning.
_SHOWN = 40


class RecordLines:
    """File of records, one JSON object a line, that is only ever appended to.

    A last line without its end was cut off, as by a crash: it counts for nothing, and the next
    record takes its place.

    Args:
        path: of the file; it and its folder are made by the first record.
        num_bytes: of the file that count; what comes after belongs to work that was never
            finished. None for all.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lines = RecordLines(Path(folder) / "events.jsonl")
    ...     lines.add({"at": 1.0})
    ...     lines.read()
    [{'at': 1.0}]
    """

    def __init__(self, path: Path, *, num_bytes: int | None = None) -> None:
        self.path = path
        self._num_bytes = num_bytes

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole lines that count."""
        return len(self._read_whole())

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record and wait until the disk has it; a number that is not finite is null.

        Raises:
            NestlingError: the disk is full, say; earlier records stay.
        """
        line = (json.dumps(to_plain_json(record), allow_nan=False) + "\n").encode()
        try:
            start = self._find_end()
            append_whole(self.path, line, start)
        except OSError as error:
            raise NestlingError(
                f"cannot write '{self.path}': {error.strerror or error}; earlier records are kept"
            ) from None
        if self._num_bytes is not None:
            self._num_bytes = start + len(line)

    def read(self) -> list[dict[str, Any]]:
        """All records, in the order in which they were written.

        Raises:
            DataError: a line is no record; names it.
        """
        return [
            self._read_line(number, line)
            for number, line in enumerate(self._read_whole().splitlines(), start=1)
        ]

    def name_line(self, number: int) -> str:
        """Where a line stands, for messages."""
        return f"'{self.path}', line {number}"

    def _find_end(self) -> int:
        """Where the next line begins; the whole file is read only where that is in doubt."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return 0
        if size and (self._num_bytes is None or size <= self._num_bytes):
            with self.path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) == b"\n":
                    return size
        return self.num_bytes

    def _read_line(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            shown = line[:_SHOWN].decode(errors="replace")
            raise DataError(
                f"{self.name_line(number)}: {shown!r} is no record, which is a JSON object; put "
                "the file back from a copy, or delete that line"
            )
        return record

    def _read_whole(self) -> bytes:
        """The lines that count, without one that was cut off."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise NestlingError(f"cannot read '{self.path}': {error.strerror or error}") from None
        content = content[: self._num_bytes]
        return content[: content.rfind(b"\n") + 1]


def to_plain_json(value: object) -> object:
    """A value as JSON has it: mappings as objects, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): to_plain_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
