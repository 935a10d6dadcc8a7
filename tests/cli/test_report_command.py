"""`nestling report`: the page anew, and what is wrong with a run's records in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nestling.report import RunWriter

Run = Callable[..., tuple[int, str, str]]

EVALUATION = {
    **{"method": "m", "seed": 0, "during": 0, "after": 0, "step": 5},
    "accuracies": {"base": 0.5},
}


@pytest.fixture
def metrics(desk: Path) -> Path:
    writer = RunWriter(desk / "run", {})
    writer.write("experience", {"index": 0, "name": "base"})
    writer.write("evaluation", EVALUATION)
    writer.close()
    return desk / "run" / "metrics.jsonl"


@pytest.mark.parametrize(
    ("garbage", "words"),
    [
        (b"garbage", "line 3: 'garbage' is no record"),
        (b"garbage\n", "line 3: 'garbage' is no record"),
        (b"\x00\xff\n", "line 3: "),
        (b"{}\n", "line 3: '{}' is no record"),
        (b'{"kind": "evaluation"}\n', "line 3: this record of kind 'evaluation' has no 'method'"),
        (b'{"kind": "level"}\n', "line 3: this record of kind 'level' has no 'method'"),
        (b'{"kind": "evalu\n{"kind": "other"}\n', "line 3: "),
    ],
)
def test_garbage_is_one_line_and_exit_code_2(
    nestling: Run, metrics: Path, garbage: bytes, words: str
) -> None:
    assert nestling("report", "run") == (0, "report: run/report.html\n", "")
    page = metrics.with_name("report.html")
    page.unlink()
    metrics.write_bytes(metrics.read_bytes() + garbage)
    code, out, err = nestling("report", "run")
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not page.exists()


def test_a_last_line_cut_off_by_a_crash_is_said_and_left_out(nestling: Run, metrics: Path) -> None:
    metrics.write_bytes(metrics.read_bytes()[:-7])
    code, out, err = nestling("report", "run")
    assert (code, out) == (0, "report: run/report.html\n")
    assert err == "nestling: metrics.jsonl: line 2 was cut off, as by a crash, and is left out\n"
    assert "line 2 was cut off" in metrics.with_name("report.html").read_text()


@pytest.fixture
def governed(desk: Path) -> Path:
    """A run under a contract that promises nothing."""
    folder = desk / "ward"
    folder.mkdir()
    (folder / "contract.toml").write_text('name = "ward"\n')
    line = '{"id": "v0001", "at": 1.0, "origin": "began", "snapshot": "s", "digests": {}}\n'
    (folder / "versions.jsonl").write_text(line)
    for name in ("governance.jsonl", "probes.jsonl"):
        (folder / name).touch()
    return folder


def test_an_audit_page_is_written_instead(nestling: Run, governed: Path) -> None:
    assert nestling("report", "--audit", "ward", "--json", "audit.json") == (
        0,
        "audit: ward/audit.html\n",
        "",
    )
    assert "<h1>ward</h1>" in (governed / "audit.html").read_text(encoding="utf-8")
    assert not (governed / "report.html").exists()
    data = json.loads((governed.parent / "audit.json").read_text())
    assert data["audit"] == "ward/audit.html"
    assert data["undo"][0]["id"] == "v0001"


def test_an_audit_of_damaged_records_names_them_and_fails(nestling: Run, governed: Path) -> None:
    (governed / "probes.jsonl").write_text("garbage\n")
    code, out, err = nestling("report", "--audit", "ward")
    assert (code, out) == (1, "audit: ward/audit.html\n")
    assert err.startswith("nestling: probes.jsonl, line 1 is left out ('garbage')")
    assert err.count("\n") == 1


def test_an_audit_without_a_contract_is_one_line(nestling: Run, metrics: Path) -> None:
    code, out, err = nestling("report", "--audit", "run")
    assert (code, out) == (2, "")
    assert "has no contract.toml" in err
    assert err.count("\n") == 1
