"""A run that is stopped and goes on ends in the same bits as one that is not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.core.errors import JobError
from nestling.data import Experience
from nestling.jobs import running
from nestling.jobs.job import Job, read_job
from nestling.jobs.run_position import Position
from nestling.jobs.running import run_job
from nestling.learn import Learner

BASE: dict[str, object] = {
    "model": {"name": "mlp", "options": {"sizes": [64, 16, 4]}},
    "data": "digits",
    "experiences": [[0, 1], [2, 3]],
    "batch_size": 64,
    "epochs": 2,
    "num_threads": 1,
    "snapshot_every": 3,
}


class Killed(BaseException):
    """As if the process had been killed: nothing catches it."""


def make_job(folder: Path, **changes: object) -> Job:
    return read_job(BASE | {"out": str(folder)} | changes)


def read_end(job: Job) -> dict[str, torch.Tensor]:
    """Weights at the end of the run, and what memories and network then answer together."""
    learner = Learner(job.build_model(), job.build_plan(), replay=job.replay)
    learner.restore(job.out / "snapshots" / "after-001")
    x, _ = job.load_experiences()[0].test
    return {**learner.model.state_dict(), "answer": learner.predict_proba(x)}


def read_records(folder: Path) -> list[dict[str, object]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if "seconds" not in k} for record in records]


def run_until(job: Job, stop_at: int, *, resume: bool = False) -> None:
    count = 0

    def kill(_: Position, __: int) -> None:
        nonlocal count
        count += 1
        if count == stop_at:
            raise Killed

    run_job(job, resume=resume, progress=kill)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = make_job(tmp_path_factory.mktemp("whole") / "run")
    run_job(job)
    return job


@settings(max_examples=5)
@given(stop_at=st.integers(1, 16))
def test_stopped_and_resumed_gives_the_same_bits(
    whole: Job, tmp_path_factory: pytest.TempPathFactory, stop_at: int
) -> None:
    job = make_job(tmp_path_factory.mktemp("stopped") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "write_report", lambda _: None)  # pictures, each time anew
        with pytest.raises(Killed):
            run_until(job, stop_at)
        run_job(job, resume=True)
    expected, found = read_end(whole), read_end(job)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert read_records(job.out) == read_records(whole.out)


def test_every_epoch_experience_and_seed_has_an_order_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[tuple[int, ...], bool]] = []
    asked: set[tuple[str, tuple[int, ...]]] = set()
    x, y = torch.arange(24.0)[:, None].repeat(1, 64), torch.arange(24) % 2
    made = [
        Experience(name, (x, y + k), (x, y + k), (k, k + 1)) for name, k in (("a", 0), ("b", 2))
    ]
    learn = Learner.learn

    def note(self: Learner, x: torch.Tensor, *rest: object, **options: object) -> object:
        given.append((tuple(x[:, 0].int().tolist()), bool(options["again"])))
        return learn(self, x, *rest, **options)  # type: ignore[arg-type]

    def score(_: Learner, one: Experience, classes: list[int]) -> float:
        asked.add((one.name, tuple(classes)))
        return 0.5

    monkeypatch.setattr(Learner, "learn", note)
    monkeypatch.setattr(running, "score", score)
    monkeypatch.setattr(running, "write_report", lambda _: None)
    load = Job.load_data
    monkeypatch.setattr(
        Job, "load_data", lambda job, kept=None: replace(load(job, kept), experiences=made)
    )
    orders = set()
    for seed in (0, 1):
        given.clear()
        run_job(make_job(tmp_path / f"run {seed}", batch_size=8, seed=seed, snapshot_every=0))
        assert [again for _, again in given] == 2 * (3 * [False] + 3 * [True])
        rows = [row for batch, _ in given for row in batch]
        for start in range(0, 96, 24):
            one = tuple(rows[start : start + 24])
            assert sorted(one) == list(range(24))
            orders.add(one)
    assert len(orders) == 8
    # Scored on what was met, among the classes met, never on what is to come.
    assert asked == {("a", (0, 1)), ("a", (0, 1, 2, 3)), ("b", (0, 1, 2, 3))}


def test_drifts_are_written_to_the_record(tmp_path: Path) -> None:
    """New classes are a drift: they are wrong until they are learned."""
    level = {"name": "all", "match": ["*"], "freeze": {"until": "drift"}}
    watch = {"kind": "watch", "name": "shift", "detector": "hddm_average"}
    job = make_job(tmp_path / "run", plan={"level": [level, watch]}, epochs=1)
    run_job(job)
    drifts = [record for record in read_records(job.out) if record["kind"] == "drift"]
    assert drifts
    assert drifts[0]["level"] == "shift"
    assert "the error rose" in str(drifts[0]["message"])


def test_another_job_in_the_same_folder_is_refused(whole: Job) -> None:
    with pytest.raises(JobError, match="different: epochs"):
        run_job(whole.model_copy(update={"epochs": 3}), resume=True)


def test_a_folder_with_a_run_is_not_overwritten(whole: Job) -> None:
    with pytest.raises(JobError, match="--resume"):
        run_job(whole)


def test_nothing_is_written_when_the_job_is_wrong(tmp_path: Path) -> None:
    job = make_job(tmp_path / "run", plan=str(tmp_path / "gone.toml"))
    with pytest.raises(Exception, match=r"gone\.toml"):
        run_job(job)
    assert not job.out.exists()


@pytest.mark.parametrize("there", ["nothing", "folder", "notes"])
def test_a_job_that_fails_before_its_first_step_leaves_nothing(
    tmp_path: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs" / "one"
    if there != "nothing":
        out.mkdir(parents=True)
    if there == "notes":
        (out / "notes.txt").write_text("mine")
    wrong = make_job(out, model={"name": "mlp", "options": {"sizes": [63, 16, 4]}})
    with pytest.raises(Exception, match="63"):
        run_job(wrong)
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert (
        left
        == {"nothing": [], "folder": ["one", "runs"], "notes": ["notes.txt", "one", "runs"]}[there]
    )
    run_job(make_job(out, epochs=1, experiences=[[0, 1]]))  # the corrected job is not blocked
    assert (out / "report.html").is_file()
    if there != "nothing":
        return
    # A run that has recorded something keeps it, whatever then fails.
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(Learner, "learn", lambda *_, **__: 1 / 0)
    with pytest.raises(JobError):
        run_job(make_job(out))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_run_stopped_by_hand_before_its_first_record_leaves_nothing(tmp_path: Path) -> None:
    def stop(_: Position, __: int) -> None:
        raise KeyboardInterrupt

    job = make_job(tmp_path / "run", evaluate_every=5)
    with pytest.raises(KeyboardInterrupt):
        run_job(job, progress=stop)
    assert not job.out.exists()


def test_only_the_newest_step_snapshot_stays(whole: Job) -> None:
    names = sorted(path.name for path in (whole.out / "snapshots").iterdir())
    assert names == ["after-000", "after-001"]
