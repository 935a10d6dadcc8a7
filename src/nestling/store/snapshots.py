"""Snapshots: a nested state on disk that is either whole or refused, wherever the power fails.

A snapshot is a folder of two files:

- `tensors-<sha12>.safetensors` holds every tensor, named by its JSON pointer (RFC 6901);
- `state.json` holds the rest, the tensor file's size and sha256, and its own sha256.

The tensor file is named by its content and written first; only then is `state.json` replaced,
in one rename. Until that rename a reader finds the old snapshot, after it the new one.
"""

import contextlib
import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nestling.core.errors import CorruptSnapshot, ForeignSnapshot, SnapshotError, suggest
from nestling.core.machine import fingerprint
from nestling.store.state_trees import decode_tree, encode_tree
from nestling.store.whole_files import LEFT_BEHIND, sync_folder, write_whole

FORMAT = 1  # of the two files; `schema` is the caller's own version of the state inside
# state.json is PREFIX + sha256 of body + MIDDLE + body + SUFFIX, so no byte of it is unchecked.
PREFIX, MIDDLE, SUFFIX = b'{"sha256": "', b'", "body": ', b"}\n"
NUM_HEX = 64


def write_snapshot(path: Path, state: Mapping[str, object], *, kind: str, schema: int) -> None:
    """Write `state` as the snapshot folder `path`, atomically; one writer per folder at a time.

    Args:
        path: the folder; made if missing, its older snapshot replaced if not.
        state: nested str-keyed dicts, lists, JSON scalars (infinities and NaN included) and
            strided tensors of any device; tensors come back detached, on the CPU. Tuples come
            back as lists.
        kind: what the state is of, e.g. "learner"; checked when it is read.
        schema: version of the state's layout; checked when it is read.

    Raises:
        SnapshotError: something in `state` cannot be stored, or the folder cannot be written
            (disk full, no permission); an older snapshot in it is then untouched.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     where = Path(folder) / "last"
    ...     write_snapshot(where, {"w": torch.ones(2), "step": 3}, kind="demo", schema=1)
    ...     read_snapshot(where, kind="demo", schema=1)
    {'w': tensor([1., 1.]), 'step': 3}
    """
    import safetensors.torch

    tree, tensors = encode_tree(state)
    payload = safetensors.torch.save(tensors)
    digest = hashlib.sha256(payload).hexdigest()
    body = {
        "format": FORMAT,
        "kind": kind,
        "schema": schema,
        "tensors": {"sha256": digest, "num_bytes": len(payload)},
        "torch": torch.__version__,
        "machine": fingerprint(),
        "state": tree,
    }
    text = _seal(json.dumps(body, allow_nan=False).encode())
    try:
        _publish(Path(path), _name_tensors(digest), payload, text)
    except OSError as error:
        megabytes = (len(payload) + len(text)) / 1e6
        remedy = (
            f"free {megabytes:.1f} MB or choose another disk"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            else "choose a folder that can be written"
        )
        raise SnapshotError(
            f"cannot write snapshot '{path}': {error.strerror or error}; {remedy} "
            "(an older snapshot there is untouched)"
        ) from error


def read_snapshot(path: Path, *, kind: str, schema: int) -> dict[str, object]:
    """Read back what `write_snapshot` wrote, after every byte of it has been checked.

    Args:
        path: the folder.
        kind: as it was written.
        schema: as it was written.

    Returns: the state, tensors on the CPU, each in memory of its own.

    Raises:
        SnapshotError: there is no snapshot at `path`, or it cannot be read.
        CorruptSnapshot: truncated, or at least one byte changed.
        ForeignSnapshot: of another kind or schema version.
    """
    path = Path(path)
    try:
        while True:
            text = _read_text(path)
            body = _unseal(path, text)
            _check_origin(path, body, kind, schema)
            try:
                payload = _read_payload(path, body)
            except (FileNotFoundError, CorruptSnapshot):
                # A writer may have replaced the snapshot between the two reads.
                if _read_text(path) == text:
                    raise
            else:
                break
    except FileNotFoundError as error:
        raise CorruptSnapshot(
            f"snapshot '{path}' has lost its file '{Path(error.filename).name}'; "
            "restore another snapshot"
        ) from error
    except OSError as error:
        raise SnapshotError(f"cannot read snapshot '{path}': {error.strerror or error}") from error
    return _decode(path, body, payload)


