"""A small governed run as its records tell it: all kinds of clauses, events and versions."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import (
    EvaluationProtocol,
    FixedBehaviour,
    Interface,
    LevelRole,
    MayChange,
    MustChange,
    Review,
    Risk,
    StaysFixed,
)
from nestling.judge.contract.findings import GovernanceEvent
from nestling.judge.contract.probe_spec import ProbeSpec
from nestling.judge.probes.probe_result import ProbePart, ProbeResult
from nestling.report.audit.audit_records import AuditRecords, read_audit_records

START = datetime(2026, 11, 2, 8, 0, tzinfo=UTC).timestamp()
DAY = 86_400.0
NOW = START + 26 * DAY  # 28 November 2026
BUDAPEST = "data of Budapest <script>alert(1)</script>"
WRONG = "Zurich's labels were wrong"
DIGESTS = {"spine": "ab" * 32, "ward": "cd" * 32}


def make_contract() -> Contract:
    return Contract(
        "heart-triage",
        purpose="Says which patients with chest pain need an angiogram first.",
        owner="Dr. Amara Okafor, cardiology",
        levels=[
            LevelRole("spine", role="spine", materiality="high"),
            LevelRole("ward", role="fast", materiality="low", scope="subject"),
        ],
        may_change=[
            MayChange("M1", level="ward", what="how a ward codes chest pain", per_day=0.05),
            MayChange(
                "M2",
                level="spine",
                what="new guideline data",
                per_update=0.02,
                since_validation=0.04,
                least_hours=24.0,
                approvals=2,
                trigger="proposal",
            ),
        ],
        must_stay_fixed=StaysFixed(
            parameters=["encoder.*"],
            digests={"encoder.weight": "ef" * 32},
            behaviour=[
                FixedBehaviour("B1", probe="accuracy", least=0.75, fall=0.02),
                FixedBehaviour("B2", probe="sex-gap", most=0.10, views=["spine", "whole"]),
                FixedBehaviour("B3", probe="canary", least=1.0, views=["spine"]),
            ],
            interface=Interface("classification", input_shape=[13], num_outputs=2),
        ),
        must_change_by=[
            MustChange(
                "H1", "Women over 65 are missed.", "fnr-old", "spine", date(2027, 1, 31), most=0.1
            ),
            MustChange(
                "H2", "Silent infarcts are missed.", "silent", "spine", date(2026, 11, 20), most=0.2
            ),
        ],
        protocol=EvaluationProtocol(least_examples=30, data="Held-out patients of four hospitals."),
        reviews=[
            Review("Ethics board", date(2026, 10, 1), date(2027, 3, 31), "first review"),
            Review("Internal audit", date(2026, 4, 1), date(2026, 9, 30)),
        ],
        risks=[
            Risk(
                "R1",
                "A patient is sent home with a blocked artery.",
                "critical",
                ["B1", "sex-gap", "double reading"],
                "about 2 in 100",
                "Dr. Okafor",
                date(2026, 12, 31),
            ),
            Risk(
                "R2",
                "One ward's habits spread to all.",
                "serious",
                ["M2"],
                "small",
                "Dr. Okafor",
                date(2026, 11, 1),
            ),
            Risk("R3", "Nurses trust it too much.", "minor"),
        ],
        probes=[
            ProbeSpec("accuracy", "accuracy", groups=["hospital"]),
            ProbeSpec("sex-gap", "false_negative_gap", groups=["sex"]),
            ProbeSpec("canary", "canaries"),
            ProbeSpec("fnr-old", "false_negative_rate"),
            ProbeSpec("silent", "false_negative_rate"),
        ],
    )


def make_versions() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def add(
        day: float, origin: str, by: str = "", reason: str = "", clause: str = "", **moved: Any
    ) -> None:
        """Each level moved by the first figure, and lies as far as the second from where it was."""
        number = len(rows) + 1
        rows.append(
            {
                "id": f"v{number:04d}",
                "at": START + day * DAY,
                "origin": origin,
                "snapshot": f"snapshots/v{number:04d}",
                "digests": DIGESTS,
                "parent": f"v{number - 1:04d}" if rows else "",
                "contract_digest": make_contract().digest,
                "by": by,
                "reason": reason,
                "clause": clause,
                "num_examples": 1000 * (number - 1),
                "changes": {name: one for name, (one, _) in moved.items() if one is not None},
                "since_validation": {name: since for name, (_, since) in moved.items()},
            }
        )

    add(0.0, "began", spine=(None, 0.0), ward=(None, 0.0))
    add(0.1, "validated", "Dr. Li", "baseline", spine=(None, 0.0), ward=(None, 0.0))
    add(3.0, "learned", clause="M1", spine=(0.0, 0.0), ward=(0.012, 0.012))
    add(5.0, "learned", clause="M1", spine=(0.0, 0.0), ward=(0.009, 0.0185))
    add(
        8.0,
        "committed",
        "ana",
        BUDAPEST,
        "M2",
        spine=(0.0123, 0.0123),
        ward=(0.0, 0.0185),
    )
    add(
        12.0,
        "committed",
        "ana",
        "data of Zurich",
        "M2",
        spine=(0.0181, 0.0298),
        ward=(None, 0.0185),
    )
    add(14.0, "rolled back", "Dr. Li", WRONG, spine=(0.0178, 0.0123), ward=(None, 0.0185))
    add(20.0, "learned", clause="M1", spine=(None, 0.0123), ward=(0.0213, 0.0301))
    return rows


def make_events() -> list[dict[str, Any]]:
    def event(happening: Any, day: float, message: str, **fields: Any) -> dict[str, Any]:
        return GovernanceEvent(happening, START + day * DAY, message, **fields).to_record()

    spine = {"level": "spine"}
    return [
        event("validated", 0.1, "baseline", by="Dr. Li", version="v0002"),
        event(
            "held",
            2.0,
            "more than 20 labels an hour",
            by="ward 7",
            clause="rate",
            figures={"labels_per_hour": 61.0},
        ),
        event(
            "held",
            2.1,
            "more than 20 labels an hour",
            by="ward 7",
            clause="rate",
            figures={"labels_per_hour": 48.0},
        ),
        event("refused", 2.2, "its gradient is 9 times the usual", by="ward 9", clause="norm"),
        event(
            "proposed",
            7.5,
            BUDAPEST,
            by="ana",
            clause="M2",
            **spine,
        ),
        event(
            "judged",
            7.6,
            "0.812 of at least 0.75",
            clause="B1",
            view="spine",
            passed=True,
            figures={"value": 0.812},
            **spine,
        ),
        event(
            "judged",
            7.6,
            "0.834 of at least 0.75",
            clause="B1",
            view="whole",
            passed=True,
            figures={"value": 0.834},
            **spine,
        ),
        event(
            "judged",
            7.6,
            "0.07 of at most 0.1",
            clause="B2",
            view="spine",
            passed=True,
            figures={"value": 0.07},
            **spine,
        ),
        event("approved", 7.7, "", by="Bo Lind", clause="M2", **spine),
        event("approved", 7.9, "", by="Cem Aydin", clause="M2", **spine),
        event(
            "committed",
            8.0,
            "all gates passed",
            by="ana",
            clause="M2",
            version="v0005",
            undo="nestling rollback run spine --to v0004",
            **spine,
        ),
        event("proposed", 9.0, "p0002: data of Long Beach", by="ana", clause="M2", **spine),
        event(
            "judged",
            9.1,
            "0.17 of at most 0.1",
            clause="B2",
            view="spine",
            passed=False,
            figures={"value": 0.17, "limit": 0.1},
            **spine,
        ),
        event(
            "judged",
            9.1,
            "0.06 of at most 0.1",
            clause="B2",
            view="whole",
            passed=True,
            figures={"value": 0.06, "limit": 0.1},
            **spine,
        ),
        event(
            "judged", 9.1, "12 rows of at least 30", clause="B3", view="spine", passed=None, **spine
        ),
        event(
            "refused",
            9.2,
            "the spine alone fails B2: 0.17 of at most 0.1",
            by="ana",
            clause="B2",
            view="spine",
            figures={"value": 0.17, "limit": 0.1},
            **spine,
        ),
        event("proposed", 11.0, "data of Zurich", by="ana", clause="M2", **spine),
        event("approved", 11.5, "", by="Bo Lind", clause="M2", **spine),
        event("approved", 11.6, "", by="Cem Aydin", clause="M2", **spine),
        event(
            "committed", 12.0, "all gates passed", by="ana", clause="M2", version="v0006", **spine
        ),
        event(
            "rolled back",
            14.0,
            "Zurich's labels were wrong",
            by="Dr. Li",
            version="v0007",
            undo="nestling rollback run spine --to v0006",
            **spine,
        ),
        event(
            "braked",
            16.0,
            "an update was not finite; put back to its last good state",
            level="ward",
        ),
        event("changed", 17.0, "period 32 to 64: it moved too often", by="ana", level="ward"),
        event(
            "alarm",
            19.0,
            "half of the spine's budget is used",
            figures={"since_validation": 0.0298},
            **spine,
        ),
        event(
            "duty", 19.0, "H2 has expired and is not met: 'spine' is frozen", clause="H2", **spine
        ),
    ]


def make_probes() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []

    def measure(
        version: str,
        day: float,
        view: str,
        probe: str,
        value: float,
        half: float,
        better: Any = "higher",
        parts: Any = (),
        rows: int = 300,
        too_few: Any = (),
        metric: str = "accuracy",
    ) -> None:
        made = tuple(ProbePart(n, v, v - h, v + h, c) for n, v, h, c in parts)
        result = ProbeResult(
            probe,
            metric,
            value,
            value - half,
            value + half,
            rows,
            0.95,
            better,
            "99" * 32,
            made,
            too_few,
        )
        lines.append(
            {"at": START + day * DAY, "version": version, "view": view, **result.to_record()}
        )

    nan = float("nan")
    for version, day, spine, whole in (
        ("v0002", 0.1, 0.80, 0.82),
        ("v0004", 5.0, 0.80, 0.83),
        ("v0005", 8.0, 0.812, 0.834),
        ("v0006", 12.0, 0.77, 0.81),
        ("v0007", 14.0, 0.812, 0.834),
    ):
        for view, value in (("spine", spine), ("whole", whole)):
            parts = [
                ("hospital=Cleveland", value + 0.03, 0.03, 160),
                ("hospital=Budapest", value - 0.02, 0.04, 95),
                ("hospital=Zurich", value - 0.01, 0.05, 45),
                ("hospital=Long Beach", nan, nan, 12),
            ]
            few = ("hospital=Long Beach has 12 rows of 30",)
            measure(version, day, view, "accuracy", value, 0.02, parts=parts, too_few=few)
    for version, day, spine, whole in (
        ("v0004", 5.0, (0.08, 0.12), (0.07, 0.10)),
        ("v0005", 8.0, (0.08, 0.15), (0.07, 0.11)),
        ("p0002", 9.0, (0.08, 0.25), (0.08, 0.14)),
        ("v0006", 12.0, (0.07, 0.31), (0.07, 0.16)),
        ("v0007", 14.0, (0.08, 0.15), (0.07, 0.11)),
    ):
        for view, (men, women) in (("spine", spine), ("whole", whole)):
            parts = [("sex=male", men, 0.02, 200), ("sex=female", women, 0.03, 100)]
            measure(
                version,
                day,
                view,
                "sex-gap",
                women - men,
                0.03,
                "lower",
                parts,
                metric="false_negative_gap",
            )
    measure("v0007", 14.0, "spine", "canary", 1.0, 0.0, rows=40, metric="canaries")
    for view in ("spine", "whole"):
        measure("v0007", 14.0, view, "fnr-old", 0.14, 0.03, "lower", metric="false_negative_rate")
        measure("v0007", 14.0, view, "silent", 0.27, 0.05, "lower", metric="false_negative_rate")
    return sorted(lines, key=lambda line: float(line["at"]))


def make_findings() -> dict[str, Any]:
    three = {"value": 0.27, "low": 0.22, "high": 0.32, "num_examples": 300.0}
    rows: list[tuple[Any, ...]] = [
        ("M1", "passed", "level 'ward' changed by 0.0213 per day", "", {"per_day": 0.0213}),
        ("M2", "passed", "within its budget", "", {"since_validation": 0.0123}),
        ("parameters", "passed", "1 fixed parameter is bit for bit as signed", "", {}),
        ("interface", "passed", "task 'classification', num_outputs 2", "", {}),
        (
            "B1",
            "passed",
            "accuracy = 0.812",
            "spine",
            three | {"value": 0.812, "low": 0.79, "high": 0.83},
        ),
        (
            "B1",
            "passed",
            "accuracy = 0.834",
            "whole",
            three | {"value": 0.834, "low": 0.81, "high": 0.85},
        ),
        ("B2", "failed", "sex-gap = 0.112 is above 0.1", "spine", {"value": 0.112}),
        ("B2", "passed", "sex-gap = 0.04", "whole", {"value": 0.04}),
        ("B3", "not judged", "12 rows of 30", "spine", {}),
        ("H1", "passed", "open: 71 days left", "spine", {"value": 0.14, "met": 0.0}),
        ("H1", "passed", "met: fnr-old = 0.09", "whole", {"value": 0.09, "met": 1.0}),
        ("H2", "failed", "was due by 2026-11-20", "spine", three | {"met": 0.0}),
        ("H2", "failed", "was due by 2026-11-20", "whole", three | {"met": 0.0}),
        ("reviews", "passed", "reviewed by Ethics board", "", {}),
        ("R1", "passed", "accepted by Dr. Okafor", "", {}),
    ]
    names = ("clause", "status", "message", "view", "figures")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    for one in found:  # as pairs, as a tuple becomes in JSON
        one["figures"] = [list(pair) for pair in one["figures"].items()]
    return {"at": START + 21 * DAY, "findings": found}


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_governed_run(
    folder: Path,
    contract: Contract | None = None,
    versions: list[dict[str, Any]] | None = None,
    events: list[dict[str, Any]] | None = None,
    probes: list[dict[str, Any]] | None = None,
    findings: dict[str, Any] | None = None,
) -> Path:
    """Write a run; files that are None are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    toml = (contract or make_contract()).to_toml()
    (folder / "contract.toml").write_text(toml, encoding="utf-8")
    for name, records in (("versions", versions), ("governance", events), ("probes", probes)):
        if records is not None:
            write_lines(folder / f"{name}.jsonl", records)
    if findings is not None:
        (folder / "findings.json").write_text(json.dumps(findings), encoding="utf-8")
    return folder


def write_whole_run(folder: Path) -> Path:
    return write_governed_run(
        folder, None, make_versions(), make_events(), make_probes(), make_findings()
    )


@pytest.fixture
def governed(tmp_path: Path) -> Path:
    """The folder of a governed run."""
    return write_whole_run(tmp_path / "run")


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., AuditRecords]:
    """Write a run from what is given, and read its records."""

    def make(**parts: Any) -> AuditRecords:
        return read_audit_records(write_governed_run(tmp_path / "made", **parts))

    return make


@pytest.fixture
def records(governed: Path) -> AuditRecords:
    """The records of the governed run."""
    return read_audit_records(governed)


@pytest.fixture
def now() -> float:
    """The moment at which its audit is made."""
    return NOW
