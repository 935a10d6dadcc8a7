"""Write a file atomically: a reader finds the old content or the new, also after a power cut.

What is only ever appended to keeps its beginning, whatever happens to its end.
"""

import os
import uuid
from pathlib import Path

# Of files that a write which was killed has left behind, beside the one that it was to be.
LEFT_BEHIND = ".*.part"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically: whole or not at all, an older one replaced or untouched.

    Args:
        path: the file; its folder is made if missing.
        content: text is written as UTF-8, line ends as they are.

    Raises:
        OSError: the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(Path(folder) / "new" / "a.txt", "whole")
    ...     (Path(folder) / "new" / "a.txt").read_text()
    'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def append_whole(path: Path, content: bytes, start: int) -> None:
    """Put bytes at the end of a file and wait until the disk has them: all of them, or none.

    Args:
        path: the file; it and its folder are made if missing.
        content: what is added.
        start: bytes of the file that stay; what comes after, such as half a line, is dropped.

    Raises:
        OSError: it cannot be written; the first `start` bytes stand.
    """
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.truncate(start)
        try:
            rest = content
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(start)
            raise
    if is_new:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames in a folder last through a power cut; Windows has no such call."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
