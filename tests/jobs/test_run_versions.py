"""Versions of a run: made at the end of experiences, rolled back level by level, validated."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nestling.core.errors import (
    ClockError,
    CorruptSnapshot,
    NestlingError,
    SettingError,
    UnknownLevel,
    VersionError,
)
from nestling.jobs import run_versions, running
from nestling.jobs.job import Job, read_job
from nestling.jobs.run_position import POSITION, Position, read_position
from nestling.jobs.run_versions import diff_run, read_versions, rollback_run, validate_run
from nestling.jobs.running import run_job
from nestling.learn import Learner
from nestling.ledger.governance_log import GovernanceLog
from nestling.ledger.version_diff import digest_levels
from nestling.ledger.version_log import VERSIONS
from nestling.oversight.saved_versions import open_saved

LEVELS = [
    {"kind": "memory", "name": "facts", "num_features": 20},
    {"name": "head", "match": ["*.2.*"], "optimizer": {"name": "sgd", "lr": 0.05}},
    {"name": "spine", "match": ["*"], "period": 2, "optimizer": {"name": "adamw", "lr": 1e-3}},
    {"kind": "copy", "name": "slow", "of": ["head"]},
]
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


def make_clock(start: float = 100.0) -> Callable[[], float]:
    times = iter(range(1000))
    return lambda: start + next(times)


def make_job(folder: Path, **changes: object) -> Job:
    model = read_job(BASE).build_model()
    head, *_ = [name.rsplit(".", 1)[0] for name, _ in model.named_parameters()][-1:]
    levels = [dict(one) for one in LEVELS]
    levels[1]["match"] = [f"{head}.*"]
    plan = {"level": levels, "readout": {"mix": ["facts", "live"]}}
    return read_job({**BASE, "plan": plan, "out": str(folder), **changes})


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = make_job(tmp_path_factory.mktemp("learned") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "write_report", lambda _: None)
        run_job(job, now=make_clock())
    return job.out


@pytest.fixture
def run(learned: Path, tmp_path: Path) -> Path:
    shutil.copytree(learned, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["job"]["out"] = str(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return tmp_path / "run"


def read_all(run: Path) -> dict[str, bytes]:
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file()
    }


def read_current(run: Path) -> dict[str, str]:
    return digest_levels(open_saved(run / "snapshots" / read_position(run / POSITION).snapshot))


def test_each_experience_is_a_version(run: Path) -> None:
    one, two = read_versions(run).records
    assert (one.id, one.origin, one.snapshot) == ("v0001", "learned", "snapshots/after-000")
    assert (two.parent, two.at) == ("v0001", 101.0)
    assert two.reason.startswith("experience ")
    assert (one.changes, one.since_validation) == ({}, {})
    assert list(two.changes) == ["facts", "head", "spine", "slow"]
    assert all(change > 0.0 for change in two.changes.values())
    assert two.since_validation == two.changes
    assert two.num_examples == 2 * one.num_examples or two.num_examples > one.num_examples
    for record in (one, two):
        assert digest_levels(open_saved(run / record.snapshot)) == record.digests


@pytest.mark.parametrize("stop_at", [2, 5, 9, 12])
def test_a_run_that_goes_on_has_the_same_versions(
    learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    monkeypatch.setattr(running, "write_report", lambda _: None)
    job, count = make_job(tmp_path / "run"), 0

    def kill(_: Position, __: int) -> None:
        nonlocal count
        count += 1
        if count == stop_at:
            raise Killed

    with pytest.raises(Killed):
        run_job(job, progress=kill, now=make_clock())
    # As if it had been killed after the version and before the position.
    if (job.out / VERSIONS).exists():
        with (job.out / VERSIONS).open("a") as file:
            file.write((learned / VERSIONS).read_text().splitlines()[-1] + "\n{half")
        assert len(read_versions(job.out).records) == 1
    run_job(job, resume=True, now=make_clock(200.0))
    found, expected = (
        [dict(one.to_record(), at=0) for one in read_versions(folder).records]
        for folder in (job.out, learned)
    )
    assert found == expected


@pytest.mark.parametrize("level", ["facts", "head", "spine", "slow"])
def test_rollback_puts_one_level_back_and_leaves_the_others(run: Path, level: str) -> None:
    one, two = read_versions(run).records
    record = rollback_run(run, level, "v0001", by="Ada", reason="worse", now=make_clock(300.0))
    assert (record.id, record.origin, record.parent) == ("v0003", "rolled back", "v0002")
    assert record.digests == {**two.digests, level: one.digests[level]}
    assert read_current(run) == record.digests
    assert read_versions(run).latest == record
    assert {name for name, change in record.changes.items() if change > 0.0} == {level}
    assert record.since_validation[level] == 0.0  # it is what it was in the first version
    (event,) = GovernanceLog(run).read()
    assert (event.happening, event.by, event.level, event.version) == (
        "rolled back",
        "Ada",
        level,
        "v0003",
    )
    assert event.undo == f"nestling rollback {run} {level} --to v0002"
    # And undone by what the event says.
    again = rollback_run(run, level, "v0002", now=make_clock(400.0))
    assert again.digests == two.digests == read_current(run)


def test_a_run_goes_on_from_what_was_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "write_report", lambda _: None)
    job = make_job(tmp_path / "run", snapshot_every=1)

    def kill(position: Position, _: int) -> None:
        if position.experience == 1 and position.batch == 3:
            raise Killed

    with pytest.raises(Killed):
        run_job(job, progress=kill, now=make_clock())
    before = read_position(job.out / POSITION)
    assert before.snapshot.startswith("step-")
    stood = digest_levels(open_saved(job.out / "snapshots" / before.snapshot))
    record = rollback_run(job.out, "head", "v0001", now=make_clock(200.0))
    first, stopped, last = read_versions(job.out).records
    # What stood when it was stopped is a version, too: it can be gone back to.
    assert stopped.digests == stood
    assert last == record
    assert last.parent == stopped.id == "v0002"
    assert record.digests == {**stood, "head": first.digests["head"]}
    run_job(job, resume=True, now=make_clock(300.0))
    done = read_versions(job.out)
    assert [one.id for one in done.records] == ["v0001", "v0002", "v0003", "v0004"]
    assert all(
        digest_levels(open_saved(job.out / one.snapshot)) == one.digests for one in done.records
    )


def test_feedback_since_then_is_learned_again_by_that_level_alone(run: Path) -> None:
    one, two = read_versions(run).records
    record = rollback_run(run, "head", "v0001", keep_feedback=True, now=make_clock(300.0))
    assert {name for name in two.digests if record.digests[name] != two.digests[name]} == {"head"}
    assert record.digests["head"] != one.digests["head"]
    assert read_current(run) == record.digests
    assert "learned again by it alone" in GovernanceLog(run).read()[0].message
    before = read_all(run)
    with pytest.raises(SettingError, match="learns nothing from batches by itself"):
        rollback_run(run, "slow", "v0001", keep_feedback=True, now=make_clock(400.0))
    assert read_all(run) == before


def test_a_memory_on_the_live_model_is_refitted_from_replay_or_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "write_report", lambda _: None)
    for replay in (0, 50):
        job = make_job(tmp_path / f"run {replay}", replay=replay, epochs=1)
        plan = job.to_data()["plan"]
        assert isinstance(plan, dict)
        plan["level"][0]["frozen"] = False
        job = make_job(job.out, replay=replay, epochs=1, plan=plan)
        run_job(job, now=make_clock())
        two = read_versions(job.out).latest
        before = read_all(job.out)
        if not replay:
            with pytest.raises(SettingError, match=r"'facts' reads the live model.*replay=200"):
                rollback_run(job.out, "spine", "v0001", now=make_clock(200.0))
            assert read_all(job.out) == before
            continue
        record = rollback_run(job.out, "spine", "v0001", now=make_clock(200.0))
        moved = {name for name in two.digests if record.digests[name] != two.digests[name]}
        assert moved == {"spine", "facts"}
        assert record.digests["spine"] == read_versions(job.out).find("v0001").digests["spine"]


def test_what_cannot_be_rolled_back_is_refused_with_nothing_changed(run: Path) -> None:
    before = read_all(run)

    def refuse(error: type[NestlingError], match: str, level: str, to: str, at: float) -> None:
        with pytest.raises(error, match=match):
            rollback_run(run, level, to, now=lambda: at)
        assert read_all(run) == before

    refuse(UnknownLevel, "no level 'heads'.*did you mean 'head'", "heads", "v0001", 300.0)
    refuse(VersionError, "no version 'v001'.*did you mean 'v0001'", "head", "v001", 300.0)
    refuse(ClockError, "the clock went back: it is 1970-01-01 00:01:40", "head", "v0001", 100.0)
    # A version of another plan.
    path = run / VERSIONS
    lines = path.read_text().splitlines()
    record = json.loads(lines[0])
    other = record | {"plan_digest": "0" * 64}
    path.write_text("\n".join([json.dumps(other), lines[1]]) + "\n")
    position = json.loads((run / POSITION).read_text())
    position["num_version_bytes"] = path.stat().st_size
    (run / POSITION).write_text(json.dumps(position))
    before = read_all(run)
    refuse(VersionError, "v0001 is of another plan .000000000000; now", "head", "v0001", 300.0)
    with pytest.raises(VersionError, match="of another plan"):
        diff_run(run, "v0001", "v0002")
    # A log that says another digest than the files have.
    other = record | {"digests": record["digests"] | {"head": "1" * 64}}
    path.write_text("\n".join([json.dumps(other), lines[1]]) + "\n")
    position["num_version_bytes"] = path.stat().st_size
    (run / POSITION).write_text(json.dumps(position))
    before = read_all(run)
    refuse(VersionError, "where the log says 111111111111", "head", "v0001", 300.0)


def test_a_damaged_file_of_another_level_is_found_before_anything_is_written(run: Path) -> None:
    position = read_position(run / POSITION)
    files = sorted((run / "snapshots" / position.snapshot).glob("*.safetensors"))
    first = {path.name for path in (run / "snapshots" / "after-000").iterdir()}
    largest = max((f for f in files if f.name not in first), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[-1] ^= 1
    largest.write_bytes(content)
    before = read_all(run)
    with pytest.raises(CorruptSnapshot):
        rollback_run(run, "slow", "v0001", now=make_clock(300.0))
    assert read_all(run) == before


@pytest.mark.parametrize("step", ["open_saved", "add_version", "_point_to", "write_position"])
def test_killed_or_failed_in_the_middle_the_old_version_stands(
    run: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    stood, position = read_current(run), read_position(run / POSITION)
    count = len(read_versions(run).records)

    def kill(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(run_versions, step, kill)
    with pytest.raises(Killed):
        rollback_run(run, "head", "v0001", now=make_clock(300.0))
    monkeypatch.undo()
    assert read_position(run / POSITION) == position
    assert read_current(run) == stood
    assert len(read_versions(run).records) == count
    assert GovernanceLog(run).read() == []
    assert rollback_run(run, "head", "v0001", now=make_clock(300.0)).id == "v0003"


def test_validation_starts_the_change_anew(run: Path) -> None:
    with pytest.raises(SettingError, match="name the person"):
        validate_run(run, by=" ")
    two = read_versions(run).latest
    files = set(read_all(run))
    record = validate_run(run, by="Ada", note="looked at 50 cases", now=make_clock(300.0))
    assert (record.id, record.origin, record.by) == ("v0003", "validated", "Ada")
    assert record.snapshot == two.snapshot  # it shares all files
    assert set(read_all(run)) - files == {"governance.jsonl"}
    assert set(record.since_validation.values()) == {0.0}
    (event,) = GovernanceLog(run).read()
    assert (event.happening, event.by, event.version) == ("validated", "Ada", "v0003")
    assert event.figures["since_validation/head"] == two.since_validation["head"]
    rolled = rollback_run(run, "head", "v0001", now=make_clock(400.0))
    assert rolled.since_validation["head"] > 0.0
    assert rolled.since_validation["spine"] == 0.0


def test_diff_says_what_differs(run: Path) -> None:
    rollback_run(run, "head", "v0001", now=make_clock(300.0))
    with (run / "probes.jsonl").open("w") as file:
        for version, value in (("v0001", 0.5), ("v0003", 0.75)):
            line = {"probe": "auc", "view": "spine", "version": version, "value": value}
            file.write(json.dumps(line) + "\n")
    levels, behaviour = diff_run(run, "v0001", "v0003")
    assert {one.level for one in levels if one.is_equal} == {"head"}
    assert behaviour == {"auc/spine": (0.5, 0.75)}
    levels, _ = diff_run(run, "v0002", "v0003")
    found = {one.level: one for one in levels}
    assert {name for name, one in found.items() if not one.is_equal} == {"head"}
    # It went back all the way that it had come.
    assert found["head"].cosine_of_changes == pytest.approx(-1.0)


def test_a_folder_without_a_job_rolls_back_too(run: Path) -> None:
    for name in (POSITION, "config.json"):
        (run / name).unlink()
    one, two = read_versions(run).records
    record = rollback_run(run, "spine", "v0001", now=make_clock(300.0))
    assert record.digests == {**two.digests, "spine": one.digests["spine"]}
    assert digest_levels(open_saved(run / record.snapshot)) == record.digests
    with pytest.raises(SettingError, match="its data are unknown"):
        rollback_run(run, "spine", "v0001", keep_feedback=True, now=make_clock(400.0))
    with pytest.raises(VersionError, match=r"has no versions\.jsonl"):
        read_versions(run / "snapshots")


def test_the_answers_are_those_of_a_live_rollback(run: Path) -> None:
    position = read_position(run / POSITION)
    job = run_versions.read_run_job(run)
    x = job.load_experiences()[0].test[0]

    def make() -> Learner:
        return Learner(job.build_model(), job.build_plan())

    live, restored = make(), make()
    live.restore(run / "snapshots" / position.snapshot)
    live.load_level("spine", open_saved(run / "snapshots" / "after-000").read("spine"))
    record = rollback_run(run, "spine", "v0001", now=make_clock(300.0))
    restored.restore(run / record.snapshot)
    assert torch.equal(live.predict_proba(x), restored.predict_proba(x))
