"""Finding the files of a source, or fetching them: each is checked by its sha256."""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from nestling.core.errors import DataError
from nestling.data.sources.catalogue import find_source
from nestling.data.sources.source import Source, SourceFile

# A client that is slower than this hangs, as far as its user can tell.
START_S, LEAST_BYTES_PER_S = 120.0, 50_000.0


def find_folder(folder: Path | None = None) -> Path:
    """Where archives lie: `folder`, else $NESTLING_DATA, else ~/.cache/nestling."""
    if folder is not None:
        return folder
    named = os.environ.get("NESTLING_DATA")
    return Path(named) if named else find_cache()


def obtain(name: str, folder: Path | None = None, *, offline: bool = False) -> list[Path]:
    """The files of a source: those at hand, else fetched.

    Args:
        name: see `list_sources`.
        folder: where they lie or go; without it $NESTLING_DATA, then ~/.cache/nestling.
        offline: do not fetch, neither what is absent nor what is damaged.

    Returns: a path per file, in the order of `Source.files`.

    Raises:
        SettingError: an unknown name.
        DataError: a file that cannot be had; says which command gets it.
    """
    source = find_source(name)
    paths = [_find(file, folder) for file in source.files]
    absent = [file.name for file, path in zip(source.files, paths, strict=True) if path is None]
    if not absent:
        return [path for path in paths if path is not None]
    if offline or not _can_fetch(source):
        way = "" if _can_fetch(source) else " --from DIR, where DIR holds a copy"
        raise DataError(
            f"data not fetched: no intact {' and no intact '.join(absent)} in "
            f"{' or '.join(str(place) for place in _list_places(folder))}; "
            f"run: nestling data fetch {name}{way}"
        )
    fetch_source(name, folder)
    return [_require(file, folder, name) for file in source.files]


def fetch_source(name: str, folder: Path | None = None, *, source: Path | None = None) -> Path:
    """Get the files of a source, unless they are there already.

    Args:
        name: see `list_sources`.
        folder: where to put them; see `find_folder`.
        source: folder to copy them from instead of a registry.

    Returns: the path of the file; the folder, if there are none or several.

    Raises:
        SettingError: an unknown name.
        DataError: a client that is missing, fails or hangs, another sha256, or
            what the system refuses: a connection, a folder, more room on the disk. No half of a
            file stays.
    """
    wanted = find_source(name)
    folder = find_folder(folder)
    for file in wanted.files:
        try:
            if not _is_intact(folder / file.name, file):
                _fetch_file(wanted, file, folder, source)
        except OSError as error:
            raise DataError(
                f"cannot fetch {file.name} into '{folder}': {error.strerror or error}; check the "
                "connection and the room on the disk, or give another folder"
            ) from error
    return folder / wanted.files[0].name if len(wanted.files) == 1 else folder


def _fetch_file(wanted: Source, file: SourceFile, folder: Path, source: Path | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that the last move is atomic and a half-fetched file is never found.
    with tempfile.TemporaryDirectory(dir=folder) as place:
        draft = Path(place) / file.name
        if source is not None:
            if not (source / file.name).is_file():
                raise DataError(
                    f"no '{source / file.name}'; name the folder that holds {file.name}"
                )
            shutil.copyfile(source / file.name, draft)
        else:
            _run_client(wanted, file, Path(place))
        if not draft.is_file():
            raise DataError(f"'{' '.join(file.command)}' gave no {file.name}; fetch it by hand")
        measured = _measure_sha256(draft)
        if measured != file.sha256:
            raise DataError(
                f"{file.name} has sha256 {measured[:12]}..., expected {file.sha256[:12]}...; "
                "it is damaged, or its origin has another version"
            )
        draft.replace(folder / file.name)


def _run_client(wanted: Source, file: SourceFile, place: Path) -> None:
    if not file.command:
        raise DataError(
            f"{wanted.name} is in no registry; run: nestling data fetch {wanted.name} --from DIR, "
            f"where DIR holds {file.name}"
        )
    client = file.command[0]
    if shutil.which(client) is None:
        raise DataError(
            f"fetching {wanted.name} needs {client}, which is not installed; or copy "
            f"{file.name} into a folder and give it with --from"
        )
    command = list(file.command)
    if client == "pip":
        # Of a source archive pip runs the setup script; with a hash it looks before it runs.
        requirement = command.pop()
        listed = place / "requirements.txt"
        listed.write_text(f"{requirement} --hash=sha256:{file.sha256}\n")
        command += ["--quiet", "--require-hashes", "--requirement", str(listed)]
    code, said = _run(command, place, START_S + file.num_bytes / LEAST_BYTES_PER_S)
    if code != 0:
        line = (said.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"'{' '.join(file.command)}' failed: {line}")


def _run(command: list[str], place: Path, limit_s: float) -> tuple[int, str]:
    """Exit code and stderr of a command that may take so long; nothing of it outlives the call."""
    with subprocess.Popen(
        command,
        cwd=place,
        # Its own drafts go with the place.
        env={**os.environ, "TMPDIR": str(place)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            _, said = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            _stop(process)
            raise DataError(
                f"'{' '.join(command)}' took more than {limit_s:.0f} s and was stopped; "
                "check the connection and try again"
            ) from None
        except BaseException:
            _stop(process)
            raise
    return process.returncode, said


def _stop(process: subprocess.Popen[str]) -> None:
    """End a client and what it started: a child that lives on would keep our pipe open."""
    if not hasattr(os, "killpg"):
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def find_cache() -> Path:
    """The folder of this user where everything may be written."""
    return Path.home() / ".cache" / "nestling"


def _can_fetch(source: Source) -> bool:
    return all(file.command for file in source.files)


def _list_places(folder: Path | None) -> list[Path]:
    """Where to look: the folder that is given, else the named one, then the cache.

    $NESTLING_DATA may be a folder of copies that cannot be written, so both are looked into.
    """
    if folder is not None:
        return [folder]
    return [folder] if folder is not None else list(dict.fromkeys((find_folder(), find_cache())))


def _find(file: SourceFile, folder: Path | None) -> Path | None:
    paths = (place / file.name for place in _list_places(folder))
    return next((path for path in paths if _is_intact(path, file)), None)


def _require(file: SourceFile, folder: Path | None, name: str) -> Path:
    path = _find(file, folder)
    if path is None:
        raise DataError(f"no intact {file.name}; run: nestling data fetch {name}")
    return path


def _is_intact(path: Path, file: SourceFile) -> bool:
    # The size first: it is free, and a wrong one settles the matter.
    return (
        path.is_file()
        and path.stat().st_size == file.num_bytes
        and _measure_sha256(path) == file.sha256
    )


def _measure_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
