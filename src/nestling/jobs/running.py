"""Running a job: learn its experiences in order, measure, and be able to go on after a stop."""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from nestling.core.errors import DataError, JobError
from nestling.core.machine import fingerprint, use_threads
from nestling.data import Experience
from nestling.jobs.job import Job
from nestling.jobs.kept_encoding import ENCODING, read_encoding, write_encoding, write_rows
from nestling.jobs.run_position import (
    POSITION,
    Position,
    read_object,
    read_position,
    write_position,
)
from nestling.jobs.run_versions import record_learned
from nestling.jobs.scoring import (
    describe_compute,
    describe_level,
    is_one_test,
    leave_out_differences,
    list_batches,
    score,
    summarize,
)
from nestling.learn.learner import Learner
from nestling.ledger.version_log import VersionLog
from nestling.levels import Alarm, DriftAlarm, Event
from nestling.report import RunWriter, read_run, write_report

NUM_LOOKS = 10  # evaluations within an experience, if the job does not say
METRICS = "metrics.jsonl"
HELD_OUT = "held-out.csv"


Progress = Callable[[Position, int], None]


def run_job(
    job: Job,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    now: Callable[[], float] = time.time,
) -> Path:
    """Learn a job's experiences in order and write the run folder.

    The folder holds config.json, encoding.json, metrics.jsonl, versions.jsonl (a version at the
    end of each experience), snapshots/ and report.html, and held-out.csv where no test file was
    given. A run that was stopped goes on from its last
    snapshot and gives the same weights as one that was not.

    Args:
        job: what to do.
        resume: go on with the run in `job.out`; start anew if there is none.
        progress: called after every step with the position and the batches of the experience.
        now: seconds since 1970, UTC, for the versions.

    Returns: the run folder.

    Raises:
        JobError: the folder holds a run already, or one of another job.
        NestlingError: whatever is wrong with model, data or plan; nothing is written then, nor if
            the first step fails.
    """
    with use_threads(job.num_threads):
        has_kept = resume and (job.out / ENCODING).exists()
        data = job.load_data(read_encoding(job.out) if has_kept else None)
        job = job.complete(data)
        plan, model = job.build_plan(), job.build_model()
        learner = Learner(
            model,
            plan,
            pretrained=job.pretrained,
            replay=job.replay,
            seed=job.seed,
        )
        start = _open_folder(job, resume)
        if start.snapshot:
            learner.restore(job.out / "snapshots" / start.snapshot)
        config = {"job": job.to_data(), "machine": fingerprint(), "num_threads": job.num_threads}
        made = _list_missing(job.out)
        writer = RunWriter(job.out, config)
        try:
            write_encoding(job.out, data.encoding)
            if data.held_out:
                write_rows(job.out / HELD_OUT, data.held_out)
            run = _Run(job, data.experiences, learner, writer, start, now)
            try:
                run.learn_all(progress)
            except DataError as error:
                if run.position.num_seen or not data.encoding.columns:
                    raise
                # Most likely a model that was made for the columns as they stood in the file.
                names = data.encoding.list_inputs()
                shown = names if len(names) <= 12 else [*names[:12], "..."]
                raise type(error)(
                    f"{error}; the table gives {len(names)} inputs: {shown}"
                ) from error
        except (Exception, KeyboardInterrupt):
            writer.close()
            _clear_empty(job.out, made)
            raise
        finally:
            writer.close()
    write_report(job.out)
    return job.out


