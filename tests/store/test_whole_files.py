"""A file is there whole or not at all, whatever fails on the way."""

import ast
from pathlib import Path

import pytest

from nestling.store import whole_files, write_whole

SOURCE = Path(__file__).parents[2] / "src" / "nestling"


@pytest.mark.parametrize("content", ["lines\r\nkept\n", b"\x00bytes", ""])
def test_what_was_written_is_read(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_whole(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    write_whole(path, b"later")
    assert [one.name for one in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"later"


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_failure_leaves_the_older_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write_whole(tmp_path / "file", "old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    where = "nestling.store.whole_files.open" if call == "open" else f"os.{call}"
    monkeypatch.setattr(where, fail, raising=False)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", "new")
    monkeypatch.undo()
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_the_folder_is_synced_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace, sync = whole_files.os.replace, whole_files.sync_folder
    monkeypatch.setattr(
        whole_files.os, "replace", lambda *names: (done.append("rename"), replace(*names))
    )
    monkeypatch.setattr(whole_files, "sync_folder", lambda path: (done.append("sync"), sync(path)))
    write_whole(tmp_path / "file", "x")
    assert done == ["rename", "sync"]


def test_nobody_else_renames_a_draft() -> None:
    """What is fetched, and what torch writes, is moved into place where it is made."""
    allowed = {"store/whole_files.py", "data/sources/fetching.py", "answer/exported_modules.py"}
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        calls = {
            f"{node.func.value.id}.{node.func.attr}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        }
        moves = calls & {"os.replace", "os.rename", "draft.replace", "part.replace", "os.fsync"}
        name = path.relative_to(SOURCE).as_posix()
        assert not moves or name in allowed, f"{name}: {sorted(moves)}"
