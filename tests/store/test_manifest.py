"""A manifest names the files of its own folder, says what they are of, and is sealed."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nestling.core.errors import CorruptSnapshot, ForeignSnapshot
from nestling.store import manifest as module
from nestling.store import read_part, read_snapshot, write_snapshot

PARTS = {"level head": {"w": torch.ones(3)}, "counters": {"steps": 1}}


def seal(body: object) -> bytes:
    """As a writer seals it."""
    text = json.dumps(body).encode()
    return b'{"sha256": "%s", "body": %s}\n' % (hashlib.sha256(text).hexdigest().encode(), text)


def change(path: Path, changes: dict[str, Any]) -> None:
    """Put other entries into the manifest, and seal it again."""
    body = json.loads((path / "manifest.json").read_text())["body"]
    (path / "manifest.json").write_bytes(seal({**body, **changes}))


def write_former(path: Path, schema: int = 2) -> None:
    """As version 1 of the format lay on the disk."""
    path.mkdir(exist_ok=True)
    body = {"format": 1, "kind": "learner", "schema": schema, "state": {}}
    (path / "state.json").write_bytes(seal(body))
    (path / "tensors-0123456789ab.safetensors").write_bytes(b"tensors")


def test_it_says_kind_schema_and_for_each_part_file_sum_and_size(tmp_path: Path) -> None:
    write_snapshot(tmp_path, PARTS, kind="learner", schema=7)
    text = (tmp_path / "manifest.json").read_bytes()
    body = json.loads(text)["body"]
    assert text == seal(body)
    assert (body["format"], body["kind"], body["schema"]) == (2, "learner", 7)
    assert list(body["parts"]) == list(PARTS)
    for part in body["parts"].values():
        content = (tmp_path / part["file"]).read_bytes()
        assert part["num_bytes"] == len(content)
        assert part["sha256"] == hashlib.sha256(content).hexdigest()
        assert part["file"] == part["sha256"] + ".safetensors"


def test_another_kind_or_schema_is_foreign(tmp_path: Path) -> None:
    write_snapshot(tmp_path, PARTS, kind="learner", schema=2)
    with pytest.raises(ForeignSnapshot, match="is of a 'learner', not of a 'memory'"):
        read_snapshot(tmp_path, kind="memory", schema=2)
    with pytest.raises(
        ForeignSnapshot,
        match=r"by an earlier version of nestling \(schema 2, this one reads 3\); write it again",
    ):
        read_snapshot(tmp_path, kind="learner", schema=3)
    with pytest.raises(ForeignSnapshot, match=r"by another version of nestling \(schema 2, .* 1\)"):
        read_snapshot(tmp_path, kind="learner", schema=1)


def test_another_file_format_is_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "FORMAT", 3)
        write_snapshot(tmp_path, PARTS, kind="k", schema=1)
    with pytest.raises(ForeignSnapshot, match=r"another file format than 2.*; write it again"):
        read_snapshot(tmp_path, kind="k", schema=1)


# --- of an earlier version


def test_the_former_format_is_named_in_one_line(tmp_path: Path) -> None:
    write_former(tmp_path / "last")
    for read in (
        lambda: read_snapshot(tmp_path / "last", kind="learner", schema=3),
        lambda: read_part(tmp_path / "last", "counters", kind="learner", schema=3),
    ):
        with pytest.raises(
            ForeignSnapshot,
            match=r"last' was written by an earlier version .*\(schema 2, .*; write it again",
        ) as caught:
            read()
        assert "\n" not in str(caught.value)
    content = (tmp_path / "last" / "state.json").read_bytes()
    (tmp_path / "last" / "state.json").write_bytes(content[:80])
    with pytest.raises(ForeignSnapshot, match=r"\(schema unknown, "):
        read_snapshot(tmp_path / "last", kind="learner", schema=3)


def test_written_again_it_replaces_the_former_format(tmp_path: Path) -> None:
    write_former(tmp_path)
    write_snapshot(tmp_path, PARTS, kind="learner", schema=3)
    assert read_snapshot(tmp_path, kind="learner", schema=3)["counters"] == {"steps": 1}
    names = {file.name for file in tmp_path.iterdir()}
    assert len(names) == 3
    assert "state.json" not in names


def test_a_file_of_the_users_with_that_name_stays(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"mine": 1}')
    write_snapshot(tmp_path, PARTS, kind="learner", schema=3)
    assert (tmp_path / "state.json").read_text() == '{"mine": 1}'


# --- changed


@pytest.mark.parametrize(
    "file",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "..",
        "",
        "sub/{sha256}.safetensors",
        "../{sha256}.safetensors",
        "{sha256}.safetensors\n",
        "{other}.safetensors",
        "{sha256}",
        "manifest.json",
        3,
        None,
    ],
)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, file: object) -> None:
    path = tmp_path / "last"
    write_snapshot(path, PARTS, kind="k", schema=1)
    parts = json.loads((path / "manifest.json").read_text())["body"]["parts"]
    entry = parts["counters"]
    content = (path / entry["file"]).read_bytes()
    # What it points to is there, and whole.
    (path / "sub").mkdir()
    for place in (tmp_path / "secret.safetensors", tmp_path / entry["file"]):
        place.write_bytes(content)
    (path / "sub" / entry["file"]).write_bytes(content)
    if isinstance(file, str):
        file = file.format(sha256=entry["sha256"], other="0" * 64)
    change(path, {"parts": {**parts, "counters": {**entry, "file": file}}})
    with pytest.raises(
        CorruptSnapshot, match="names for part 'counters' no file of this"
    ) as caught:
        read_snapshot(path, kind="k", schema=1)
    assert "\n" not in str(caught.value)
    with pytest.raises(CorruptSnapshot):
        read_part(path, "level head", kind="k", schema=1)


def test_a_sum_with_a_path_in_it_is_refused(tmp_path: Path) -> None:
    write_snapshot(tmp_path, PARTS, kind="k", schema=1)
    entry = {"file": "../x.safetensors", "sha256": "../x", "num_bytes": 3}
    change(tmp_path, {"parts": {"counters": entry}})
    with pytest.raises(CorruptSnapshot, match="no file of this folder"):
        read_snapshot(tmp_path, kind="k", schema=1)


@pytest.mark.parametrize("change_by", [-1, 1])
def test_another_size_is_refused(tmp_path: Path, change_by: int) -> None:
    write_snapshot(tmp_path, PARTS, kind="k", schema=1)
    parts = json.loads((tmp_path / "manifest.json").read_text())["body"]["parts"]
    parts["counters"]["num_bytes"] += change_by
    change(tmp_path, {"parts": parts})
    with pytest.raises(CorruptSnapshot, match=r"has \d+ bytes instead of \d+; restore another"):
        read_snapshot(tmp_path, kind="k", schema=1)


@pytest.mark.parametrize("parts", [None, [], "x", {"a": None}, {"a": {}}, {"a": {"file": "x"}}])
def test_parts_of_another_form_are_refused(tmp_path: Path, parts: object) -> None:
    write_snapshot(tmp_path, PARTS, kind="k", schema=1)
    change(tmp_path, {"parts": parts})
    with pytest.raises(CorruptSnapshot, match=r"names no parts|names for part 'a' no file"):
        read_snapshot(tmp_path, kind="k", schema=1)


@pytest.mark.parametrize("body", [[], 3, None, "x"])
def test_a_sealed_text_that_is_no_manifest(tmp_path: Path, body: object) -> None:
    (tmp_path / "manifest.json").write_bytes(seal(body))
    with pytest.raises(CorruptSnapshot, match="holds no manifest"):
        read_snapshot(tmp_path, kind="k", schema=1)


@pytest.mark.parametrize("text", [b"", b"{}", b"{'a'", b"\xff\xfe", b'{"version": 3}\n'])
def test_a_manifest_of_another_program(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(CorruptSnapshot, match="does not match its sha256"):
        read_snapshot(tmp_path, kind="k", schema=1)


@pytest.mark.parametrize(
    "tensors",
    [
        {"/w": torch.ones(2)},
        {"$tree": torch.ones(2)},
        {"$tree": torch.tensor([*b'{"w": {"$tensor": "/w"}}'], dtype=torch.uint8)},
        {"$tree": torch.tensor([*b'{"$float": "much"}'], dtype=torch.uint8)},
        {"$tree": torch.tensor([*b"[" * 100_000], dtype=torch.uint8)},
        None,
    ],
)
def test_a_named_file_that_holds_no_part(tmp_path: Path, tensors: Any) -> None:
    import safetensors.torch

    write_snapshot(tmp_path, PARTS, kind="k", schema=1)
    payload = b"no safetensors" if tensors is None else safetensors.torch.save(tensors)
    sha256 = hashlib.sha256(payload).hexdigest()
    (tmp_path / f"{sha256}.safetensors").write_bytes(payload)
    entry = {"file": f"{sha256}.safetensors", "sha256": sha256, "num_bytes": len(payload)}
    change(tmp_path, {"parts": {"counters": entry}})
    with pytest.raises(CorruptSnapshot, match="holds no part of a snapshot") as caught:
        read_snapshot(tmp_path, kind="k", schema=1)
    assert "\n" not in str(caught.value)