class _Run:
    """One run in the making: the learner, where it stands, and what is written."""

    def __init__(
        self,
        job: Job,
        experiences: Sequence[Experience],
        learner: Learner,
        writer: RunWriter,
        start: Position,
        now: Callable[[], float],
    ) -> None:
        self.job = job
        self.experiences = experiences
        self.learner = learner
        self.writer = writer
        self.position = start
        self.now = now
        self.versions = VersionLog(job.out, num_bytes=start.num_version_bytes)
        self.readings = learner.read_levels()
        self.one_test = is_one_test(experiences)

    def learn_all(self, progress: Progress | None) -> None:
        for index in range(self.position.experience, len(self.experiences)):
            self._learn_one(index, progress)
        self._write_summary()

    def _learn_one(self, index: int, progress: Progress | None) -> None:
        experience, job = self.experiences[index], self.job
        x, y = experience.train
        num_batches = job.epochs * -(-len(x) // job.batch_size)
        look_every = job.evaluate_every or max(1, num_batches // NUM_LOOKS)
        if index and self.position.batch == 0:  # before the first nothing can answer yet
            self._evaluate(during=index)
        batches = list_batches(
            len(x), epochs=job.epochs, batch_size=job.batch_size, seed=job.seed, index=index
        )
        for number, rows in enumerate(batches, start=1):
            if number <= self.position.batch:
                continue
            is_new = number <= num_batches // job.epochs
            started = time.perf_counter()
            # As `Learner.fit` does: memories see an example once, in the first epoch.
            report = self.learner.learn(x[rows], y[rows], task=experience.task, again=not is_new)
            self._note(report.events)
            self.position = replace(
                self.position,
                batch=number,
                num_seen=self.position.num_seen + len(rows),
                seconds=self.position.seconds + time.perf_counter() - started,
            )
            if number % look_every == 0 and number < num_batches:
                self._evaluate(during=index)
            if job.snapshot_every and number % job.snapshot_every == 0 and number < num_batches:
                self._save(f"step-{self.position.num_seen:09d}")
            if progress is not None:
                progress(self.position, num_batches)
        self.learner.end_experience()
        self._evaluate(during=index, is_last=True)
        record: dict[str, object] = {
            "index": index,
            "name": experience.name,
            "num_examples": len(x),
            "seconds": self.position.seconds,
        }
        if self.one_test:
            files = self.job.data.test
            record["test"] = files[0].name if files else "the one test set"
        self.writer.write("experience", record)
        self.position = replace(self.position, experience=index + 1, batch=0)
        self._save(f"after-{index:03d}", experience.name)

    def _evaluate(self, during: int, is_last: bool = False) -> None:
        """Accuracy on every experience met so far, and how the levels stand."""
        met = self.experiences[: during + 1]
        classes = sorted({label for one in met for label in one.classes})
        record = {
            "method": "nestling",
            "seed": self.job.seed,
            "after": during if is_last else None,
            "during": during,
            "step": self.position.num_seen,
            "accuracies": self._score(met, classes),
        }
        self.writer.write("evaluation", record)
        self.readings = self.learner.read_levels()
        for reading in self.readings:
            self.writer.write("level", self._sign(describe_level(reading, self.position.num_seen)))
        if self.learner.optimizer is not None:  # a reading may sound an alarm
            self._note(self.learner.optimizer.take_events())

    def _score(self, met: Sequence[Experience], classes: Sequence[int]) -> dict[str, float]:
        if self.one_test:
            return dict.fromkeys([one.name for one in met], score(self.learner, met[0], classes))
        return {one.name: score(self.learner, one, classes) for one in met}

    def _note(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Alarm):
                self.writer.write("alarm", self._sign(asdict(event)))
            if isinstance(event, DriftAlarm):
                self.writer.write("drift", self._sign(asdict(event)))

    def _sign(self, record: dict[str, object]) -> dict[str, object]:
        return {"method": "nestling", "seed": self.job.seed} | record

    def _save(self, name: str, experience: str = "") -> None:
        """Snapshot first, then the position that points to it; older ones between go last.

        Args:
            name: of the snapshot's folder.
            experience: that has ended, of which this is a version; empty on the way.
        """
        folder = self.job.out / "snapshots"
        self.learner.snapshot(folder / name)
        if experience:
            num_seen = self.position.num_seen
            record_learned(self.versions, self.learner, name, experience, num_seen, self.now())
        self.position = replace(
            self.position,
            snapshot=name,
            num_bytes=(self.job.out / METRICS).stat().st_size,
            num_version_bytes=self.versions.num_bytes,
        )
        write_position(self.job.out, self.position)
        for old in folder.glob("step-*"):
            if old.name != name:
                shutil.rmtree(old)

    def _write_summary(self) -> None:
        for reading in self.readings:
            self.writer.write("compute", self._sign(describe_compute(reading)))
        records = read_run(self.job.out).records
        evaluations = [record for record in records if record["kind"] == "evaluation"]
        record = summarize(evaluations, [one.name for one in self.experiences])
        if self.one_test:
            record = leave_out_differences(record)
        seconds = self.position.seconds / max(1, self.position.num_seen)
        self.writer.write("summary", self._sign(record) | {"seconds_per_example": seconds})


def _list_missing(folder: Path) -> list[Path]:
    """What is not there of a run's files, folder and the folders around it, in order of removal."""
    inside = [folder / name for name in (METRICS, "config.json", ENCODING, HELD_OUT)]
    return [path for path in (*inside, folder, *folder.parents) if not path.exists()]


def _clear_empty(folder: Path, made: Sequence[Path]) -> None:
    """Take away what a run has made that recorded nothing: it would block the corrected job."""
    metrics = folder / METRICS
    has_records = not metrics.exists() or metrics.stat().st_size > 0
    if has_records or folder / "config.json" not in made or (folder / "snapshots").exists():
        return
    for path in made:
        if path.is_file():
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _open_folder(job: Job, resume: bool) -> Position:
    """Make sure that nothing is overwritten; drop what came after the last snapshot."""
    config = job.out / "config.json"
    if not config.exists():
        return Position()
    if not resume:
        raise JobError(
            f"'{job.out}' already holds a run; go on with --resume, or name another folder (out)"
        )
    before, now = read_object(config).get("job"), job.to_data()
    if not isinstance(before, dict) or before != now:
        known = before if isinstance(before, dict) else {}
        changed = sorted(key for key in {*known, *now} if known.get(key) != now.get(key))
        raise JobError(
            f"'{job.out}' holds a run of another job (different: {', '.join(changed)}); "
            "name another folder (out)"
        )
    metrics, position = job.out / METRICS, job.out / POSITION
    start = Position()
    if position.exists():
        start = read_position(position)
    if metrics.exists():
        os.truncate(metrics, start.num_bytes)
    return start
