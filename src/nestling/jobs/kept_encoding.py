"""What a run folder keeps of its tables: how they became numbers, and rows that were held out."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from nestling.core.errors import DataError
from nestling.data import RawTable, TableEncoding
from nestling.store import write_whole

ENCODING = "encoding.json"


def write_encoding(run: Path, encoding: TableEncoding) -> None:
    """Keep in a run folder how its tables became numbers."""
    write_whole(run / ENCODING, json.dumps(encoding.to_data(), indent=1) + "\n")


def read_encoding(run: Path) -> TableEncoding:
    """Read it back; DataError if it is missing or damaged."""
    path = run / ENCODING
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {error}; learn anew") from None
    return TableEncoding.from_data(data, f"'{path}'")


def write_rows(path: Path, tables: Sequence[RawTable]) -> None:
    """Write the rows of tables with the same columns as one CSV, cells as they were read."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(tables[0].columns)
    writer.writerow(names)
    for table in tables:
        writer.writerows(zip(*(table.columns[name] for name in names), strict=True))
    write_whole(path, text.getvalue())
