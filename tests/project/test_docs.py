"""Every example in README and docs/ runs, and every command that they quote exists."""

import re
import shlex
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def read_blocks(page: Path, *languages: str) -> list[tuple[int, str, str]]:
    """(line number, language, text) of every fenced block in one of the languages."""
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start(2)) + 1, match.group(1), match.group(2))
        for match in FENCE.finditer(text)
        if match.group(1) in languages
    ]


def read_commands(page: Path) -> list[str]:
    """Every `nestling ...` line of the shell blocks, continued lines joined."""
    commands = []
    for _, _, block in read_blocks(page, "bash", "sh", "console", "shell"):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.strip().removeprefix("$ ").split("  #")[0]
            if command.startswith("nestling "):
                commands.append(command)
    return commands


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    # A page may show files before it uses them: a first line "# file: NAME" writes the block.
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, language, block in read_blocks(page, "python", "toml"):
        first = block.split("\n", 1)[0]
        if first.startswith("# file: "):
            (tmp_path / first.removeprefix("# file: ").strip()).write_text(block)
        elif language == "python":
            # Blank lines in front keep the page's line numbers in a traceback.
            exec(compile("\n" * (line - 1) + block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_quoted_commands_exist(page: Path) -> None:
    from nestling.cli.main import nestling

    for quoted in read_commands(page):
        command: click.Command = nestling
        words = shlex.split(quoted)[1:]
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            word = words.pop(0)
            assert word in command.commands, f"{_name(page)}: {quoted!r}: no command {word!r}"
            command = command.commands[word]
        known = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            if word.startswith("-") and word != "-":
                assert word.split("=")[0] in known | {"--help"}, f"{quoted!r}: no {word!r}"


def test_readme_quotes_the_two_commands_of_the_first_page() -> None:
    blocks = " ".join(block for _, _, block in read_blocks(ROOT / "README.md", "bash", "sh"))
    assert "make demo" in blocks
