"""Versions of a run folder: made while it learns, rolled back level by level, validated."""

import csv
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import DataError, SettingError, VersionError
from nestling.core.machine import use_threads
from nestling.core.params import digest_tensors
from nestling.jobs.job import Job
from nestling.jobs.predicting import predict_file
from nestling.jobs.rebuilding import read_run_job, rebuild_learner
from nestling.jobs.run_position import POSITION, Position, read_position, write_position
from nestling.jobs.scoring import list_batches
from nestling.judge.contract.findings import GovernanceEvent, Happening
from nestling.learn.learner import Learner
from nestling.learn.parts import write_snapshot_state
from nestling.ledger.governance_log import GovernanceLog
from nestling.ledger.record_lines import RecordLines
from nestling.ledger.version_diff import (
    Flips,
    LevelDiff,
    compare_behaviour,
    count_flips,
    diff_versions,
)
from nestling.ledger.version_log import (
    SNAPSHOTS,
    VERSIONS,
    VersionLog,
    check_same_plan,
    digest_plan,
)
from nestling.ledger.version_record import VersionRecord
from nestling.ledger.version_store import add_version
from nestling.oversight.saved_versions import SavedVersion, check_level, open_saved
from nestling.store import link_snapshot

PROBES = "probes.jsonl"
Now = Callable[[], float]


def read_versions(run: Path) -> VersionLog:
    """The log of a run's versions; what a run that was killed did not finish counts for nothing.

    Raises:
        VersionError: the folder holds none.
        DataError: the log is damaged; names the line.
    """
    if not (run / VERSIONS).exists():
        raise VersionError(
            f"'{run}' has no {VERSIONS}; name the folder of a run of `nestling learn` or of a "
            "governed learner"
        )
    log = VersionLog(run, num_bytes=_find_position(run, lambda one: one.num_version_bytes))
    _ = log.latest  # says that there is none
    return log


def record_learned(
    log: VersionLog, learner: Learner, snapshot: str, experience: str, num_examples: int, at: float
) -> VersionRecord:
    """Make a version of the snapshot that a run has written at the end of an experience.

    Args:
        log: of the run.
        learner: as it was saved.
        snapshot: name of the folder under snapshots/.
        experience: its name.
        num_examples: learned so far, repeats counted.
        at: seconds since 1970, UTC.
    """
    return add_version(
        log,
        "learned",
        open_saved,
        at=at,
        snapshot=f"{SNAPSHOTS}/{snapshot}",
        digests=learner.levels.digests(),
        reason=f"experience {experience}",
        num_examples=num_examples,
    )


def rollback_run(
    run: Path,
    level: str,
    to: str,
    *,
    by: str = "",
    reason: str = "",
    keep_feedback: bool = False,
    now: Now = time.time,
) -> VersionRecord:
    """Put one level of a run back to what it was in a version; every other level stays.

    A new snapshot takes that level's files from the version and links all others. Where a memory
    reads the live model it is refitted from the run's replay. The run must not be under way.

    Args:
        run: folder of `nestling learn` or of a governed learner.
        level: its name.
        to: id of the version.
        by: who does it.
        reason: in words.
        keep_feedback: the level learns again what the run learned since that version, while all
            others stand still; for runs of `nestling learn`.
        now: seconds since 1970, UTC.

    Returns: the new version.

    Raises:
        VersionError: unknown version, or one of another plan.
        ClockError: the clock went back since the last version.
        UnknownLevel: the plan has no such level.
        SettingError: a memory would be out of date, or feedback cannot be learned again.
        NestlingError: a snapshot is damaged, the level had another form, the disk is full.
            Nothing is changed by any of them.
    """
    log, at = read_versions(run), now()
    target = log.find(to)
    log.check_time(at)
    current = _find_current(run, log)
    before, then = open_saved(current), open_saved(run / target.snapshot)
    check_level(level, before)
    check_same_plan(target, digest_plan(before.plan))
    check_level(level, then)
    _check_digest(then, level, target)
    with _keeping_current(run, log, current, at):
        parent, name = log.latest, f"rolled-back-{log.next_id}"
        path = run / SNAPSHOTS / name
        with _removing(path):
            if keep_feedback:
                _write_live(run, level, path, before, then, target)
            else:
                try:
                    before.write_with(path, level, then)
                except SettingError:
                    if not (run / POSITION).exists() or not read_run_job(run).replay:
                        raise
                    _write_live(run, level, path, before, then, None)
            record = add_version(
                log,
                "rolled back",
                open_saved,
                at=at,
                snapshot=f"{SNAPSHOTS}/{name}",
                by=by,
                reason=reason or f"level {level} as in {to}",
                num_examples=parent.num_examples,
            )
            _point_to(run, log, name)
    kept = ", then what was learned since learned again by it alone" if keep_feedback else ""
    message = f"level {level} was put back to what it was in {to}{kept}; {reason or 'no reason'}"
    undo = f"nestling rollback {run} {level} --to {parent.id}"
    change = record.changes.get(level, 0.0)
    _note(run, "rolled back", record, message, undo, level, {"relative_change": change})
    return record


