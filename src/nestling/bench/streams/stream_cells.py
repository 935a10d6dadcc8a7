"""A cell of the streams' benchmark: one system on one stream with one seed, kept once measured.

Its file is written whole and at once, and says by which code it was measured: a rival's cell
depends on the rivals, the data and the scores only, so that it outlives changes of our learner.
"""

import ast
import base64
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestling.bench.streams.following_events import Followed
from nestling.bench.streams.stream_rivals import RIVALS
from nestling.core.errors import JobError
from nestling.store import write_whole

OURS = "nestling"

# What every cell depends on.
SHARED_CODE = (
    "data/events",
    "data/digits.py",
    "judge/stream_scores.py",
    "bench/streams/following_events.py",
)
RIVALS_CODE = ("bench/streams/online_networks.py", "bench/streams/stream_rivals.py")
# What our learner is made of.
OUR_CODE = ("core", "judge", "memory", "levels", "learn", "streams")


@dataclass(frozen=True)
class StreamCell:
    """What is to be measured.

    Args:
        system: "nestling", one of `RIVALS`, or "module:function".
        stream: of `list_event_streams`.
        seed: of the system.
        without: names of our experts that are left out.
        delay: events after which a label comes; 0 for at once.
        limit: events of the stream; None for all.
    """

    system: str
    stream: str
    seed: int = 0
    without: tuple[str, ...] = ()
    delay: int = 0
    limit: int | None = None

    def find_path(self, folder: Path) -> Path:
        """Where it lies in a run folder.

        >>> StreamCell("arf", "sea").find_path(Path("run")).as_posix()
        'run/cells/sea-arf-seed0.json'
        >>> StreamCell("arf", "sea", delay=9, limit=50).find_path(Path("run")).name
        'sea-arf-seed0-delay9-first50.json'
        """
        name = f"{self.stream}-{self.system.replace(':', '..')}-seed{self.seed}"
        name += "".join(f"-without-{expert.replace(' ', '_')}" for expert in self.without)
        name += f"-delay{self.delay}" if self.delay else ""
        name += f"-first{self.limit}" if self.limit is not None else ""
        return folder / "cells" / f"{name}.json"


@dataclass(frozen=True)
class StreamOutcome:
    """A cell that was measured.

    Attributes:
        cell: what was to be measured.
        figures: scores by name; NaN where one is not defined.
        right: N bits in base64, whether each answer was right.
        num_events: that were answered.
        curve: accuracy of each window of `window` events.
        cpu_seconds: of answering and learning.
        num_bytes: of the system's state at the end.
        held_out: place in the stream -> group -> accuracy on events that are never learned.
        is_partial: the system had used up its time before the stream ended.
        failure: why it failed, in one line; None if it did not.
        code: that measured it, see `identify_system`.
    """

    cell: StreamCell
    figures: dict[str, float] = field(default_factory=dict)
    right: str = ""
    num_events: int = 0
    curve: list[float] = field(default_factory=list)
    window: int = 0
    cpu_seconds: float = 0.0
    num_bytes: int = 0
    held_out: dict[str, dict[str, float]] = field(default_factory=dict)
    is_partial: bool = False
    failure: str | None = None
    code: str = ""

    def read_right(self) -> NDArray[np.bool_]:
        """Whether each answer was right, (N,)."""
        bits = np.frombuffer(base64.b64decode(self.right), np.uint8)
        return np.unpackbits(bits, count=self.num_events).astype(np.bool_)


def build_outcome(cell: StreamCell, found: Followed) -> StreamOutcome:
    """The outcome of a cell that went through."""
    return StreamOutcome(
        cell,
        figures=found.figures,
        right=base64.b64encode(np.packbits(found.right).tobytes()).decode(),
        num_events=len(found.right),
        curve=found.curve,
        window=found.window,
        cpu_seconds=found.cpu_seconds,
        num_bytes=found.num_bytes,
        held_out=found.held_out,
        is_partial=found.is_partial,
        code=identify_system(cell.system),
    )


def identify_system(system: str) -> str:
    """Eight hex digits over the code that a system's cells depend on."""
    return identify_files(*SHARED_CODE, *(RIVALS_CODE if system in RIVALS else OUR_CODE))


@functools.lru_cache
def identify_files(*names: str) -> str:
    """Eight hex digits over files of the package, and over those in folders of it.

    Comments, docstrings and the form of the lines do not count.

    Args:
        names: paths from the package's folder.
    """
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for name in sorted(set(names)):
        place = root / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(_strip(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:8]


def write_cell(folder: Path, outcome: StreamOutcome) -> None:
    """Write a cell's file, whole or not at all."""
    data = asdict(outcome)
    data["figures"] = {
        name: value if math.isfinite(value) else None for name, value in outcome.figures.items()
    }
    text = json.dumps(data, allow_nan=False) + "\n"
    write_whole(outcome.cell.find_path(folder), text)


def read_cell(folder: Path, cell: StreamCell) -> StreamOutcome | None:
    """What a run folder holds of a cell; None if nothing, or if other code measured it.

    A failure is kept as well: code that fails once fails again.

    Raises:
        JobError: the file is damaged.
    """
    path = cell.find_path(folder)
    if not path.exists():
        return None
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        described = data.pop("cell")
        if data["code"] != identify_system(cell.system):
            return None
        if StreamCell(**{**described, "without": tuple(described["without"])}) != cell:
            raise ValueError("another cell")
        data["figures"] = {
            name: math.nan if value is None else float(value)
            for name, value in data["figures"].items()
        }
        return StreamOutcome(cell, **data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobError(
            f"'{path}' is damaged ({type(error).__name__}); delete it to measure it again"
        ) from None


def _strip(source: str) -> str:
    """A file's syntax tree without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body: Sequence[ast.stmt] = getattr(node, "body", None) or ()
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) or not body:
            continue
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            node.body = node.body[1:]
    return ast.dump(tree)
