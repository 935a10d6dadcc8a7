"""Jobs at the command line, from files to a report."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]

JOB = """
model = "desk_net:make_net"
data = { train = ["a.csv", "b.csv"], test = "test.csv" }
plan = "plan.toml"
epochs = 2
batch_size = 8
num_threads = 1
out = "run"
"""


@pytest.fixture
def job(desk: Path) -> Path:
    (desk / "job.toml").write_text(JOB)
    return desk / "job.toml"


@pytest.mark.usefixtures("job")
def test_learn_writes_a_run_folder(nestling: Run, desk: Path) -> None:
    code, out, err = nestling("learn", "job.toml", "--json", "result.json")
    assert (code, err) == (0, "")
    assert "run/report.html" in out
    for name in ("config.json", "metrics.jsonl", "report.html", "snapshots/after-001"):
        assert (desk / "run" / name).exists()
    lines = (desk / "run" / "metrics.jsonl").read_text().splitlines()
    kinds = {json.loads(line)["kind"] for line in lines}
    assert {"experience", "evaluation", "level", "summary"} <= kinds
    result = json.loads((desk / "result.json").read_text())
    assert 0.0 <= result["summary"]["acc"] <= 1.0
    assert nestling("report", "run")[0] == 0


@pytest.mark.usefixtures("job")
def test_a_second_run_overwrites_nothing(nestling: Run, desk: Path) -> None:
    assert nestling("learn", "job.toml")[0] == 0
    before = (desk / "run" / "metrics.jsonl").read_bytes()
    code, _, err = nestling("learn", "job.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert "--resume" in err
    assert (desk / "run" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs", "epohcs", "did you mean 'epochs'"),
        ("epochs = 2", "epochs = 0", "epochs"),
        ("epochs = 2", 'epochs = "two"', "got 'two'"),
        ("batch_size = 8", "batch_size = -1", "got -1"),
        ('model = "desk_net:make_net"', 'model = "mpl"', "did you mean 'mlp'"),
        ("train =", "trian =", "did you mean 'train'"),
        ('test = "test.csv"', 'test = "gone.csv"', "gone.csv"),
        ('test = "test.csv"', 'test = "test.csv", target = "lable"', "did you mean 'label'"),
        ('test = "test.csv"', 'test = "test.csv", name = "digits"', "exactly one"),
        ('"plan.toml"', '"gone.toml"', "gone.toml"),
        ("num_threads = 1", 'experiences = "given"', "experiences = 'given'"),
        ("num_threads = 1", 'experiences = "some"', "experiences"),
        ('"b.csv"', '"inf.csv"', "inf.csv': inf in line 2, column 'v'"),
        ('"b.csv"', '"void.csv"', "void.csv"),
    ],
)
def test_a_wrong_job_is_one_line_and_writes_nothing(
    nestling: Run, desk: Path, job: Path, old: str, new: str, said: str
) -> None:
    (desk / "inf.csv").write_text("u,v,label\n1,inf,0\n")
    (desk / "void.csv").touch()
    assert old in JOB
    job.write_text(JOB.replace(old, new))
    code, out, err = nestling("learn", "job.toml")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not (desk / "run").exists()


def read_page_and_compute(folder: Path) -> tuple[str, list[dict[str, object]], dict[str, object]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    compute = [record for record in records if record["kind"] == "compute"]
    return (folder / "report.html").read_text(), compute, records[-1]


@pytest.mark.usefixtures("job")
def test_one_test_file_for_several_training_files(nestling: Run, desk: Path) -> None:
    assert nestling("learn", "job.toml")[::2] == (0, "")
    page, _, summary = read_page_and_compute(desk / "run")
    assert "After &#39;a&#39;: " in page
    assert "% of &#39;test.csv&#39; are right." in page
    assert "one accuracy, and what is lost of each experience cannot be told" in page
    for word in ("Kept:", "Lost:", "Learned:", "Worst moments", "Adaptation after each change"):
        assert word not in page
    assert summary["acc"] is not None
    for figure in ("forgetting", "bwt", "steps_to_adapt"):
        assert summary[figure] is None
    # With a test file each, everything is told.
    (desk / "each.toml").write_text(
        JOB.replace('test = "test.csv"', 'test = ["a.csv", "b.csv"]').replace('"run"', '"each"')
    )
    assert nestling("learn", "each.toml")[0] == 0
    page, _, summary = read_page_and_compute(desk / "each")
    assert "Worst moments" in page
    assert "cannot be told" not in page
    assert summary["forgetting"] is not None


@pytest.mark.usefixtures("job")
def test_the_seconds_of_a_memory_are_in_the_report(nestling: Run, desk: Path) -> None:
    (desk / "default.toml").write_text(JOB.replace('plan = "plan.toml"\n', ""))
    assert nestling("learn", "default.toml")[0] == 0
    _, compute, _ = read_page_and_compute(desk / "run")
    seconds = {record["level"]: record["seconds"] for record in compute}
    assert seconds["memory"] > 0.0
