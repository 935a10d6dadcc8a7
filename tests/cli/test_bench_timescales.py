"""`nestling bench timescales` at the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nestling.bench.timescales import timescale_run

Run = Callable[..., tuple[int, str, str]]


def test_a_quick_look(nestling: Run, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timescale_run, "SUITES", {"few": "tiny_suites:make_few"})
    asked = ("--methods", "copy", "--parts", "few", "--seeds", "1", "--budget", "1")
    code, out, err = nestling(
        "bench", "timescales", *asked, "--workers", "1", "--json", "r.json", "--check"
    )
    assert (code, err) == (0, "")
    assert "over plain training" in out
    assert "ER itself" in out
    assert "plain_bitwise" in out
    data = json.loads((desk / "r.json").read_text())
    assert "copy_over_er_few" in data["figures"]
    assert (desk / "runs/bench/timescales/table.md").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--methods", "coppy"), "did you mean 'copy'"),
        (("--parts", "splt"), "did you mean 'split'"),
        (("--budget", "huge"), "number of trials"),
        (("--budget", "0"), "at least 1"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    nestling: Run, desk: Path, args: tuple[str, ...], said: str
) -> None:
    code, out, err = nestling("bench", "timescales", *args)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (desk / "runs").exists()
