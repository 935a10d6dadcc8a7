"""Cost of putting levels back to a version: against reading the files that hold them."""

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from nestling.bench.timing import median_ratio
from nestling.core.errors import VersionError
from nestling.core.params import digest_tensors
from nestling.core.seeds import make_generator
from nestling.learn.learner import Learner
from nestling.learn.parts import SavedLevels
from nestling.ledger.version_log import VersionLog
from nestling.ledger.version_store import add_version
from nestling.levels import Level, Plan
from nestling.optim import adamw
from nestling.oversight.saved_versions import open_saved
from nestling.store import list_parts, read_kind, read_listed, read_snapshot

NUM_LEVELS, WIDTH = 1_000, 100  # 10 M parameters
NUM_ROUNDS = 5


def measure_rollback(
    num_levels: int = NUM_LEVELS, width: int = WIDTH, num_rounds: int = NUM_ROUNDS
) -> dict[str, float]:
    """Time rollbacks of a model of many gradient levels, in turns with plain reads.

    Two versions of one learner lie on disk, of which every level moved. All reads check the sha256
    of every byte.

    - read: the manifest and the files that hold one level of the first version: that of its
      tensors, and the small one with the trees of all levels.
    - live: the same files read and joined, the digest of the level's tensors compared with that
      of the version's record, and the level put back in the live learner.
    - files: a new snapshot that has this level of the first version and all others of the second,
      linked, each checked byte by byte; without the line in the log.
    - read_all: `read_snapshot` of the whole first version.
    - all: `live` for every level, the version's small file read once.

    Args:
        num_levels: gradient levels, each of one square matrix.
        width: of the matrices.
        num_rounds: that count; medians are given.

    Returns: `rollback_over_read` (live / read), `rollback_files_over_read_all` (files / read_all),
        `rollback_all_over_read_all` (all / read_all), and the medians in seconds.

    Raises:
        VersionError: a level did not come back with its digest, or another moved.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Path(folder), num_levels, width, num_rounds)


def _measure(folder: Path, num_levels: int, width: int, num_rounds: int) -> dict[str, float]:
    learner = _make_learner(num_levels, width)
    log = VersionLog(folder)
    for at, name in enumerate(("one", "two")):
        learner.snapshot(folder / name)
        digests = learner.levels.digests()
        add_version(log, "learned", open_saved, at=float(at), snapshot=name, digests=digests)
        if name == "one":
            _move(learner, width)
    then, now = log.records
    names = list(then.digests)
    level = names[len(names) // 2]
    kind, schema = read_kind(folder / "one")
    parts = list_parts(folder / "one", kind=kind, schema=schema)
    files = [name for name in ("learner", f"level {level}") if name in parts]

    def read() -> None:
        known = list_parts(folder / "one", kind=kind, schema=schema)
        read_listed(folder / "one", {name: known[name] for name in files})

    def put_back(saved: SavedLevels, name: str) -> None:
        state = saved.read(name)
        if digest_tensors(state["weights"]) != then.digests[name]:
            raise VersionError(f"level {name!r} is not what the log says; restore another version")
        learner.levels[name].load_state_dict(state)

    def put_all_back() -> None:
        saved = SavedLevels(folder / "one")
        for name in names:
            put_back(saved, name)

    def mix() -> None:
        SavedLevels(folder / "two").write_with(
            folder / f"mixed-{time.perf_counter_ns()}", level, SavedLevels(folder / "one")
        )

    sides: dict[str, Callable[[], object]] = {
        "read": read,
        "live": lambda: put_back(SavedLevels(folder / "one"), level),
        "files": mix,
        "read_all": lambda: read_snapshot(folder / "one", kind=kind, schema=schema),
        "all": put_all_back,
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(num_rounds + 1):  # the first warms up
        for side in list(sides) if index % 2 else list(reversed(sides)):
            learner.restore(folder / "two")
            gc.collect()  # what that left
            gc.disable()
            start = time.perf_counter()
            try:
                sides[side]()
            finally:
                taken = time.perf_counter() - start
                gc.enable()
            if index:
                seconds[side].append(taken)
            expected = {"live": {**now.digests, level: then.digests[level]}, "all": then.digests}
            _check(learner, expected.get(side, now.digests))
    return {
        "rollback_over_read": median_ratio(seconds, "live", "read"),
        "rollback_files_over_read_all": median_ratio(seconds, "files", "read_all"),
        "rollback_all_over_read_all": median_ratio(seconds, "all", "read_all"),
        **{f"rollback_seconds_{side}": statistics.median(every) for side, every in seconds.items()},
    }


def _make_learner(num_levels: int, width: int) -> Learner:
    layers = [nn.Linear(width, width, bias=False, device="cpu") for _ in range(num_levels)]
    generator = make_generator(0, "weights")
    with torch.no_grad():
        for layer in layers:
            noise = torch.randn(
                width, width, generator=generator, device="cpu", dtype=torch.float32
            )
            eye = torch.eye(width, device="cpu", dtype=torch.float32)
            layer.weight.copy_(eye + 1e-3 * noise)
    plan = Plan(
        *(
            Level(f"layer-{index}", match=[f"{index}.weight"], optimizer=adamw(lr=1e-3))
            for index in range(num_levels)
        )
    )
    learner = Learner(nn.Sequential(*layers), plan, num_classes=width)
    _move(learner, width)
    return learner


def _move(learner: Learner, width: int) -> None:
    """A step of every level, so that each has moments and differs from before."""
    generator = make_generator(0, "batch")
    x = torch.randn(8, width, generator=generator, device="cpu", dtype=torch.float32)
    learner.learn(x, torch.arange(8, device="cpu", dtype=torch.int64) % width)


def _check(learner: Learner, expected: Mapping[str, str]) -> None:
    if learner.levels.digests() != dict(expected):
        raise VersionError("a rollback moved another level, or not the one that was asked for")
