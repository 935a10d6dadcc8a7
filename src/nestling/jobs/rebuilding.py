"""Learners of runs that are over, or stopped: built anew from the job, as of a snapshot."""

from dataclasses import dataclass
from pathlib import Path

from nestling.core.errors import JobError
from nestling.core.machine import use_threads
from nestling.data import TableEncoding
from nestling.jobs.job import Job, read_job
from nestling.jobs.kept_encoding import read_encoding
from nestling.jobs.run_position import find_snapshot
from nestling.learn.learner import Learner
from nestling.report import read_run


@dataclass(frozen=True)
class RebuiltRun:
    """A run's learner at a snapshot, and what it takes to ask it about files.

    Attributes:
        job: of the run.
        encoding: of its tables.
        learner: as it stood.
    """

    job: Job
    encoding: TableEncoding
    learner: Learner


def rebuild_learner(run: Path, snapshot: Path | None = None) -> RebuiltRun:
    """Build a run's learner anew and let it become what a snapshot holds.

    Args:
        run: folder of `nestling learn`.
        snapshot: its folder; None for the run's last one.

    Raises:
        DataError: no run.
        JobError: no run of `nestling learn`, or one that has no snapshot yet.
        SnapshotError: a snapshot that is damaged, or of another plan.
    """
    job, encoding = read_run_job(run), read_encoding(run)
    with use_threads(job.num_threads):
        learner = build_learner(job)
        learner.restore(find_snapshot(run) if snapshot is None else snapshot)
    return RebuiltRun(job, encoding, learner)


def build_learner(job: Job) -> Learner:
    """The learner of a job before its first step; raises as its model and plan do."""
    return Learner(
        job.build_model(),
        job.build_plan(),
        pretrained=job.pretrained,
        replay=job.replay,
        seed=job.seed,
    )


def read_run_job(run: Path) -> Job:
    """The job of a run of `nestling learn`; JobError if the folder holds none."""
    data = read_run(run).config.get("job")
    if not isinstance(data, dict):
        raise JobError(f"'{run}' is no run of `nestling learn`; name its folder")
    return read_job(data, f"'{run / 'config.json'}'")
