"""Snapshots: a state on disk, part by part, that is whole or refused wherever the power fails.

A snapshot is a folder of

- one file per part, `<sha256 of its bytes>.safetensors`: the part's tensors, named by JSON pointer
  (RFC 6901), and the rest of it as JSON in a tensor of bytes;
- `manifest.json`: kind, schema, and for each part its file, sha256 and size.

A file is named by its content, so a part that did not change is not written again, and an older
file is never written over. The manifest is replaced last, in one rename: until then a reader finds
the old snapshot, after it the new one; files that no manifest names are removed thereafter.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import CorruptSnapshot, SnapshotError, suggest
from nestling.store.manifest import (
    MANIFEST,
    PartFile,
    drop_former,
    is_own_file,
    load_manifest,
    read_kind,
    seal_manifest,
    unseal_manifest,
)
from nestling.store.state_trees import decode_tree, encode_tree
from nestling.store.whole_files import LEFT_BEHIND, sync_folder, write_whole

# The JSON of a part among its tensors; their own names are "" or begin with "/".
TREE = "$tree"


def write_snapshot(
    path: Path,
    parts: Mapping[str, object],
    *,
    kind: str,
    schema: int,
    reuse: Iterable[Path] = (),
    linked: Mapping[str, Path] | None = None,
) -> None:
    """Write a snapshot atomically, one file per part; unchanged parts are not written again.

    One writer per folder at a time. The same part has the same bytes, whoever writes it.

    Args:
        path: the folder; made if missing, its older snapshot replaced if not.
        parts: name -> nested str-keyed dicts, lists, JSON scalars (infinities and NaN included)
            and strided tensors of any device; tensors come back detached, on the CPU. Tuples come
            back as lists.
        kind: what the state is of, e.g. "learner"; checked when it is read.
        schema: version of the state's layout; checked when it is read.
        reuse: other snapshot folders; a part that one of them holds is hard-linked from there
            if the system can, so that it takes no room twice.
        linked: name of a further part -> another snapshot folder of this kind and schema, from
            which it is taken as it is, its bytes checked but not decoded.

    Raises:
        CorruptSnapshot: a part to be linked is damaged there; nothing is written.
        SnapshotError: something in `parts` cannot be stored, or the folder cannot be written
            (disk full, no permission); an older snapshot in it is then untouched.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     where = Path(folder) / "last"
    ...     write_snapshot(where, {"w": torch.ones(2), "step": 3}, kind="demo", schema=1)
    ...     read_snapshot(where, kind="demo", schema=1)
    {'w': tensor([1., 1.]), 'step': 3}
    """
    path = Path(path)
    encoded = _encode_parts(parts)
    taken = _find_linked(linked or {}, kind, schema)
    try:
        named = _publish(path, encoded, taken, kind, schema, [Path(folder) for folder in reuse])
    except OSError as error:
        megabytes = sum(_count_bytes(*part) for part in encoded.values()) / 1e6
        remedy = (
            f"free {megabytes:.1f} MB or choose another disk"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            else "choose a folder that can be written"
        )
        raise SnapshotError(
            f"cannot write snapshot '{path}': {error.strerror or error}; {remedy} "
            "(an older snapshot there is whole)"
        ) from error
    _remove_unnamed(path, named)


def link_snapshot(path: Path, source: Path) -> None:
    """Make a folder that holds the same snapshot as another; its files are linked, not copied.

    Args:
        path: the new folder.
        source: the folder of the snapshot.

    Raises:
        SnapshotError: there is no whole snapshot at `source`, or `path` cannot be written.
    """
    kind, schema = read_kind(source)
    linked = dict.fromkeys(list_parts(source, kind=kind, schema=schema), Path(source))
    write_snapshot(path, {}, kind=kind, schema=schema, linked=linked)


def read_snapshot(path: Path, *, kind: str, schema: int) -> dict[str, Any]:
    """Read a snapshot from its folder after checking every byte of it (SHA-256).

    Args:
        path: the folder.
        kind: as it was written.
        schema: as it was written.

    Returns: name -> part, tensors on the CPU, each in memory of its own.

    Raises:
        SnapshotError: there is no snapshot at `path`, or it cannot be read.
        CorruptSnapshot: truncated, or at least one byte changed.
        ForeignSnapshot: of another kind or schema, or of an earlier version of nestling.
    """
    return _read(Path(path), kind, schema, None)


def list_parts(path: Path, *, kind: str, schema: int) -> dict[str, PartFile]:
    """The parts of a snapshot and their files, as its manifest names them; no file is opened.

    Raises:
        SnapshotError: as `read_snapshot`.
    """
    path = Path(path)
    try:
        return unseal_manifest(path, load_manifest(path), kind=kind, schema=schema)
    except OSError as error:
        raise SnapshotError(f"cannot read snapshot '{path}': {error.strerror or error}") from error


def read_listed(path: Path, parts: Mapping[str, PartFile]) -> dict[str, Any]:
    """Read some parts of a snapshot that nobody replaces; the manifest is not read again.

    Args:
        path: the folder.
        parts: of those that `list_parts` gave.

    Raises:
        CorruptSnapshot: a file is lost, truncated or changed.
        SnapshotError: it cannot be read.
    """
    path = Path(path)
    try:
        return {name: _unpack(path / part.file, part) for name, part in parts.items()}
    except FileNotFoundError as error:
        raise _name_lost(path, error) from error
    except OSError as error:
        raise SnapshotError(f"cannot read snapshot '{path}': {error.strerror or error}") from error


def read_part(path: Path, name: str, *, kind: str, schema: int) -> Any:
    """Read one part of a snapshot, e.g. a single level; no file of another part is opened.

    Args:
        path: the folder.
        name: of the part.
        kind: as it was written.
        schema: as it was written.

    Returns: the part, tensors on the CPU, each in memory of its own.

    Raises:
        SnapshotError: there is no snapshot at `path`, it has no such part, or cannot be read.
        CorruptSnapshot: the manifest or the part is truncated or changed.
        ForeignSnapshot: of another kind or schema, or of an earlier version of nestling.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_snapshot(Path(folder), {"w": torch.ones(2), "step": 3}, kind="demo", schema=1)
    ...     read_part(Path(folder), "step", kind="demo", schema=1)
    3
    """
    return _read(Path(path), kind, schema, name)[name]


# --- writing


def _encode_parts(parts: object) -> dict[str, tuple[bytes, dict[str, Tensor]]]:
    """Part -> its JSON and its tensors; what cannot be stored is refused before any writing."""
    if not isinstance(parts, Mapping):
        raise SnapshotError(f"a state is a dict of parts, not a {type(parts).__name__}")
    encoded = {}
    for name, value in parts.items():
        if not isinstance(name, str):
            raise SnapshotError(
                f"cannot store a part called {name!r} ({type(name).__name__}) in a snapshot; "
                f"use the string {str(name)!r}"
            )
        try:
            tree, tensors = encode_tree(value)
        except SnapshotError as error:
            raise SnapshotError(f"part {name!r}: {error}") from None
        encoded[name] = (json.dumps(tree, allow_nan=False).encode(), tensors)
    return encoded


def _count_bytes(text: bytes, tensors: Mapping[str, Tensor]) -> int:
    return len(text) + sum(tensor.nbytes for tensor in tensors.values())


def _pack(text: bytes, tensors: Mapping[str, Tensor]) -> bytes:
    import safetensors.torch

    tree = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return safetensors.torch.save({**tensors, TREE: tree})


def _publish(
    path: Path,
    encoded: Mapping[str, tuple[bytes, dict[str, Tensor]]],
    taken: Mapping[str, tuple[PartFile, Path]],
    kind: str,
    schema: int,
    reuse: list[Path],
) -> set[str]:
    """Write parts, then the manifest; a reader sees the old snapshot or the new, no mixture.

    Returns: names of the files that the new manifest names.
    """
    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    before = {file.name for file in path.iterdir()}
    parts: dict[str, PartFile] = {}
    sealed = b""
    try:
        for name, (text, tensors) in encoded.items():
            payload = _pack(text, tensors)
            parts[name] = PartFile.of(payload)
            _place(path, parts[name], payload, reuse)
        for name, (part, folder) in taken.items():
            parts[name] = part
            if not (path / part.file).exists() or not _is_intact(path / part.file, part):
                _take(path, part, folder)
        # The parts must be found before the manifest points to them.
        sync_folder(path)
        sealed = seal_manifest(parts, kind=kind, schema=schema)
        write_whole(path / MANIFEST, sealed)
        if is_new:
            sync_folder(path.parent)
    except BaseException:
        # After its rename the manifest stands, whatever failed then, and so must its parts.
        if not _is_published(path, sealed):
            for part in parts.values():
                if part.file not in before:
                    (path / part.file).unlink(missing_ok=True)
            if is_new:
                with contextlib.suppress(OSError):
                    path.rmdir()
        raise
    return {part.file for part in parts.values()}


def _place(path: Path, part: PartFile, payload: bytes, reuse: list[Path]) -> None:
    """See that the folder holds a part's file: kept, else linked, else written."""
    if _is_intact(path / part.file, part):
        return
    for folder in reuse:
        if _is_intact(folder / part.file, part):
            with contextlib.suppress(OSError):  # another disk, or one that knows no links
                os.link(folder / part.file, path / part.file)
                return
    write_whole(path / part.file, payload)


