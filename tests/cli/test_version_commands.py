"""`nestling versions`, `diff`, `rollback`, `validate`: what changed in a run, and undoing it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nestling.cli.main import run_command
from nestling.ledger.governance_log import GovernanceLog

Run = Callable[..., tuple[int, str, str]]

JOB = """
model = "desk_net:make_net"
plan = "plan.toml"
out = "run"
batch_size = 8
data = { train = ["a.csv", "b.csv"], test = "test.csv" }
"""


@pytest.fixture
def run(desk: Path) -> Path:
    (desk / "job.toml").write_text(JOB)
    assert run_command(["learn", "job.toml"]) == 0
    return desk / "run"


def test_versions_lists_what_changed(nestling: Run, run: Path) -> None:
    code, out, err = nestling("versions", "run", "--json", "versions.json")
    assert (code, err) == (0, "")
    assert out.count("learned") == 2
    assert "experience a" in out
    assert "head " in out.split("v0002")[1]
    found = json.loads(Path("versions.json").read_text())
    assert [one["id"] for one in found] == ["v0001", "v0002"]
    assert found[1]["changes"].keys() == {"head", "spine", "slow"}


def test_rollback_and_back_again(nestling: Run, run: Path) -> None:
    words = ("--by", "Ada", "--reason", "worse on b", "--json", "rolled.json")
    code, out, err = nestling("rollback", "run", "head", "--to", "v0001", *words)
    assert (code, err) == (0, "")
    assert "v0003: level head is as in v0001" in out
    assert "undo: nestling rollback run head --to v0002" in out
    rolled = json.loads(Path("rolled.json").read_text())
    assert (rolled["by"], rolled["reason"], rolled["parent"]) == ("Ada", "worse on b", "v0002")
    code, out, _ = nestling(
        "diff", "run", "v0002", "v0003", "--data", "test.csv", "--json", "d.json"
    )
    assert code == 0
    assert "of 72 answers changed" in out
    found = json.loads(Path("d.json").read_text())
    equal = {one["level"]: one["is_equal"] for one in found["levels"]}
    assert equal == {"head": False, "spine": True, "slow": True}
    assert found["flips"]["num_rows"] == 72
    # What the event says undoes it.
    (event,) = GovernanceLog(run).read()
    assert nestling(*event.undo.split()[1:])[0] == 0
    code, _, _ = nestling("diff", "run", "v0002", "v0004", "--json", "d.json")
    assert all(one["is_equal"] for one in json.loads(Path("d.json").read_text())["levels"])
    assert nestling("predict", "run", "test.csv")[0] == 0


def test_feedback_is_kept(nestling: Run, run: Path) -> None:
    code, out, err = nestling("rollback", "run", "head", "--to", "v0001", "--keep-feedback")
    assert (code, err) == (0, "")
    assert "level head is as in v0001, and went on" in out
    nestling("versions", "run", "--json", "versions.json")
    one, two, three = json.loads(Path("versions.json").read_text())
    assert three["digests"]["head"] not in (one["digests"]["head"], two["digests"]["head"])
    assert three["digests"]["spine"] == two["digests"]["spine"]


def test_validate_names_who_did(nestling: Run, run: Path) -> None:
    code, out, err = nestling("validate", "run", "--by", "Ada", "--note", "50 cases")
    assert (code, err) == (0, "")
    assert "v0003: validated by Ada" in out
    (event,) = GovernanceLog(run).read()
    assert (event.happening, event.by) == ("validated", "Ada")
    assert "50 cases" in event.message
    code, out, _ = nestling("versions", "run")
    assert "validated" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("versions", "nowhere"), "has no versions.jsonl; name the folder"),
        (("rollback", "run", "heat", "--to", "v0001"), "did you mean 'head'"),
        (("rollback", "run", "head", "--to", "v9999"), "no version 'v9999'"),
        (("rollback", "run", "head"), "Missing option '--to'"),
        (("rollback", "run", "slow", "--to", "v0001", "--keep-feedback"), "without keeping"),
        (("diff", "run", "v0001", "v002"), "did you mean 'v0002'"),
        (("diff", "run", "v0001", "v0002", "--data", "plan.toml"), "plan.toml"),
        (("validate", "run"), "Missing option '--by'"),
        (("validate", "run", "--by", ""), "name the person who validated"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    nestling: Run, run: Path, words: tuple[str, ...], said: str
) -> None:
    before = (run / "versions.jsonl").read_bytes(), (run / "position.json").read_bytes()
    code, _, err = nestling(*words)
    assert code == 2
    assert err.count("\n") == 1
    assert said in err
    assert before == ((run / "versions.jsonl").read_bytes(), (run / "position.json").read_bytes())
    assert not (run / "governance.jsonl").exists()


def test_a_clock_that_went_back_is_refused(nestling: Run, run: Path) -> None:
    path = run / "versions.jsonl"
    lines = path.read_text().splitlines()
    last = json.loads(lines[-1]) | {"at": 9e9}
    path.write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    position = json.loads((run / "position.json").read_text())
    position["num_version_bytes"] = path.stat().st_size
    (run / "position.json").write_text(json.dumps(position))
    code, _, err = nestling("validate", "run", "--by", "Ada")
    assert code == 2
    assert "the clock went back" in err
    assert "2255-03-14 16:00:00 UTC" in err
