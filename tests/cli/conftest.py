"""A working directory with a model, a plan and data, and a way to run commands in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nestling.cli.main import run_command

MODEL = """
from torch import nn

def make_net(width=8):
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 3))

def make_list():
    return []
"""

PLAN = """
readout = "slow"

[[level]]
name = "head"
match = ["2.*"]
optimizer = { name = "adamw", lr = 1e-2 }
gate = [{ kind = "surprise" }]

[[level]]
name = "spine"
match = ["*"]
period = 8
optimizer = { name = "sgd", lr = 1e-2 }

[[level]]
kind = "copy"
name = "slow"
of = ["head", "spine"]
decay = 0.9
"""

Outcome = tuple[int, str, str]  # exit code, stdout, stderr


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "desk_net.py").write_text(MODEL)
    (tmp_path / "plan.toml").write_text(PLAN)
    for name, labels in (("a", (0, 1)), ("b", (2,)), ("test", (0, 1, 2))):
        rows = [
            f"{label + 0.01 * index:.3f},{2 - label},{label}"
            for index in range(24)
            for label in labels
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join(["u,v,label", *rows]) + "\n")
    return tmp_path


@pytest.fixture
def nestling(desk: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def run(*args: str) -> Outcome:
        capsys.readouterr()
        code = run_command(args)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
