"""Jobs: what a file may say, and that the job says the same again."""

from pathlib import Path

import pytest
import torch

from nestling.core.errors import JobError
from nestling.jobs.job import load_job, read_job

MINIMAL: dict[str, object] = {"model": "mlp", "data": "digits"}


def test_short_forms_mean_the_long_ones() -> None:
    short = read_job({"model": "my:net", "data": "my:data"})
    long = read_job({"model": {"name": "my:net"}, "data": {"function": "my:data"}})
    assert short == long
    assert read_job({"model": "mlp", "data": {"train": "a.csv"}}).data.train == (Path("a.csv"),)


def test_a_job_reads_its_own_data_again() -> None:
    job = read_job(MINIMAL | {"experiences": [[0, 1], [2]], "plan": "p.toml", "epochs": 3})
    assert read_job(job.to_data()) == job


def test_paths_are_relative_to_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(
        'model = "mlp"\nplan = "p.toml"\ndata = { train = "a.csv", test = "/data/b.csv" }\n'
    )
    job = load_job(tmp_path / "job.toml")
    assert job.plan == tmp_path / "p.toml"
    assert (job.data.train, job.data.test) == ((tmp_path / "a.csv",), (Path("/data/b.csv"),))


def test_a_plan_can_stand_in_the_job() -> None:
    level = {"name": "all", "match": ["*"], "period": 2}
    plan = read_job(MINIMAL | {"plan": {"level": [level]}}).build_plan()
    assert plan is not None
    assert plan.gradient_levels[0].period == 2


def test_class_groups_of_a_named_data_set() -> None:
    pytest.importorskip("sklearn")
    first, second = read_job(MINIMAL | {"experiences": [[0, 1], [2, 3]]}).load_experiences()
    assert (first.classes, second.classes) == ((0, 1), (2, 3))
    assert set(second.train[1].tolist()) == {2, 3}


def test_files_one_experience_each(tmp_path: Path) -> None:
    for name, label in (("one", 0), ("two", 1), ("test", 1)):
        (tmp_path / f"{name}.csv").write_text(f"u,label\n0.5,{label}\n0.25,{label}\n")
    data = {"train": ["one.csv", "two.csv"], "test": "test.csv"}
    first, second = read_job({"model": "mlp", "data": data}, folder=tmp_path).load_experiences()
    assert (first.name, first.classes, second.classes) == ("one", (0,), (1,))
    torch.testing.assert_close(first.test[0], second.test[0])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"model": "mlp"}, "'data' is missing"),
        (MINIMAL | {"epohcs": 1}, "did you mean 'epochs'"),
        (MINIMAL | {"model": {"nam": "mlp"}}, "did you mean 'name'"),
        (MINIMAL | {"replay": -1}, "replay: a number of 0 or more works, got -1"),
        (MINIMAL | {"epochs": "two"}, "epochs: a whole number works, got 'two'"),
        (MINIMAL | {"plan": 3}, "plan: a table works, or the path of a file works, got 3"),
        (MINIMAL | {"experiences": []}, "experiences: [] names no class; give lists of classes"),
        (MINIMAL | {"experiences": [[0], []]}, "experiences: group 2 names no class; give lists"),
        (MINIMAL | {"experiences": [[0, 1.5]]}, "experiences.0.1"),
        ([], "job"),
    ],
)
def test_errors_name_key_and_value(data: object, said: str) -> None:
    with pytest.raises(JobError) as caught:
        read_job(data)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("returned", ["math:sqrt", "builtins:list", "builtins:dict"])
def test_a_data_function_must_return_experiences(returned: str) -> None:
    with pytest.raises(JobError, match=r"list of nestling\.data\.Experience|failed"):
        read_job({"model": "mlp", "data": returned}).load_experiences()


def test_the_error_of_a_data_function_says_what_the_list_holds() -> None:
    with pytest.raises(JobError, match="got tuple of str"):
        read_job({"model": "mlp", "data": "sysconfig:get_scheme_names"}).load_experiences()
