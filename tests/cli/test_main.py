"""Help with an example for every command, quick start, and one line for every error."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from nestling.cli.main import nestling as root

Run = Callable[..., tuple[int, str, str]]


def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from walk(child, (*path, name))


@pytest.mark.parametrize("path", list(walk(root, ())), ids=" ".join)
def test_every_command_has_help_with_an_example(nestling: Run, path: tuple[str, ...]) -> None:
    code, out, _ = nestling(*path, "--help")
    assert code == 0
    assert "Example:" in out
    assert " ".join(("nestling", *path)) in out.split("Example:")[1]


def test_all_commands_of_the_design_for_now_are_there() -> None:
    paths = {" ".join(path) for path in walk(root, ())}
    assert {"demo", "learn", "plan show", "plan check", "report", "bench"} <= paths
    assert {"data list", "data fetch"} <= paths


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, nestling.cli.main; "
        "print(sorted({'torch', 'matplotlib', 'pandas', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_console_script_runs() -> None:
    script = Path(sys.executable).with_name("nestling")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert "0.1.0" in done.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("lern",), "did you mean 'learn'"),
        (("plan", "chek"), "did you mean 'check'"),
        (("learn",), "JOB.toml"),
        (("learn", "no.toml"), "no.toml"),
        (("learn", "a.csv"), "--target"),
        (("learn", "empty.toml"), "is empty"),
        (("learn", "--epochs", "3"), "--epochs"),
        (("report", "no-run"), "no-run"),
        (("plan", "check", "no.toml"), "no.toml"),
        (("plan", "check", "plan.toml", "--model", "desk_net:make_nets"), "make_net"),
        (("plan", "check", "plan.toml", "--model", "nowhere:make"), "no module 'nowhere'"),
        (("plan", "check", "plan.toml", "--model", "desk_net:make_list"), "returned list"),
        (("plan", "show", "mpl"), "did you mean 'mlp'"),
        (("plan", "show", "mlp", "--options", "{"), "not JSON"),
        (("plan", "show", "mlp", "--options", "[1]"), "write an object"),
        (("data", "fetch", "mnits"), "did you mean 'mnist'"),
        (("bench", "speed"), "speed"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    nestling: Run, desk: Path, args: tuple[str, ...], said: str
) -> None:
    (desk / "empty.toml").touch()
    before = sorted(desk.iterdir())
    code, out, err = nestling(*args)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err
    assert [path for path in sorted(desk.iterdir()) if path.name != "__pycache__"] == before


def test_an_interrupt_is_one_word(nestling: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nestling.levels.Plan.load", interrupt)
    code, out, err = nestling("plan", "check", "plan.toml")
    assert (code, out, err.strip()) == (130, "", "interrupted")
