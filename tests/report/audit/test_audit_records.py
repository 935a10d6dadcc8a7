"""Reading the records of a governed run: what is damaged is named, and the rest is there."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nestling.report.audit.audit_records import AuditRecords, read_audit_records

VERSION = {"id": "v0001", "at": 1.0, "origin": "began", "snapshot": "s", "digests": {}}
EVENT = {"happening": "alarm", "at": 1.0, "message": "it moved"}
PROBE = {"at": 1.0, "version": "v0001", "view": "spine", "probe": "p", "better": "higher"}


def test_all_records_are_read(records: AuditRecords) -> None:
    assert (len(records.versions), len(records.events)) == (8, 25)
    assert records.contract.name == "heart-triage"
    assert records.checked is not None
    assert dict(records.checked.findings[4].figures)["low"] == 0.79
    assert (records.damage, records.notes) == ((), ())
    long_beach = records.probes[0].result.parts[3]
    assert math.isnan(long_beach.value)
    assert long_beach.num_examples == 12


@pytest.mark.parametrize(
    ("name", "record", "words"),
    [
        ("versions", {**VERSION, "at": None}, "'at' is None; it must be seconds since 1970"),
        ("versions", {**VERSION, "at": 1e300}, "'at' is 1e+300"),
        ("versions", {**VERSION, "id": ""}, "'id' is ''; it must be a text"),
        ("versions", {**VERSION, "changes": [1]}, "'changes' is [1]; it must be an object"),
        ("versions", {**VERSION, "changes": {"a": "b"}}, "'a' is 'b'; it must be a number"),
        ("governance", {**EVENT, "happening": "vanished"}, "'happening' is 'vanished'; known:"),
        ("governance", {**EVENT, "passed": "yes"}, "'passed' is 'yes'"),
        ("governance", {**EVENT, "message": 3}, "'message' is 3; it must be a text"),
        ("probes", {**PROBE, "better": "more"}, "'better' is 'more'"),
        ("probes", {**PROBE, "parts": [1]}, "'parts' must be a list of objects"),
        ("probes", {**PROBE, "value": True}, "'value' is True; it must be a number"),
    ],
)
def test_a_wrong_line_is_named_and_the_others_are_kept(
    make_run: Callable[..., AuditRecords], name: str, record: dict[str, Any], words: str
) -> None:
    good = {"versions": VERSION, "governance": EVENT, "probes": PROBE}[name]
    key = {"versions": "versions", "governance": "events", "probes": "probes"}[name]
    found = make_run(**{key: [good, record, good]})
    (damage,) = found.damage
    assert damage.startswith(f"{name}.jsonl, line 2 is left out (")
    assert words in damage
    assert len(getattr(found, key)) == 2


@pytest.mark.parametrize("garbage", [b"garbage\n", b"\x00\xff\n", b"[1]\n", b"1e999\n", b"{}\n"])
def test_garbage_is_named(governed: Path, garbage: bytes) -> None:
    path = governed / "versions.jsonl"
    path.write_bytes(garbage + path.read_bytes())
    found = read_audit_records(governed)
    assert len(found.versions) == 8
    assert found.damage[0].startswith("versions.jsonl, line 1 is left out")


def test_a_last_line_that_was_cut_off_is_said(governed: Path) -> None:
    path = governed / "governance.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    found = read_audit_records(governed)
    assert found.damage == (
        "governance.jsonl, line 25 was cut off, as by a crash, and is left out",
    )
    assert len(found.events) == 24


def test_missing_files_and_a_clock_that_went_back_are_noted(
    make_run: Callable[..., AuditRecords],
) -> None:
    found = make_run(events=[{**EVENT, "at": 5.0}, EVENT, {**EVENT, "at": 0.5}])
    assert found.notes == (
        "versions.jsonl is missing: what it would say is not on this page",
        "probes.jsonl is missing: what it would say is not on this page",
        "governance.jsonl: the clock went back 2 times between lines",
    )


def test_a_change_that_is_null_was_not_finite(make_run: Callable[..., AuditRecords]) -> None:
    found = make_run(versions=[{**VERSION, "changes": {"spine": None}}])
    assert found.versions[0].changes == {"spine": math.inf}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "it must hold an object with 'at' and 'findings'"),
        ({"at": 1.0, "findings": [3]}, "3 is no finding"),
        ({"at": 1.0, "findings": [{"clause": "B1", "status": "fine"}]}, "'status' is 'fine'"),
        ({"findings": []}, "'at' is None"),
        ({"at": 1.0, "findings": [{"clause": "B1", "status": "passed", "figures": [1]}]}, "left"),
    ],
)
def test_damaged_findings_are_named(governed: Path, data: object, words: str) -> None:
    (governed / "findings.json").write_text(json.dumps(data))
    found = read_audit_records(governed)
    assert found.checked is None
    assert found.damage[0].startswith("findings.json is left out: ")
    assert words in found.damage[0]
