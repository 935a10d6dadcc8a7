"""Files whole or not at all, and no progress bar where nobody looks."""

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from nestling.cli.output import read_options, show_progress, write_json

Run = Callable[..., tuple[int, str, str]]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "new" / "a.json", {"a": 1})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nestling.store.whole_files.os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "new" / "a.json", {"a": 2})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"a": 1}


def test_a_full_disk_is_one_line_and_code_2(nestling: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "out.json")

    monkeypatch.setattr("nestling.cli.plan_command.write_json", fail)
    code, _, err = nestling("plan", "check", "plan.toml", "--json", "out.json")
    assert (code, err.count("\n")) == (2, 1)
    assert "out.json: No space left on device" in err


def test_progress_is_silent_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("work") as advance:
        advance("half", 0.5)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


def test_progress_shows_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with show_progress("work") as advance:
        advance("half way", 0.5)
    said = capsys.readouterr()
    assert said.out == ""
    assert "half way" in said.err


def test_options_are_an_object() -> None:
    assert read_options(None) == {}
    assert read_options('{"sizes": [1, 2]}') == {"sizes": [1, 2]}
    with pytest.raises(click.BadParameter, match="write an object"):
        read_options("3")
