"""A contract against a plan: where a clause does not fit, and what follows though it does."""

from dataclasses import replace
from typing import Any

import pytest

from nestling.core.errors import IdlePattern, SettingError, UnknownLevel
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.plan_facts import PlanFacts, check_against_plan

FACTS = PlanFacts(
    levels={"head": ("head.w", "head.b"), "spine": ("body.w",), "memory": (), "slow": ()},
    kinds={"head": "gradient", "spine": "gradient", "memory": "memory", "slow": "copy"},
    tensors=frozenset({"head.w", "head.b", "body.w", "norm.w"}),
    trained=frozenset({"head", "spine"}),
)
CHANGES = [
    {"id": "M1", "level": "head", "what": "drift"},
    {"id": "M2", "level": "spine", "what": "slow drift"},
]
SPINE = [{"name": "spine", "role": "spine"}]


def make(**clauses: Any) -> Contract:
    return Contract.from_data({"name": "triage", "may_change": CHANGES} | clauses)


@pytest.mark.parametrize(
    ("clauses", "error", "said"),
    [
        (
            {"levels": [{"name": "spin", "role": "spine"}]},
            UnknownLevel,
            "gives a role to level 'spin'; .*did you mean 'spine'",
        ),
        (
            {"may_change": [*CHANGES, {"id": "M3", "level": "hed", "what": "x"}]},
            UnknownLevel,
            "modification 'M3' is of level 'hed'; .*did you mean 'head'",
        ),
        (
            {"must_stay_fixed": {"parameters": ["nrom.*"]}},
            IdlePattern,
            "'nrom.*' match nothing; .*did you mean 'norm.w'",
        ),
        (
            {
                "must_stay_fixed": {
                    "parameters": ["norm.*"],
                    "digests": {"norm.v": "ab" * 32},
                }
            },
            IdlePattern,
            "digest of 'norm.v', which the model does not have; .*did you mean 'norm.w'",
        ),
        (
            {"must_stay_fixed": {"parameters": ["head.*", "norm.*"]}},
            SettingError,
            "'M1' lets level 'head' change, but must_stay_fixed fixes all its 2 parameters; nar",
        ),
        (
            {"may_change": CHANGES[:1]},
            SettingError,
            "level 'spine' learns, but no modification .*freeze it in the plan, or add a may",
        ),
        (
            {
                "may_change": [
                    *CHANGES,
                    {"id": "M3", "level": "memory", "what": "x", "per_day": 0.1},
                ]
            },
            SettingError,
            "'M3' bounds .*'memory'.*a memory level without weights .*leave per_day out",
        ),
        (
            {"must_stay_fixed": {"behaviour": [{"id": "B1", "probe": "a", "least": 1}]}},
            SettingError,
            r"clause 'B1' is judged in the view 'spine', but no level .*views = \['whole'\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    clauses: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        check_against_plan(make(**clauses), FACTS)
    assert "\n" not in str(caught.value)


def test_a_part_of_a_level_may_be_fixed() -> None:
    behaviour = [{"id": "B1", "probe": "a", "least": 1}]
    fixed = {"parameters": ["head.b", "norm.*"], "behaviour": behaviour}
    assert check_against_plan(make(levels=SPINE, must_stay_fixed=fixed), FACTS) == []


def test_names_are_not_checked_without_a_model() -> None:
    facts = replace(FACTS, tensors=frozenset(), levels=dict.fromkeys(FACTS.levels, ()))
    assert check_against_plan(make(must_stay_fixed={"parameters": ["nrom.*"]}), facts) == []


def test_it_says_which_levels_are_frozen_between_proposals() -> None:
    slow = [CHANGES[0], CHANGES[1] | {"trigger": "proposal"}]
    (said,) = check_against_plan(make(may_change=slow), FACTS)
    assert "'spine'" in said
    assert "govern freezes it between proposals" in said
    held = replace(FACTS, held=frozenset({"spine"}))
    assert check_against_plan(make(may_change=slow), held) == []
    still = replace(FACTS, trained=frozenset({"head"}))
    assert check_against_plan(make(may_change=slow), still) == []