def validate_run(run: Path, *, by: str, note: str = "", now: Now = time.time) -> VersionRecord:
    """Record that a person has validated a run as it stands: changes since validation start anew.

    Args:
        run: folder of `nestling learn` or of a governed learner.
        by: who validated.
        note: in words.
        now: seconds since 1970, UTC.

    Returns: the new version, which shares all files with the one before.

    Raises:
        SettingError: nobody is named.
        VersionError: no versions.
        ClockError: the clock went back; nothing is changed.
    """
    if not by.strip():
        raise SettingError(f"validated by {by!r}; name the person who validated, e.g. --by Ada")
    log, at = read_versions(run), now()
    log.check_time(at)
    before = log.baseline
    with _keeping_current(run, log, _find_current(run, log), at):
        latest = log.latest
        record = add_version(
            log,
            "validated",
            open_saved,
            at=at,
            snapshot=latest.snapshot,
            digests=latest.digests,
            contract_digest=latest.contract_digest,
            by=by,
            reason=note,
            num_examples=latest.num_examples,
            behaviour=latest.behaviour,
        )
        _point_to(run, log, Path(latest.snapshot).name)
    figures = {f"since_validation/{name}": one for name, one in latest.since_validation.items()}
    since = f", since {before.id}" if before is not None else ""
    message = f"validated {latest.id}{since}; changes since validation start anew. {note}".strip()
    _note(run, "validated", record, message, "", "", figures)
    return record


def diff_run(
    run: Path, first: str, second: str
) -> tuple[list[LevelDiff], dict[str, tuple[float | None, float | None]]]:
    """Compare two versions of a run: level by level, and the figures of their probes.

    Args:
        run: the folder.
        first: id of a version.
        second: id of another.

    Raises:
        VersionError: one is unknown, or they are of different plans.
    """
    log = read_versions(run)
    before, after = log.find(first), log.find(second)
    if after.plan_digest:
        check_same_plan(before, after.plan_digest)
    parent = log.find(before.parent) if before.parent else None
    if parent is not None and parent.plan_digest != after.plan_digest:
        parent = None
    earlier = None if parent is None else open_saved(run / parent.snapshot)
    levels = diff_versions(
        open_saved(run / before.snapshot), open_saved(run / after.snapshot), earlier
    )
    return levels, compare_behaviour(before, after, [*RecordLines(run / PROBES).read()])


def count_run_flips(run: Path, first: str, second: str, file: Path) -> Flips:
    """Count the rows of a file that two versions of a run answer differently.

    Args:
        run: folder of `nestling learn` that has columns.
        first: id of a version.
        second: id of another.
        file: CSV with the columns of the run, the target among them.

    Raises:
        DataError: no target, or the run predicts values.
    """
    log = read_versions(run)
    given = [
        predict_file(run, file, snapshot=run / log.find(one).snapshot) for one in (first, second)
    ]
    target = given[0].target
    if not given[0].classes:
        raise DataError(f"the run predicts values of {target!r}; flips are of classes")
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [row.get(target) for row in csv.DictReader(lines)]
    if None in rows:
        raise DataError(f"'{file}' has no column {target!r}; flips need the right answers")
    answers = [[str(one) for one in answer.answers] for answer in given]
    names = sorted({*answers[0], *answers[1], *map(str, rows)})
    known = {name: code for code, name in enumerate(names)}

    def encode(names: list[str]) -> Tensor:
        return torch.tensor([known[name] for name in names], device="cpu", dtype=torch.int64)

    return count_flips(encode(answers[0]), encode(answers[1]), encode([str(row) for row in rows]))