def _find_linked(
    linked: Mapping[str, Path], kind: str, schema: int
) -> dict[str, tuple[PartFile, Path]]:
    """Part -> its file in the folder that it is taken from, checked byte by byte."""
    folders = set(linked.values())
    manifests = {folder: list_parts(folder, kind=kind, schema=schema) for folder in folders}
    found = {}
    for name, folder in linked.items():
        known = manifests[folder]
        if name not in known:
            raise SnapshotError(f"snapshot '{folder}' has no part {name!r}; {suggest(name, known)}")
        if not _is_intact(folder / known[name].file, known[name]):
            raise CorruptSnapshot(
                f"'{folder / known[name].file}' is lost or does not match its sha256; restore "
                "another snapshot"
            )
        found[name] = (known[name], folder)
    return found


def _take(path: Path, part: PartFile, folder: Path) -> None:
    """Link a checked file of another folder, or copy it where links are unknown."""
    try:
        (path / part.file).unlink(missing_ok=True)
        os.link(folder / part.file, path / part.file)
    except OSError:
        write_whole(path / part.file, (folder / part.file).read_bytes())


def _is_intact(file: Path, part: PartFile) -> bool:
    """Whether a file is there with the bytes that its name promises."""
    try:
        with open(file, "rb") as opened:
            if os.fstat(opened.fileno()).st_size != part.num_bytes:
                return False
            return hashlib.file_digest(opened, "sha256").hexdigest() == part.sha256
    except OSError:
        return False


