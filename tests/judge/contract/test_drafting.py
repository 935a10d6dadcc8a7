"""A drafted contract: every key explained, valid as it stands, fitting its plan."""

import tomllib
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import SettingError
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import Interface
from nestling.judge.contract.drafting import draft_contract, find_fixed_patterns, guess_spine
from nestling.judge.contract.plan_facts import PlanFacts, check_against_plan

FACTS = PlanFacts(
    levels={"memory": (), "head": ("head.w",), "body": ("body.w",), "watch": (), "origin": ()},
    kinds={
        "memory": "memory",
        "head": "gradient",
        "body": "gradient",
        "watch": "watch",
        "origin": "copy",
    },
    tensors=frozenset({"head.w", "body.w", "embed.0.w", "embed.0.b"}),
    trained=frozenset({"memory", "head", "body"}),
    periods={"head": 1, "body": 16},
    frozen=frozenset({"embed.0.w", "embed.0.b"}),
)


def test_a_draft_is_valid_and_fits_its_plan() -> None:
    interface = Interface("classification", (13,), 2, "adults")
    text = draft_contract(FACTS, "triage", purpose='say "when"', owner="Ada", interface=interface)
    contract = Contract.from_toml(text)
    assert (contract.name, contract.purpose, contract.owner) == ("triage", 'say "when"', "Ada")
    assert contract.list_spine() == ["body"]
    assert [level.name for level in contract.levels] == ["memory", "head", "body", "origin"]
    changes = {clause.level: clause for clause in contract.may_change}
    assert changes.keys() == {"memory", "head", "body"}
    assert (changes["body"].trigger, changes["body"].approvals) == ("proposal", 1)
    assert changes["memory"].per_day is None
    assert contract.must_stay_fixed.interface == interface
    assert contract.must_stay_fixed.parameters == ("embed.*",)
    (said,) = check_against_plan(contract, FACTS)
    assert "'body'" in said


def test_every_key_of_a_contract_is_explained() -> None:
    text = draft_contract(FACTS, "triage")
    keys = ["purpose", "owner", "materiality", "scope", "per_update", "per_day"]
    keys += ["since_validation", "trigger", "approvals", "least_hours", "parameters", "task"]
    keys += ["input_shape", "num_outputs", "intended_use", "least", "most", "fall", "views"]
    keys += ["confidence", "least_examples", "severity", "evidence", "residual", "accepted_by"]
    explained = "\n".join(line for line in text.splitlines() if "# " in line)
    assert [key for key in keys if key not in explained] == []
    assert max(len(line) for line in text.splitlines()) <= 100


def test_the_examples_in_comments_are_valid_once_they_are_used() -> None:
    """All lines that look like settings are taken out of their comments."""
    lines = []
    for line in draft_contract(FACTS, "triage").splitlines():
        bare = line.removeprefix("# ")
        key = bare.split(" = ")[0]
        is_setting = " = " in bare and key.isidentifier()
        lines.append(bare if line.startswith("# ") and (is_setting or bare[:2] == "[[") else line)
    text = "\n".join(lines).replace("# [must", "[must")
    # The duty's probe has to be listed, as it says.
    text = text.replace(
        "[[probes]]", '[[probes]]\nname = "missed-by-sex"\nmetric = "x"\n[[probes]]'
    )
    contract = Contract.from_toml(text)
    assert [clause.id for clause in contract.list_clauses()] == [
        *("M1", "M2", "M3", "B1", "H1", "R1"),
    ]
    assert len(contract.reviews) == 1
    check_against_plan(contract, FACTS)


def test_guess_spine() -> None:
    def guess(**periods: int) -> str:
        facts = PlanFacts(dict.fromkeys(periods, ()), dict.fromkeys(periods, "gradient"))
        return guess_spine(PlanFacts(facts.levels, facts.kinds, periods=periods))

    assert guess(a=1, b=16, c=4) == "b"
    assert guess(a=16, spine=1) == "spine"
    assert guess(fast=1, slow=1) == "slow"
    assert guess_spine(PlanFacts({"m": ()}, {"m": "memory"})) == ""


def test_without_gradient_levels_there_is_no_spine() -> None:
    facts = PlanFacts({"m": ()}, {"m": "memory"}, trained=frozenset({"m"}))
    contract = Contract.from_toml(draft_contract(facts, "triage"))
    assert contract.list_spine() == []


def test_a_plan_in_which_nothing_learns_and_a_wrong_name() -> None:
    with pytest.raises(SettingError, match="nothing learns in this plan"):
        draft_contract(PlanFacts({"a": ()}, {"a": "gradient"}), "triage")
    with pytest.raises(SettingError, match=r"draft of contract '1 a'.*a name of letters"):
        draft_contract(FACTS, "1 a")


@given(st.text(max_size=20), st.text(min_size=1, max_size=20))
def test_any_words_are_written_as_toml_can_read_them(purpose: str, level: str) -> None:
    purpose, level = (text.encode("utf-8", "ignore").decode() for text in (purpose, level))
    if not level:
        return
    facts = PlanFacts({level: ()}, {level: "gradient"}, trained=frozenset({level}))
    text = draft_contract(facts, "triage", purpose=purpose)
    data = tomllib.loads(text)
    assert (data["purpose"], data["may_change"][0]["level"]) == (purpose, level)


def test_patterns_cover_what_is_frozen_and_nothing_else() -> None:
    names = frozenset({"a.0.w", "a.0.b", "a.1.w", "b.w", "c"})
    for frozen in ({"a.0.w", "a.0.b", "b.w"}, {"a.0.w", "c"}, set()):
        facts = PlanFacts({}, {}, tensors=names, frozen=frozenset(frozen))
        patterns = find_fixed_patterns(facts)
        covered = {name for name in names if any(fnmatchcase(name, one) for one in patterns)}
        assert covered == frozen
