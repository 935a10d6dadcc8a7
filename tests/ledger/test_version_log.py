"""The log of versions: only appended to, ids in order, time never back, damage named."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import ClockError, DataError, NestlingError, VersionError
from nestling.ledger.version_log import VERSIONS, VersionLog, check_same_plan, digest_plan


def add(log: VersionLog, at: float, **more: Any) -> Any:
    return log.add("learned", at=at, snapshot=f"snapshots/{at}", digests={"head": "ab"}, **more)


figures = st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False), max_size=3)


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 1e6), figures, st.text(max_size=8), st.integers(0, 10**9)),
        min_size=1,
        max_size=6,
    ),
    cut=st.integers(0, 10**6),
)
def test_what_is_added_is_read_back_and_a_torn_line_is_dropped(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[float, dict[str, float], str, int]],
    cut: int,
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log, at, sizes = VersionLog(folder), 0.0, [0]
    for step, changes, reason, count in steps:
        at += step
        add(log, at, changes=changes, reason=reason, num_examples=count)
        sizes.append(log.num_bytes)
    made = log.records
    again = VersionLog(folder)
    assert [one.id for one in again.records] == [f"v{n:04d}" for n in range(1, len(steps) + 1)]
    assert [one.parent for one in made] == ["", *(one.id for one in made[:-1])]
    for one, other in zip(made, again.records, strict=True):
        # Infinite changes are null in JSON, whichever sign they had.
        assert {k: math.inf if math.isinf(v) else v for k, v in one.changes.items()} == dict(
            other.changes
        )
        assert (one.reason, one.num_examples, one.at) == (
            other.reason,
            other.num_examples,
            other.at,
        )
    # Cut anywhere: whole lines stay, half a line is dropped, and the next version takes its place.
    end = cut % (sizes[-1] + 1)
    os.truncate(folder / VERSIONS, end)
    whole = sum(size <= end for size in sizes[1:])
    torn = VersionLog(folder)
    assert len(torn.records) == whole
    assert add(torn, at).id == f"v{whole + 1:04d}"
    assert len(VersionLog(folder).records) == whole + 1


def test_a_clock_that_went_back_is_refused_and_nothing_written(tmp_path: Path) -> None:
    log = VersionLog(tmp_path)
    add(log, 1_000_000.0)
    before = (tmp_path / VERSIONS).read_bytes()
    with pytest.raises(ClockError) as caught:
        add(log, 999_990.0)
    text = str(caught.value)
    assert "1970-01-12 13:46:30 UTC" in text
    assert "1970-01-12 13:46:40 UTC" in text
    assert "set the clock right" in text
    with pytest.raises(VersionError, match="nan"):
        add(log, math.nan)
    assert (tmp_path / VERSIONS).read_bytes() == before
    assert add(log, 1_000_000.0).id == "v0002"  # the same time is not before


def test_an_unknown_version_is_named_with_the_nearest(tmp_path: Path) -> None:
    log = VersionLog(tmp_path)
    with pytest.raises(VersionError, match="has no versions yet"):
        log.find("v0001")
    for at in range(4):
        add(log, float(at))
    with pytest.raises(VersionError, match="did you mean 'v0004'"):
        log.find("v004")
    assert [one.id for one in log.list_between("v0002", "v0003")] == ["v0002", "v0003"]
    with pytest.raises(VersionError, match="v0003 came after v0002"):
        log.list_between("v0003", "v0002")


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    log = VersionLog(tmp_path)
    for at in range(3):
        add(log, float(at))
    path = tmp_path / VERSIONS
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:-9], lines[2]]) + "\n")
    with pytest.raises(DataError, match=r"versions\.jsonl', line 2"):
        VersionLog(tmp_path)
    path.write_text("\n".join([lines[0], lines[2]]) + "\n")  # a line was taken out
    with pytest.raises(DataError, match=r"line 2 holds version 'v0003' where 'v0002'"):
        VersionLog(tmp_path)
    data = json.loads(lines[0])
    del data["snapshot"]
    path.write_text(json.dumps(data) + "\n")
    with pytest.raises(DataError, match="line 1 is no version"):
        VersionLog(tmp_path)


def test_lines_beyond_a_position_count_for_nothing(tmp_path: Path) -> None:
    log = VersionLog(tmp_path)
    add(log, 1.0)
    position = log.num_bytes
    add(log, 2.0)
    resumed = VersionLog(tmp_path, num_bytes=position)
    assert resumed.latest.id == "v0001"
    assert add(resumed, 3.0).id == "v0002"
    assert [one.at for one in VersionLog(tmp_path).records] == [1.0, 3.0]


def test_a_full_disk_keeps_earlier_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = VersionLog(tmp_path)
    add(log, 1.0)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(NestlingError, match="No space left on device; earlier records are kept"):
        add(log, 2.0)
    monkeypatch.undo()
    assert log.latest.id == VersionLog(tmp_path).latest.id == "v0001"


def test_the_baseline_is_the_last_validated_version_else_the_first(tmp_path: Path) -> None:
    log = VersionLog(tmp_path)
    assert log.baseline is None
    for at in range(3):
        add(log, float(at))
    assert log.baseline is not None
    assert log.baseline.id == "v0001"
    log.add("validated", at=5.0, snapshot="snapshots/2.0", digests={}, by="Ada")
    add(log, 6.0)
    assert log.baseline.id == "v0004"


def test_a_version_of_another_plan_is_refused(tmp_path: Path) -> None:
    log = VersionLog(tmp_path)
    one, other = digest_plan({"level": 1}), digest_plan({"level": 2})
    record = add(log, 1.0, plan_digest=one)
    check_same_plan(record, one)
    with pytest.raises(VersionError, match=f"another plan .{one[:12]}; now {other[:12]}"):
        check_same_plan(record, other)
