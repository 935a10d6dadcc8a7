"""A cell of the benchmark: one method, one seed, one setting; and its file, which is proof of it.

A cell's file is written at once and whole, so that an interrupted benchmark goes on where it was.
"""

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nestling.bench.suites.measuring import Evaluation, Measurement, summarize
from nestling.core.errors import JobError
from nestling.data.suites.suite import Part
from nestling.store import write_whole

SCHEMA = 1


@dataclass(frozen=True)
class Cell:
    """What is to be measured.

    Args:
        suite: name for `make_suite`, or "module:function" for one of the user's own.
        split: "test", or "validation" for tuning.
        method: name, or "module:function".
        seed: of stream, weights and order.
        settings: name -> value, as drawn from the method's search space.
        trial: number in the random search; None outside of it.
        num_looks: evaluations within an experience.
    """

    suite: str
    split: Part
    method: str
    seed: int
    settings: Mapping[str, float] = field(default_factory=dict)
    trial: int | None = None
    num_looks: int = 0

    def find_path(self, folder: Path) -> Path:
        """Where it lies in a run folder; other settings lie elsewhere.

        >>> Cell("s", "test", "default", 3).find_path(Path("run")).as_posix()
        'run/cells/default-seed3.json'
        >>> Cell("s", "validation", "er", 100, {"lr": 0.1}, 2).find_path(Path("run")).as_posix()
        'run/search/er-trial2-seed100-c924a5f4.json'
        """
        name = self.method.replace(":", "..")
        if self.trial is not None:
            name += f"-trial{self.trial}"
        name += f"-seed{self.seed}"
        if self.settings:
            text = json.dumps(dict(self.settings), sort_keys=True)
            name += f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        return folder / ("cells" if self.trial is None else "search") / f"{name}.json"


@dataclass(frozen=True)
class Outcome:
    """A cell that was measured.

    Attributes:
        cell: what was to be measured.
        measurement: what was found; None if the method failed.
        failure: why it failed, in one line; None if it did not.
        code: of the package that measured it, see `identify_code`.
    """

    cell: Cell
    measurement: Measurement | None
    failure: str | None = None
    code: str = ""

    def summarize(self) -> dict[str, float | None]:
        """See `measuring.summarize`; empty for a failure."""
        return {} if self.measurement is None else summarize(self.measurement)


@functools.lru_cache(maxsize=1)
def identify_code() -> str:
    """Eight hex digits over all source files of the package: another code, another name."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write a cell's file, whole or not at all."""
    measurement = outcome.measurement
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "cell": _describe(outcome.cell),
        "code": outcome.code,
        "failure": outcome.failure,
        "measurement": None if measurement is None else asdict(measurement),
    }
    write_whole(outcome.cell.find_path(folder), json.dumps(data, allow_nan=False) + "\n")


def read_outcome(folder: Path, cell: Cell) -> Outcome | None:
    """What a run folder holds of a cell; None if nothing.

    Raises:
        JobError: the file is damaged or holds something else.
    """
    path = cell.find_path(folder)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise _refuse(path, "is damaged (no text)") from None
    try:
        data = json.loads(text)
        described, schema = data["cell"], data["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise _refuse(path, f"is damaged ({type(error).__name__})") from None
    if schema != SCHEMA:
        raise _refuse(path, f"has schema {schema!r}, expected {SCHEMA}")
    expected = _describe(cell)
    if described != expected:
        held = described if isinstance(described, dict) else {}
        other = [name for name in expected if held.get(name) != expected[name]]
        shown = ", ".join(f"{name} {held.get(name)!r} for {expected[name]!r}" for name in other)
        raise _refuse(path, f"holds another cell ({shown or 'unknown fields'})")
    try:
        found, failure = _read_measurement(data["measurement"]), data["failure"]
        if (found is None) == (failure is None):
            raise ValueError("neither found nor failed")
        return Outcome(cell, found, failure, str(data["code"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _refuse(path, f"is damaged ({type(error).__name__})") from None


def _describe(cell: Cell) -> dict[str, Any]:
    return {**asdict(cell), "settings": dict(cell.settings)}


def _read_measurement(data: Mapping[str, Any] | None) -> Measurement | None:
    if data is None:
        return None
    looks = [
        Evaluation(
            int(one["during"]), int(one["num_examples"]), [float(v) for v in one["accuracies"]]
        )
        for one in data["looks"]
    ]
    matrix = [[float(value) for value in row] for row in data["matrix"]]
    if not matrix or any(len(row) != len(matrix) for row in matrix):
        raise ValueError("the matrix is not square")
    flat = [value for row in [*matrix, *(look.accuracies for look in looks)] for value in row]
    if not all(0.0 <= value <= 1.0 for value in flat):
        raise ValueError("an accuracy outside [0, 1]")
    prequential = data["prequential"]
    seconds, answering = float(data["seconds"]), float(data["seconds_answering"])
    if not math.isfinite(seconds + answering):
        raise ValueError("seconds")
    return Measurement(
        matrix=matrix,
        looks=looks,
        prequential=None if prequential is None else float(prequential),
        num_bytes=int(data["num_bytes"]),
        seconds=seconds,
        seconds_answering=answering,
        num_seen=int(data["num_seen"]),
    )


def _refuse(path: Path, why: str) -> JobError:
    return JobError(f"'{path}' {why}; delete it to measure it again, or give another --out")