# --- within


def _find_current(run: Path, log: VersionLog) -> Path:
    """The snapshot that stands: the one that the position names, else that of the last version."""
    name = _find_position(run, lambda one: one.snapshot)
    return run / (f"{SNAPSHOTS}/{name}" if name else log.latest.snapshot)


def _find_position(run: Path, read: Callable[[Position], Any]) -> Any:
    path = run / POSITION
    return read(read_position(path)) if path.exists() else None


def _check_digest(saved: SavedVersion, level: str, record: VersionRecord) -> None:
    found = digest_tensors(saved.read_tensors(level))
    if found != record.digests.get(level):
        raise VersionError(
            f"level {level!r} of version {record.id} has digest {found[:12]} where the log says "
            f"{str(record.digests.get(level))[:12]}; go back to another version"
        )


@contextmanager
def _keeping_current(run: Path, log: VersionLog, current: Path, at: float) -> Iterator[None]:
    """See that what stands is a version: a run that was stopped on its way stands beyond its last.

    Its snapshot would be removed as it goes on, so that nobody could go back to it.
    """
    if current == run / log.latest.snapshot:
        yield
        return
    name = f"stopped-{log.next_id}"
    with _removing(run / SNAPSHOTS / name):
        link_snapshot(run / SNAPSHOTS / name, current)
        add_version(
            log,
            "learned",
            open_saved,
            at=at,
            snapshot=f"{SNAPSHOTS}/{name}",
            reason="as the run stood when it was stopped",
            num_examples=_find_position(run, lambda one: one.num_seen) or 0,
        )
        yield


@contextmanager
def _removing(path: Path) -> Iterator[None]:
    """Remove a snapshot that was made if what should follow it fails."""
    try:
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def _point_to(run: Path, log: VersionLog, name: str) -> None:
    """Let the run go on from a snapshot: the one write that makes all before it count."""
    if (run / POSITION).exists():
        position = read_position(run / POSITION)
        write_position(run, replace(position, snapshot=name, num_version_bytes=log.num_bytes))


def _write_live(
    run: Path,
    level: str,
    path: Path,
    before: SavedVersion,
    then: SavedVersion,
    since: VersionRecord | None,
) -> None:
    """Make the run's learner, put the level back in it, and save it.

    Args:
        since: the version since which the level learns again; None to learn nothing.
    """
    if not (run / POSITION).exists():
        raise SettingError(
            f"'{run}' is no run of `nestling learn`, so its data are unknown; roll back without "
            "--keep-feedback, or on the live learner"
        )
    rebuilt = rebuild_learner(run, before.path)
    job, learner = rebuilt.job, rebuilt.learner
    with use_threads(job.num_threads):
        feedback = [] if since is None else list(_list_feedback(run, job, since))
        learner.load_level(level, then.read(level), feedback=feedback)
        write_snapshot_state(path, learner.state_dict(), before.path)


def _list_feedback(run: Path, job: Job, since: VersionRecord) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches that a run has learned since a version, in its own order."""
    from nestling.jobs.kept_encoding import read_encoding

    position = read_position(run / POSITION)
    num_seen = 0
    for index, experience in enumerate(job.load_data(read_encoding(run)).experiences):
        x, y = experience.train
        for rows in list_batches(
            len(x), epochs=job.epochs, batch_size=job.batch_size, seed=job.seed, index=index
        ):
            if since.num_examples <= num_seen < position.num_seen:
                yield x[rows], y[rows]
            num_seen += len(rows)


def _note(
    run: Path,
    happening: Happening,
    record: VersionRecord,
    message: str,
    undo: str,
    level: str,
    figures: dict[str, float],
) -> None:
    GovernanceLog(run).add(
        GovernanceEvent(
            happening,
            record.at,
            message,
            level=level,
            by=record.by,
            figures=figures,
            version=record.id,
            undo=undo,
        )
    )
