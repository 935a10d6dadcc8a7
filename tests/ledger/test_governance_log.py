"""The log of what happened under a contract: read back as it was written, damage named."""

import math
from pathlib import Path

import pytest

from nestling.core.errors import DataError
from nestling.judge.contract.findings import GovernanceEvent
from nestling.ledger.governance_log import GOVERNANCE, GovernanceLog


def test_events_are_read_back(tmp_path: Path) -> None:
    log = GovernanceLog(tmp_path / "new")
    assert log.read() == []
    events = [
        GovernanceEvent("refused", 2.0, "gap too wide", level="spine", figures={"gap": 0.2}),
        GovernanceEvent("validated", 1.0, "by hand", by="Ada", undo="nestling versions RUN"),
    ]
    for event in events:
        log.add(event)
    assert GovernanceLog(tmp_path / "new").read() == events
    log.add(GovernanceEvent("judged", 3.0, "too few rows", figures={"gap": math.nan}))
    assert math.isnan(log.read()[-1].figures["gap"])


def test_a_torn_line_is_dropped_and_a_damaged_one_named(tmp_path: Path) -> None:
    log = GovernanceLog(tmp_path)
    log.add(GovernanceEvent("alarm", 1.0, "one"))
    path = tmp_path / GOVERNANCE
    with path.open("a") as file:
        file.write('{"happening": "ala')
    assert [event.message for event in log.read()] == ["one"]
    log.add(GovernanceEvent("alarm", 2.0, "two"))
    assert [event.message for event in log.read()] == ["one", "two"]
    with path.open("a") as file:
        file.write('{"at": 3.0}\n')
    with pytest.raises(DataError, match=r"governance\.jsonl', line 3 is no event"):
        log.read()