def _publish(path: Path, name: str, payload: bytes, text: bytes) -> None:
    """Write both files so that a reader sees the old pair or the new pair, never a mixture."""
    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    is_known = (path / name).exists()
    is_done = False
    try:
        # The folder is synced after each: the tensors must be found before the JSON points to them.
        write_whole(path / name, payload)
        write_whole(path / "state.json", text)
        is_done = True
    finally:
        if not is_done and not is_known:
            (path / name).unlink(missing_ok=True)
        if not is_done and is_new:
            with contextlib.suppress(OSError):
                path.rmdir()
    if is_new:
        sync_folder(path.parent)
    for stale in [*path.glob("tensors-*.safetensors"), *path.glob(LEFT_BEHIND)]:
        if stale.name != name:
            stale.unlink(missing_ok=True)


def _name_tensors(digest: str) -> str:
    return f"tensors-{digest[:12]}.safetensors"


def _seal(body: bytes) -> bytes:
    return PREFIX + hashlib.sha256(body).hexdigest().encode() + MIDDLE + body + SUFFIX


def _unseal(path: Path, text: bytes) -> dict[str, object]:
    start = len(PREFIX) + NUM_HEX + len(MIDDLE)
    body = text[start : -len(SUFFIX)]
    if _seal(body) != text:
        raise CorruptSnapshot(
            f"'{path / 'state.json'}' does not match its sha256 ({len(text)} bytes: truncated "
            "or changed); restore another snapshot"
        )
    content = json.loads(body)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ForeignSnapshot(
            f"snapshot '{path}' has another file format than {FORMAT}, the one this version of "
            "nestling reads; restore it with the version that wrote it"
        )
    return content


def _check_origin(path: Path, body: dict[str, object], kind: str, schema: int) -> None:
    if body["kind"] != kind:
        raise ForeignSnapshot(
            f"snapshot '{path}' is of a {body['kind']!r}, not of a {kind!r}; "
            f"restore it with a {body['kind']!r}"
        )
    if body["schema"] != schema:
        raise ForeignSnapshot(
            f"snapshot '{path}' has schema version {body['schema']}, this version of nestling "
            f"reads {schema}; restore it with the version that wrote it"
        )


def _read_text(path: Path) -> bytes:
    try:
        return (path / "state.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        near = [found.parent.name for found in path.parent.glob("*/state.json")]
        hint = suggest(path.name, near) if near else "there is none beside it either"
        raise SnapshotError(f"no snapshot at '{path}'; {hint}") from error


def _read_payload(path: Path, body: dict[str, object]) -> bytes:
    entry = body["tensors"]
    assert isinstance(entry, dict)
    file = path / _name_tensors(str(entry["sha256"]))
    payload = file.read_bytes()
    if len(payload) != entry["num_bytes"]:
        raise CorruptSnapshot(
            f"'{file}' has {len(payload)} bytes instead of {entry['num_bytes']}; "
            "restore another snapshot"
        )
    if hashlib.sha256(payload).hexdigest() != entry["sha256"]:
        raise CorruptSnapshot(
            f"'{file}' does not match its sha256 (bytes changed); restore another snapshot"
        )
    return payload


def _decode(path: Path, body: dict[str, object], payload: bytes) -> dict[str, object]:
    import safetensors.torch

    # Cloned into torch's own aligned memory: the bits of some kernels depend on the alignment.
    tensors: dict[str, Tensor] = {
        name: tensor.clone() for name, tensor in safetensors.torch.load(payload).items()
    }
    try:
        state = decode_tree(body["state"], tensors)
    except KeyError as error:
        raise CorruptSnapshot(
            f"snapshot '{path}' names the tensor {error} that it does not hold; "
            "restore another snapshot"
        ) from error
    assert isinstance(state, dict)
    return state
