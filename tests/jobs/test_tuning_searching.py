import json
from pathlib import Path

import pytest
import torch

from nestling.core.errors import JobError, NestlingError, SettingError
from nestling.data import Experience
from nestling.jobs.tune import load_tune_job, searching, tune
from nestling.levels import Plan

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")

JOB = """
model = { name = "mlp", options = { sizes = [64, 16, 10] } }
data = "digits"
experiences = [[0, 1], [2, 3]]
num_threads = 1
batch_size = 32
out = "%s"
[plan]
level = [{ name = "net", match = ["*"], optimizer = { name = "sgd", lr = 0.1 } }]
[tune]
num_seeds = 1
num_trials = 4
[tune.space]
"net.optimizer.lr" = { low = 0.001, high = 1.0, log = true }
"net.period" = [1, 2]
"""


def write_job(folder: Path, text: str = JOB, out: str = "run") -> Path:
    path = folder / "job.toml"
    path.write_text(text % (folder / out), encoding="utf-8")
    return path


def read_points(out: Path) -> list[object]:
    trials = json.loads((out / "trials.json").read_text())["trials"]
    return [(one["number"], one["knobs"], one["point"]) for one in trials]


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not(tmp_path, monkeypatch) -> None:
    whole = tune(load_tune_job(write_job(tmp_path)))
    run_trial, num_run = searching.run_trial, 0

    def stop_in_the_third(*args):
        nonlocal num_run
        num_run += 1
        if num_run == 3:
            raise KeyboardInterrupt
        return run_trial(*args)

    job = load_tune_job(write_job(tmp_path, out="other"))
    with monkeypatch.context() as patch:
        patch.setattr(searching, "run_trial", stop_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            tune(job)
    assert len(read_points(tmp_path / "other")) == 2
    again = tune(job)
    assert read_points(tmp_path / "other") == read_points(tmp_path / "run")
    assert (again.front, again.chosen, again.tested) == (whole.front, whole.chosen, whole.tested)


def test_what_is_written_holds_what_was_found(tmp_path) -> None:
    found = tune(load_tune_job(write_job(tmp_path)))
    out = tmp_path / "run"
    assert Plan.load(out / "plan.toml") == found.plan
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    front = json.loads((out / "front.json").read_text())
    assert [one["number"] for one in front["front"]] == found.front
    assert front["chosen"] == found.chosen
    assert found.trials[0].knobs == {}
    best = max(found.trials[number].point.acc for number in found.front)
    assert found.trials[found.chosen].point.acc == best
    assert best > 0.25  # better than chance, though plain SGD forgets


def test_test_examples_are_not_looked_at_before_the_end() -> None:
    x, y = torch.arange(40.0)[:, None], torch.arange(40) % 4
    given = Experience("one", (x, y), (x + 100, y), (0, 1, 2, 3))
    inner = searching.hold_out(given, 0.2)
    assert len(inner.train[0]) == 32
    assert inner.test[1].bincount().tolist() == [2] * 4
    joined = torch.cat([inner.train[0], inner.test[0]]).flatten().sort().values
    assert torch.equal(joined, x.flatten())
    targets = searching.hold_out(Experience("one", (x, x), (x, x), ()), 0.25)
    assert (len(targets.train[0]), len(targets.test[0])) == (30, 10)
    with pytest.raises(JobError, match="too few"):
        searching.hold_out(Experience("one", (x[:4], y[:4]), (x, y), (0, 1, 2, 3)), 0.2)


def test_what_a_plan_is_judged_by(tmp_path, monkeypatch) -> None:
    """Retention is of all but the newest, adaptation of the newest alone while it is learned."""
    told: list[tuple[object, ...]] = []

    class Told:
        def __init__(self, *_: object, **__: object) -> None: ...

        def learn(self, x, y, *, task, again) -> None:  # noqa: ARG002
            told.append(("learn", sorted(set(y.tolist())), again))

        def end_experience(self) -> None:
            told.append(("end",))

    def score(learner, one, classes) -> float:
        told.append(("score", one.name, tuple(classes)))
        has_ended = sum(entry == ("end",) for entry in told) == 3
        return {"a": 0.2, "b": 0.6, "c": 0.9}[one.name] if has_ended else 0.5

    monkeypatch.setattr(searching, "Learner", Told)
    monkeypatch.setattr(searching, "score", score)
    made = []
    for number, name in enumerate("abc"):
        y = torch.arange(32) % 2 + 2 * number
        made.append(
            Experience(
                name,
                (torch.zeros(32, 64), y),
                (torch.zeros(4, 64), y[:4]),
                (2 * number, 2 * number + 1),
            )
        )
    tune_job = load_tune_job(write_job(tmp_path, JOB.replace("batch_size = 32", "batch_size = 16")))
    job = tune_job.job.model_copy(update={"epochs": 2})
    point = searching.run_plan(job, tune_job.plan, made, 0)
    assert point.retention == pytest.approx(0.4)
    assert point.adaptation == pytest.approx(0.5)
    assert point.acc == pytest.approx(1.7 / 3)
    ends = [place for place, entry in enumerate(told) if entry == ("end",)]
    first, second = told[: ends[0]], told[ends[0] + 1 : ends[1]]
    assert first == [("learn", [0, 1], False)] * 2 + [("learn", [0, 1], True)] * 2
    # Looked at after each batch (5 looks, 4 batches), among what was met by then, never before.
    looked = ("score", "b", (0, 1, 2, 3))
    assert second == [
        *2 * [("learn", [2, 3], False), looked],
        *2 * [("learn", [2, 3], True), looked],
    ]
    assert told[ends[2] + 1 :] == [("score", name, tuple(range(6))) for name in "abc"]


def test_a_trial_is_the_mean_of_seeds_that_follow_the_jobs_own(tmp_path, monkeypatch) -> None:
    seeds = []

    def run_plan(job, plan, experiences, seed):
        seeds.append(seed)
        return searching.Point(retention=0.1 * seed, adaptation=0.2 * seed, acc=0.3 * seed)

    monkeypatch.setattr(searching, "run_plan", run_plan)
    text = JOB.replace("num_seeds = 1", "num_seeds = 3").replace("[plan]", "seed = 1\n[plan]")
    found = searching.run_trial(load_tune_job(write_job(tmp_path, text)), 0, {}, [])
    assert seeds == [1, 2, 3]
    assert found.accs == pytest.approx([0.3, 0.6, 0.9])
    assert found.point is not None
    assert found.point.adaptation == pytest.approx(0.4)


def test_a_plan_that_fails_does_not_stop_the_search(tmp_path, monkeypatch) -> None:
    run_plan = searching.run_plan

    def fail_at_large_rates(job, plan, experiences, seed):
        if plan.gradient_levels[0].period == 2:
            raise SettingError("no period 2 today")
        return run_plan(job, plan, experiences, seed)

    text = JOB.replace("num_trials = 4", "num_trials = 6")
    with monkeypatch.context() as patch:
        patch.setattr(searching, "run_plan", fail_at_large_rates)
        found = tune(load_tune_job(write_job(tmp_path, text)))
        failures = [one for one in found.trials if one.failure]
        assert 0 < len(failures) < 6
        assert all(one.failure == "SettingError: no period 2 today" for one in failures)
        assert not {one.number for one in failures} & set(found.front)

    def fail(*_):
        raise SettingError("never")

    monkeypatch.setattr(searching, "run_plan", fail)
    with pytest.raises(JobError, match=r"none of 4 plans.*never"):
        tune(load_tune_job(write_job(tmp_path, out="failing")))


def test_another_search_in_the_folder_is_refused(tmp_path) -> None:
    tune(load_tune_job(write_job(tmp_path, JOB.replace("num_trials = 4", "num_trials = 2"))))
    before = read_points(tmp_path / "run")
    other = load_tune_job(write_job(tmp_path, JOB.replace("[1, 2]", "[1, 4]")))
    with pytest.raises(JobError, match=r"another search .*knobs"):
        tune(other)
    assert read_points(tmp_path / "run") == before
    (tmp_path / "run" / "trials.json").write_text("{")
    with pytest.raises(JobError, match="damaged"):
        tune(load_tune_job(write_job(tmp_path)))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("num_trials", "num_trails", "num_trials"),
        ("num_trials = 4", "num_trials = 1", "num_trials"),
        ("net.period", "network.period", "net"),
        ("[[0, 1], [2, 3]]", '"one"', "single experience"),
        ("model =", "modle =", "model"),
        ("[tune]\n", "tune = 3\n[tun]\n", "tune"),
    ],
)
def test_a_job_that_is_none(tmp_path, old: str, new: str, said: str) -> None:
    with pytest.raises(NestlingError, match=said):
        tune(load_tune_job(write_job(tmp_path, JOB.replace(old, new))))
    assert not (tmp_path / "run").exists()


def test_without_a_table_the_defaults_are_searched(tmp_path) -> None:
    text = JOB.split("[plan]")[0]
    job = load_tune_job(write_job(tmp_path, text))
    assert job.settings.num_trials == 40
    assert [knob.name for knob in job.knobs] == [
        "memory.half_lives",
        "network.optimizer.lr",
        "network.period",
    ]
