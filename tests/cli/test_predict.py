"""`nestling predict`: the answers of a run to new rows, and `nestling learn` on plain tables."""

import csv
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nestling.cli.main import run_command

pytest.importorskip("sklearn")

Run = Callable[..., tuple[int, str, str]]


def write_people(path: Path, count: int, seed: int, target: bool = True) -> list[str]:
    """Who is a member depends on a number, a word and a date, with blanks among them."""
    draw, labels = random.Random(seed), []
    lines = ["age,job,since" + (",member" if target else "")]
    for _ in range(count):
        age, job, month = draw.uniform(20, 60), draw.choice(["clerk", "smith"]), draw.randint(1, 12)
        labels.append("yes" if (age > 40) == (job == "clerk") else "no")
        shown = "?" if draw.random() < 0.05 else f"{age:.1f}"
        row = [shown, job, f"2024-{month:02d}-01"] + ([labels[-1]] if target else [])
        lines.append(",".join(row))
    path.write_text("\n".join(lines) + "\n")
    return labels


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the command has learned once for all tests."""
    folder = tmp_path_factory.mktemp("learned")
    write_people(folder / "people.csv", 400, seed=0)
    write_people(folder / "later.csv", 100, seed=1)
    files = [str(folder / name) for name in ("people.csv", "later.csv", "run", "learned.json")]
    words = [files[0], "--target", "member", "--test", files[1], "--out", files[2]]
    assert run_command(["learn", *words, "--json", files[3]]) == 0
    return folder


@pytest.fixture
def run(learned: Path, desk: Path) -> Path:
    shutil.copytree(learned, desk, dirs_exist_ok=True)
    return desk / "run"


def read_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_predict_answers_as_the_run_did(nestling: Run, desk: Path, run: Path) -> None:
    labels = write_people(desk / "later.csv", 100, seed=1)
    code, out, err = nestling("predict", "run", "later.csv", "--out", "answers.csv")
    assert (code, err) == (0, "")
    assert "answers.csv" in out
    rows = read_rows((desk / "answers.csv").read_text())
    assert list(rows[0]) == ["member", "p(no)", "p(yes)"]
    learned = json.loads((desk / "learned.json").read_text())["summary"]["acc"]
    hits = sum(row["member"] == label for row, label in zip(rows, labels, strict=True))
    assert hits / len(labels) == learned
    assert learned > 0.8
    for row in rows:
        no, yes = float(row["p(no)"]), float(row["p(yes)"])
        assert no + yes == pytest.approx(1, abs=1e-4)
        assert row["member"] == ("yes" if yes > no else "no")
    # Neither the target nor the order of columns is needed; without --out it goes to stdout.
    lines = [line.split(",") for line in (desk / "later.csv").read_text().split()]
    bare = "\n".join(f"{since},{age},{job}" for age, job, since, _ in lines) + "\n"
    (desk / "bare.csv").write_text(bare)
    code, out, err = nestling("predict", "run", "bare.csv", "--json", "answers.json")
    assert (code, err, read_rows(out)) == (0, "", rows)
    data = json.loads((desk / "answers.json").read_text())
    assert (data["classes"], data["answers"]) == (["no", "yes"], [row["member"] for row in rows])


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("run", "gone.csv"), "no file 'gone.csv'"),
        (("gone", "later.csv"), "no run in 'gone'"),
        (("run", "empty.csv"), "is empty"),
        (("run", "header.csv"), "no rows"),
        (("run", "other.csv"), "lacks the column 'age' and has an unknown column 'aeg'"),
        (("run", "text.csv"), "text ('old' in line 2)"),
        (("run", "x.npz"), "the run learned columns"),
        (("run", "later.csv", "--out", "no/such/\0"), ""),
        (("run",), "FILE"),
    ],
)
def test_wrong_input_is_one_line(
    nestling: Run, desk: Path, args: tuple[str, ...], said: str
) -> None:
    (desk / "empty.csv").touch()
    (desk / "header.csv").write_text("age,job,since\n")
    (desk / "other.csv").write_text("aeg,job,since\n30,clerk,2024-01-01\n")
    (desk / "text.csv").write_text("age,job,since\nold,clerk,2024-01-01\n")
    np.savez(desk / "x.npz", x=np.ones((2, 3)))
    if "\0" in args[-1]:
        args = (*args[:-1], "later.csv/answers.csv")
    code, out, err = nestling("predict", *args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_run_that_was_stopped_uses_the_encoding_it_began_with(
    nestling: Run, desk: Path, learned: Path
) -> None:
    run = shutil.copytree(learned / "run", desk / "run")
    # Marked, so that an encoding fitted anew would show.
    kept = json.loads((run / "encoding.json").read_text())
    kept["columns"][0]["means"] = [41.0]
    (run / "encoding.json").write_text(json.dumps(kept))
    files = [str(learned / name) for name in ("people.csv", "later.csv")]
    words = (files[0], "--target", "member", "--test", files[1], "--out", "run")
    config = json.loads((run / "config.json").read_text())
    config["job"]["out"] = "run"
    (run / "config.json").write_text(json.dumps(config))
    assert nestling("learn", *words, "--resume")[::2] == (0, "")
    assert json.loads((run / "encoding.json").read_text()) == kept
    (run / "encoding.json").unlink()
    code, _, err = nestling("predict", "run", files[1])
    assert (code, err.count("\n")) == (2, 1)
    assert "encoding.json" in err


def test_classes_of_experiences_can_be_named(nestling: Run, desk: Path) -> None:
    rows = "".join(f"{at % 3},{('cat', 'dog', 'wolf')[at % 3]}\n" for at in range(60))
    (desk / "pets.csv").write_text("a,label\n" + rows)
    job = 'data = { train = "pets.csv", test = "pets.csv" }\nout = "run"\n'
    (desk / "job.toml").write_text(job + 'experiences = [["wolf", "cat"], ["dog"]]\n')
    assert nestling("learn", "job.toml")[::2] == (0, "")
    said = (desk / "run" / "metrics.jsonl").read_text()
    assert '"name": "classes wolf cat"' in said
    (desk / "job.toml").write_text(job.replace("run", "b") + 'experiences = [["wulf"], ["dog"]]\n')
    code, _, err = nestling("learn", "job.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean 'wolf'" in err


def test_a_model_of_another_width_is_told_its_inputs(nestling: Run, desk: Path) -> None:
    (desk / "text.csv").write_text("u,v,label\n" + "1,red,0\n2,blue,1\n" * 10)
    job = 'model = "desk_net:make_net"\nout = "run"\n'
    (desk / "job.toml").write_text(job + 'data = { train = "text.csv", test = "text.csv" }\n')
    code, _, err = nestling("learn", "job.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert "4 inputs: ['u', 'v = blue', 'v = red', 'v: other']" in err


def test_values_come_in_the_units_of_the_file(nestling: Run, desk: Path) -> None:
    draw = random.Random(0)
    rows = [(draw.gauss(0, 1), draw.choice(["north", "south"])) for _ in range(300)]
    prices = [200000 + 30000.5 * a + (50000 if b == "north" else 0) for a, b in rows]
    lines = [f"{a},{b},{price}" for (a, b), price in zip(rows, prices, strict=True)]
    (desk / "houses.csv").write_text("\n".join(["size,place,price", *lines]) + "\n")
    assert nestling("learn", "houses.csv", "--target", "price", "--out", "run")[0] == 0
    code, out, _ = nestling("predict", "run", "houses.csv")
    found = [float(row["price"]) for row in read_rows(out)]
    spread = np.std(prices)
    assert code == 0
    assert np.sqrt(np.mean(np.subtract(found, prices) ** 2)) < 0.2 * spread
    held_out = (desk / "run" / "held-out.csv").read_text()
    assert len(read_rows(held_out)) == 60
    assert set(held_out.split()[1:]) < set(lines), "cells as they were read"


def test_arrays_are_answered_too(nestling: Run, desk: Path) -> None:
    x = np.random.default_rng(0).normal(size=(200, 2))
    np.savez(desk / "train.npz", x=x, label=(x[:, 0] > 0).astype(int))
    np.savez(desk / "new.npz", x=x[:10])
    assert nestling("learn", "train.npz", "--target", "label", "--out", "run")[0] == 0
    code, out, _ = nestling("predict", "run", "new.npz")
    assert code == 0
    assert list(read_rows(out)[0]) == ["label", "p(0)", "p(1)"]
    code, _, err = nestling("predict", "run", "a.csv")
    assert (code, err.count("\n")) == (2, 1)
    assert "give .npz" in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("a.csv",), "--target"),
        (("a.csv", "--target", "lable"), "did you mean 'label'"),
        (("job.toml", "--target", "label"), "go with a table"),
    ],
)
def test_a_table_needs_its_target_alone(
    nestling: Run, desk: Path, args: tuple[str, ...], said: str
) -> None:
    code, out, err = nestling("learn", *args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
