"""A contract that contradicts itself is refused on one line, with the remedy."""

from typing import Any

import pytest

from nestling.core.errors import SettingError
from nestling.judge.contract.change_contract import Contract

M1 = {"id": "M1", "level": "head", "what": "drift"}
B1 = {"id": "B1", "probe": "acc", "least": 0.8}
H1 = {"id": "H1", "harm": "missed", "probe": "acc", "level": "head", "by": "2027-01-31"}
ACC = {"name": "acc", "metric": "accuracy"}
R1 = {"id": "R1", "hazard": "hidden harm", "severity": "serious"}
DIGEST = "ab" * 32

CONTRADICTIONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    # Of one clause.
    (
        {"may_change": [M1 | {"per_update": 0.2, "per_day": 0.1}]},
        ("'M1'", "per_update 0.2", "per_day 0.1", "lower per_update to 0.1"),
    ),
    (
        {"may_change": [M1 | {"per_day": 0.3, "since_validation": 0.1}]},
        ("per_day 0.3", "since_validation 0.1"),
    ),
    (
        {"may_change": [M1 | {"per_update": 0.3, "since_validation": 0.1}]},
        ("per_update 0.3", "since_validation 0.1"),
    ),
    (
        {"may_change": [M1 | {"approvals": 2}]},
        ("'M1'", "approvals = 2", "trigger = 'proposal' works"),
    ),
    ({"may_change": [M1 | {"least_hours": 6.0}]}, ("least_hours = 6", "trigger = 'proposal'")),
    (
        {"must_stay_fixed": {"behaviour": [B1 | {"most": 0.7}]}},
        ("'B1'", "least 0.8", "most 0.7", "swap them"),
    ),
    ({"must_stay_fixed": {"behaviour": [{"id": "B1", "probe": "acc"}]}}, ("'B1'", "no limit")),
    (
        {"levels": [{"name": "head", "role": "spine", "scope": "subject"}]},
        ("'head'", "spine", "'subject'", "scope 'global' works"),
    ),
    ({"must_change_by": [H1 | {"least": 1, "most": 2}]}, ("'H1'", "one target")),
    ({"must_change_by": [H1 | {"least": 1, "views": []}]}, ("'H1'", "no view")),
    (
        {"reviews": [{"by": "Ada", "on": "2026-02-01", "until": "2026-01-01"}]},
        ("'Ada'", "2026-01-01", "before it began"),
    ),
    (
        {"must_stay_fixed": {"parameters": ["w"], "digests": {"w": "abc"}}},
        ("64 hexadecimal digits", "'abc'"),
    ),
    # Of two.
    (
        {"may_change": [M1, M1 | {"id": "M2", "trigger": "proposal"}]},
        ("'M1' and 'M2'", "'automatic' and 'proposal'", "give both the same"),
    ),
    ({"may_change": [M1, M1]}, ("two clauses have the id 'M1'",)),
    ({"levels": [{"name": "a", "role": "fast"}] * 2}, ("two levels are called 'a'",)),
    ({"probes": [ACC, ACC]}, ("two probes are called 'acc'",)),
    (
        {"must_change_by": [H1 | {"least": 0.9}]},
        ("'H1'", "can never be met", "'head'", "add one"),
    ),
    (
        {"may_change": [M1 | {"level": "heads"}], "must_change_by": [H1 | {"least": 0.9}]},
        ("did you mean 'heads'?",),
    ),
    (
        {
            "may_change": [M1],
            "must_stay_fixed": {"behaviour": [B1 | {"least": None, "most": 0.85}]},
            "must_change_by": [H1 | {"least": 0.9}],
        },
        ("duty 'H1'", "least 0.9", "behaviour 'B1'", "most 0.85", "different views"),
    ),
    (
        {
            "must_stay_fixed": {
                "behaviour": [B1, {"id": "B2", "probe": "acc", "most": 0.5}],
            }
        },
        ("'B1'", "'B2'", "no figure meets both"),
    ),
    (
        {"must_stay_fixed": {"parameters": ["norm.*"], "digests": {"head.w": DIGEST}}},
        ("'head.w'", "['norm.*']", "add 'head.w' to parameters"),
    ),
    (
        {"probes": [ACC], "must_stay_fixed": {"behaviour": [B1 | {"probe": "akk"}]}},
        ("behaviour 'B1'", "'akk'", "known: ['acc']"),
    ),
    (
        {
            "probes": [ACC],
            "may_change": [M1],
            "must_change_by": [H1 | {"probe": "accc", "least": 1}],
        },
        ("duty 'H1'", "did you mean 'acc'?"),
    ),
    (
        {"probes": [ACC], "protocol": {"probes": ["akc"]}},
        ("the protocol", "'akc'", "did you mean 'acc'?"),
    ),
    (
        {"probes": [ACC], "may_change": [M1], "risks": [R1 | {"evidence": ["M2"]}]},
        ("risk 'R1'", "'M2'", "known: ['M1', 'R1', 'acc']", "need a blank"),
    ),
]


@pytest.mark.parametrize(("clauses", "said"), CONTRADICTIONS)
def test_a_contradiction_is_one_line_with_the_remedy(
    clauses: dict[str, Any], said: tuple[str, ...]
) -> None:
    with pytest.raises(SettingError) as caught:
        Contract.from_data({"name": "triage"} | clauses, "'c.toml'")
    message = str(caught.value)
    assert message.startswith("'c.toml': ")
    assert "\n" not in message
    assert [words for words in said if words not in message] == []


@pytest.mark.parametrize(
    "clauses",
    [
        # Equal bounds, of which one is left out.
        {"may_change": [M1 | {"per_update": 0.1, "since_validation": 0.1}]},
        {"may_change": [M1 | {"trigger": "proposal", "approvals": 2, "least_hours": 6}]},
        {"may_change": [M1, M1 | {"id": "M2"}]},
        # The same limits in other views, and limits that meet in one figure.
        {
            "may_change": [M1],
            "must_stay_fixed": {
                "behaviour": [{"id": "B1", "probe": "acc", "most": 0.8, "views": "spine"}]
            },
            "must_change_by": [H1 | {"least": 0.9, "views": ["whole"]}],
        },
        {
            "may_change": [M1],
            "must_stay_fixed": {"behaviour": [{"id": "B1", "probe": "acc", "most": 0.9}]},
            "must_change_by": [H1 | {"least": 0.9}],
        },
        # Without a list of probes they are given in Python; evidence may be words or a file.
        {"must_stay_fixed": {"behaviour": [B1]}, "risks": [R1 | {"evidence": ["elsewhere"]}]},
        {"probes": [ACC], "risks": [R1 | {"evidence": ["acc", "R1", "a study", "study.pdf"]}]},
        {"must_stay_fixed": {"parameters": ["norm.*"], "digests": {"norm.w": DIGEST}}},
    ],
)
def test_what_agrees_is_taken(clauses: dict[str, Any]) -> None:
    Contract.from_data({"name": "triage"} | clauses)
