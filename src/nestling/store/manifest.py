"""The manifest of a snapshot: which file holds which part, sealed by its own sha256."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from nestling.core.errors import CorruptSnapshot, ForeignSnapshot, SnapshotError, suggest
from nestling.core.machine import fingerprint

MANIFEST = "manifest.json"
FORMAT = 2  # of the files; `schema` is the caller's own version of the state inside
SUFFIX = ".safetensors"

# The manifest is PREFIX + sha256 of body + MIDDLE + body + END, so no byte of it is unchecked.
_PREFIX, _MIDDLE, _END = b'{"sha256": "', b'", "body": ', b"}\n"
_NUM_HEX = 64
_FILE_NAME = re.compile(r"[0-9a-f]{64}\.safetensors")
# Format 1 was one such file and one of tensors, whatever had changed.
_FORMER, _FORMER_TENSORS = "state.json", re.compile(r"tensors-[0-9a-f]{12}\.safetensors")


@dataclass(frozen=True)
class PartFile:
    """The file of one part, named by the sha256 of its bytes.

    >>> PartFile.of(b"").file[:12]
    'e3b0c44298fc'
    """

    file: str
    sha256: str
    num_bytes: int

    @classmethod
    def of(cls, payload: bytes) -> "PartFile":
        """The entry of a file with these bytes."""
        sha256 = hashlib.sha256(payload).hexdigest()
        return cls(sha256 + SUFFIX, sha256, len(payload))


def seal_manifest(parts: Mapping[str, PartFile], *, kind: str, schema: int) -> bytes:
    """The bytes of a manifest that names these parts, in this order."""
    body = {
        "format": FORMAT,
        "kind": kind,
        "schema": schema,
        "parts": {name: asdict(part) for name, part in parts.items()},
        "torch": torch.__version__,
        "machine": fingerprint(),
    }
    return _seal(json.dumps(body, allow_nan=False).encode())


def load_manifest(path: Path) -> bytes:
    """The sealed bytes of the manifest in a snapshot folder.

    Raises:
        SnapshotError: there is no snapshot at `path`; names those beside it.
        ForeignSnapshot: it is of the former format.
        OSError: the system refuses to read it.
    """
    try:
        return (path / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if is_former(path):
            raise ForeignSnapshot(
                f"snapshot '{path}' was written by an earlier version of nestling (schema "
                f"{_find_former_schema(path)}, all in one file); write it again with this version, "
                "or read it with that one"
            ) from None
        near = [found.parent.name for found in path.parent.glob(f"*/{MANIFEST}")]
        hint = suggest(path.name, near) if near else "there is none beside it either"
        raise SnapshotError(f"no snapshot at '{path}'; {hint}") from None


def read_kind(path: Path) -> tuple[str, int]:
    """What the snapshot in a folder is of, e.g. "learner", and the version of its layout.

    Raises:
        SnapshotError: there is none, or its manifest is damaged.
    """
    path = Path(path)
    try:
        found = _unseal(path / MANIFEST, load_manifest(path))
    except OSError as error:
        raise SnapshotError(f"cannot read snapshot '{path}': {error.strerror or error}") from error
    match found:
        case {"kind": str(kind), "schema": int(schema)}:
            return kind, schema
    raise CorruptSnapshot(f"'{path / MANIFEST}' is of no kind; restore another snapshot")


def unseal_manifest(path: Path, text: bytes, *, kind: str, schema: int) -> dict[str, PartFile]:
    """The parts that a manifest names, in its order, after all that it says has been checked.

    Args:
        path: the snapshot folder, for messages.
        text: what `load_manifest` gave.
        kind: as it was written.
        schema: as it was written.

    Raises:
        CorruptSnapshot: truncated, changed, or naming files that are not content-named ones of
            this folder.
        ForeignSnapshot: of another format, kind or schema.
    """
    content = _unseal(path / MANIFEST, text)
    if content.get("format") != FORMAT:
        raise ForeignSnapshot(
            f"snapshot '{path}' has another file format than {FORMAT}, the one this version of "
            "nestling reads; write it again with this version, or read it with that one"
        )
    if content.get("kind") != kind:
        raise ForeignSnapshot(
            f"snapshot '{path}' is of a {content.get('kind')!r}, not of a {kind!r}; "
            f"read it as a {content.get('kind')!r}"
        )
    found = content.get("schema")
    if found != schema:
        age = "an earlier" if isinstance(found, int) and found < schema else "another"
        raise ForeignSnapshot(
            f"snapshot '{path}' was written by {age} version of nestling (schema {found}, this one "
            f"reads {schema}); write it again with this version, or read it with that one"
        )
    parts = content.get("parts")
    if not isinstance(parts, dict):
        raise CorruptSnapshot(f"'{path / MANIFEST}' names no parts; restore another snapshot")
    return {name: _read_entry(path, name, entry) for name, entry in parts.items()}


def is_own_file(name: str) -> bool:
    """Whether a file of that name in a snapshot folder is one that a writer put there."""
    return bool(_FILE_NAME.fullmatch(name) or _FORMER_TENSORS.fullmatch(name))


def is_former(path: Path) -> bool:
    """Whether a folder holds the JSON of a snapshot of the former format."""
    try:
        with open(path / _FORMER, "rb") as file:
            return file.read(len(_PREFIX)) == _PREFIX
    except OSError:
        return False


def drop_former(path: Path) -> None:
    """Remove the JSON of a snapshot of the former format, if there is one."""
    if is_former(path):
        (path / _FORMER).unlink(missing_ok=True)


def _find_former_schema(path: Path) -> str:
    with open(path / _FORMER, "rb") as file:
        found = re.search(rb'"schema": (\d+)', file.read(1000))
    return found[1].decode() if found else "unknown"


def _read_entry(path: Path, name: str, entry: object) -> PartFile:
    match entry:
        case {"file": str(file), "sha256": str(sha256), "num_bytes": int(num_bytes)} if (
            _FILE_NAME.fullmatch(file) and file == sha256 + SUFFIX
        ):
            return PartFile(file, sha256, num_bytes)
    raise CorruptSnapshot(
        f"'{path / MANIFEST}' names for part {name!r} no file of this folder that is called by "
        f"its sha256 ({entry!r}), so nothing is read; restore another snapshot"
    )


def _seal(body: bytes) -> bytes:
    return _PREFIX + hashlib.sha256(body).hexdigest().encode() + _MIDDLE + body + _END


def _unseal(file: Path, text: bytes) -> dict[str, object]:
    body = text[len(_PREFIX) + _NUM_HEX + len(_MIDDLE) : -len(_END)]
    if _seal(body) != text:
        raise CorruptSnapshot(
            f"'{file}' does not match its sha256 ({len(text)} bytes: truncated or changed); "
            "restore another snapshot"
        )
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise CorruptSnapshot(f"'{file}' holds no manifest; restore another snapshot")
    return content
