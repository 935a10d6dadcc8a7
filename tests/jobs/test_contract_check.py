"""A governed folder without a job is judged by what was recorded in it."""

import json
import math
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nestling as nl
from nestling.core.errors import DataError, UnknownLevel, VersionError
from nestling.jobs.contracts.contract_check import check_run, digest_run
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.findings import GovernanceEvent
from nestling.judge.contract.signing import sign_contract
from nestling.judge.probes import ProbeData
from nestling.judge.probes.probe_result import ProbePart, ProbeResult
from nestling.ledger.governance_log import GovernanceLog
from nestling.ledger.version_log import VersionLog

TODAY = date(2026, 12, 1)
RESULT = ProbeResult(
    *("acc", "accuracy", 0.8, 0.7, math.nan, 400, 0.95, "higher", "d1"),
    parts=(ProbePart("sex=f", 0.7, 0.6, 0.8, 200),),
)
CONTRACT = """
name = "governed"

[[levels]]
name = "spine"
role = "spine"

[[may_change]]
id = "M1"
level = "head"
what = "drift"
per_day = 0.5
since_validation = 0.5

[[may_change]]
id = "M2"
level = "spine"
what = "guidelines"
trigger = "proposal"
least_hours = 10

[must_stay_fixed]
parameters = ["1.*"]

[[must_stay_fixed.behaviour]]
id = "B1"
probe = "acc"
least = 0.75
fall = 0.05
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a learner with three versions: one that began it, one validated, one committed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    model[1].requires_grad_(False)
    plan = nl.Plan(nl.Level("head", match=["2.*"]), nl.Level("spine", match=["*"], period=4))
    learner = nl.Learner(model, plan)
    folder = tmp_path / "governed"
    folder.mkdir()
    log, lines = VersionLog(folder), []
    steps: list[tuple[Any, float, float]] = [
        ("began", 0.0, 0.5),
        ("validated", 100.0, 0.82),
        ("committed", 90_000.0, 0.8),
    ]
    for origin, at, value in steps:
        learner.snapshot(folder / "snapshots" / origin)
        log.add(
            origin,
            at=at,
            snapshot=f"snapshots/{origin}",
            digests=learner.levels.digests(),
            changes={"head": 0.3, "spine": 0.0},
            since_validation={"head": 0.4, "spine": 0.0},
        )
        for view in ("spine", "whole"):
            record = replace(RESULT, value=value).to_record()
            lines.append({"at": at, "version": log.latest.id, "view": view, **record})
    (folder / "probes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    events = GovernanceLog(folder)
    for hour in (0, 12):
        events.add(GovernanceEvent("committed", hour * 3600.0, "new guideline", clause="M2"))
    contract = tmp_path / "c.toml"
    contract.write_text(CONTRACT)
    signed = sign_contract(CONTRACT, digest_run(folder, Contract.of(contract)))
    contract.write_text(signed)
    return folder


def check(folder: Path, text: str | None = None) -> dict[tuple[str, str], tuple[str, str]]:
    contract = folder.parent / "c.toml"
    if text is not None:
        contract.write_text(text)
    report = check_run(contract, folder, TODAY)
    return {(one.clause, one.view): (one.status, one.message) for one in report.findings}


def test_what_was_recorded_is_judged(folder: Path) -> None:
    found = check(folder)
    assert {status for status, _ in found.values()} == {"passed"}, found
    assert "0.3 per day of 0.5, 0.4 since validation of 0.5" in found["M1", ""][1]
    assert "5 fixed parameters and buffers" in found["parameters", ""][1]
    assert "acc = 0.8, 400 rows" in found["B1", "spine"][1]


def test_figures_of_the_last_validation_are_compared(folder: Path) -> None:
    signed = (folder.parent / "c.toml").read_text()
    found = check(folder, signed.replace("fall = 0.05", "fall = 0.01"))
    status, message = found["B1", "whole"]
    assert status == "failed"
    assert "worse by 0.02 than 0.82 at the last validation" in message


def test_a_version_whose_fixed_parameter_changed_by_a_bit_is_named(folder: Path) -> None:
    from nestling.learn.parts import read_snapshot_state, write_snapshot_state

    place = folder / VersionLog(folder).latest.snapshot
    state = read_snapshot_state(place)
    state["levels"]["rest"]["1.weight"].view(torch.int32)[0] += 1
    write_snapshot_state(place, state, None)
    status, message = check(folder)["parameters", ""]
    assert status == "failed"
    assert "'1.weight' (changed)" in message


def test_commits_too_close_together_and_changes_of_one_day(folder: Path) -> None:
    signed = (folder.parent / "c.toml").read_text()
    found = check(folder, signed.replace("least_hours = 10", "least_hours = 24"))
    assert found["M2", ""][0] == "failed"
    assert "12 hours apart" in found["M2", ""][1]
    VersionLog(folder).add(
        "learned",
        at=90_001.0,
        snapshot="snapshots/committed",
        digests=VersionLog(folder).latest.digests,
        changes={"head": 0.3},
        since_validation={"head": 0.4},
    )
    found = check(folder, signed)
    assert "0.6 per day, at most 0.5" in found["M1", ""][1]
    # Nothing was measured of the newest version.
    assert found["B1", "spine"][0] == "not judged"


def test_an_unknown_level_and_a_damaged_line(folder: Path) -> None:
    with pytest.raises(UnknownLevel, match=r"'spin'; .*did you mean 'spine'"):
        check(folder, CONTRACT.replace('level = "spine"', 'level = "spin"'))
    lines = (folder / "probes.jsonl").read_text()
    (folder / "probes.jsonl").write_text(lines.replace('"confidence"', '"confidnce"'))
    with pytest.raises(DataError, match=r"no result of a probe \('confidence'\)"):
        check(folder, CONTRACT)


def test_a_folder_without_versions(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONTRACT)
    (tmp_path / "versions.jsonl").touch()
    with pytest.raises(VersionError, match="has no versions yet"):
        check_run(tmp_path / "c.toml", tmp_path, TODAY)


def test_a_folder_of_govern_is_judged_by_its_own_contract(tmp_path: Path) -> None:
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    model = nn.Sequential(nn.Linear(2, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    model[1].requires_grad_(False)
    plan = nl.Plan(nl.Level("head", match=["2.*"]), nl.Level("spine", match=["*"], period=4))
    learner = nl.Learner(model, plan)
    text = CONTRACT.replace("least = 0.75\nfall = 0.05", "least = 0.0\nfall = 1.0")
    text = text.replace("per_day = 0.5", "per_update = 0.1\nper_day = 0.5")
    text += '[[probes]]\nname = "acc"\nmetric = "accuracy"\n'
    contract, folder = tmp_path / "c.toml", tmp_path / "governed"
    contract.write_text(text)
    times = iter(range(1, 10_000))
    governed = nl.govern(
        *(learner, contract),
        probes={"acc": ProbeData(x, y)},
        folder=folder,
        now=lambda: float(next(times)),
    )
    learner.learn(x, y)
    governed.validate(by="Ada")
    report = check_run(folder / "contract.toml", folder, TODAY)
    found = {(one.clause, one.view): (one.status, one.message) for one in report.findings}
    assert found["parameters", ""][0] == "not judged", "not signed yet"
    assert "at most 0.1 per update, which is held" in found["M1", ""][1]
    del found["parameters", ""]
    assert {status for status, _ in found.values()} == {"passed"}, found
    # Of another contract nobody knows whether each update kept to its bounds.
    contract.write_text(text.replace("per_update = 0.1", "per_update = 0.01"))
    report = check_run(contract, folder, TODAY)
    assert report.findings[0].status == "not judged"