def _is_published(path: Path, sealed: bytes) -> bool:
    try:
        return (path / MANIFEST).read_bytes() == sealed
    except OSError:
        return False


def _remove_unnamed(path: Path, named: set[str]) -> None:
    """Remove what older snapshots and killed writers left; what resists goes the next time."""
    with contextlib.suppress(OSError):
        for file in [*path.iterdir()]:
            if file.match(LEFT_BEHIND) or (is_own_file(file.name) and file.name not in named):
                file.unlink(missing_ok=True)
        drop_former(path)


# --- reading


def _read(path: Path, kind: str, schema: int, name: str | None) -> dict[str, Any]:
    try:
        while True:
            text = load_manifest(path)
            parts = unseal_manifest(path, text, kind=kind, schema=schema)
            if name is not None and name not in parts:
                raise SnapshotError(
                    f"snapshot '{path}' has no part {name!r}; {suggest(name, parts)}"
                )
            wanted = parts if name is None else {name: parts[name]}
            try:
                return {name: _unpack(path / part.file, part) for name, part in wanted.items()}
            except FileNotFoundError as error:
                # A writer may have replaced the snapshot between the two reads.
                if load_manifest(path) == text:
                    raise _name_lost(path, error) from error
    except OSError as error:
        raise SnapshotError(f"cannot read snapshot '{path}': {error.strerror or error}") from error


def _name_lost(path: Path, error: FileNotFoundError) -> CorruptSnapshot:
    return CorruptSnapshot(
        f"snapshot '{path}' has lost its file '{Path(error.filename).name}'; "
        "restore another snapshot"
    )


def _unpack(file: Path, part: PartFile) -> object:
    import safetensors
    import safetensors.torch

    payload = file.read_bytes()
    if len(payload) != part.num_bytes:
        raise CorruptSnapshot(
            f"'{file}' has {len(payload)} bytes instead of {part.num_bytes}; "
            "restore another snapshot"
        )
    if hashlib.sha256(payload).hexdigest() != part.sha256:
        raise CorruptSnapshot(
            f"'{file}' does not match its sha256 (bytes changed); restore another snapshot"
        )
    try:
        with torch.device("cpu"):  # it makes empty tensors wherever the caller's default is
            found = safetensors.torch.load(payload)
        # Cloned into torch's own aligned memory: the bits of some kernels depend on the alignment.
        tensors = {name: tensor.clone() for name, tensor in found.items()}
        tree = json.loads(bytes(tensors.pop(TREE).numpy()))
        return decode_tree(tree, tensors)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CorruptSnapshot(
            f"'{file}' holds no part of a snapshot ({error!r}); restore another snapshot"
        ) from error
