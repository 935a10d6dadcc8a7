"""Where a run stands: the next batch to learn, its snapshot, and how much of its files counts."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from nestling.core.errors import JobError
from nestling.store import write_whole

POSITION = "position.json"


@dataclass(frozen=True)
class Position:
    """Where a run stands: the next batch to learn.

    Attributes:
        experience: its index.
        batch: batches of this experience that are learned, all epochs counted.
        num_seen: examples learned so far, repeats counted.
        seconds: spent learning so far.
        snapshot: name of the folder under snapshots/ that belongs to it.
        num_bytes: of metrics.jsonl; what is written after it belongs to no snapshot.
        num_version_bytes: of versions.jsonl, likewise.
    """

    experience: int = 0
    batch: int = 0
    num_seen: int = 0
    seconds: float = 0.0
    snapshot: str = ""
    num_bytes: int = 0
    num_version_bytes: int = 0


def read_position(path: Path) -> Position:
    """The position in a file; JobError if it is none."""
    try:
        return Position(**read_object(path))  # type: ignore[arg-type]  # checked by the call
    except TypeError as error:
        raise JobError(f"'{path}' is not of this version: {error}; start a new folder") from None


def write_position(run: Path, position: Position) -> None:
    """Write where a run stands, atomically."""
    write_whole(run / POSITION, json.dumps(asdict(position)))


def read_object(path: Path) -> dict[str, object]:
    """A JSON object of a run's folder; JobError if it cannot be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JobError(f"cannot read '{path}': {error}; start a new folder") from None
    return data if isinstance(data, dict) else {}


def find_snapshot(run: Path) -> Path:
    """The last snapshot of a run; raises JobError if there is none yet."""
    path = run / POSITION
    if not path.exists():
        raise JobError(f"'{run}' has no snapshot yet; go on with `nestling learn --resume`")
    return run / "snapshots" / read_position(path).snapshot
