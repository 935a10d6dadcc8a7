"""A contract as a document: TOML there and back, and a digest of what it says alone."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import SettingError
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
from nestling.judge.contract.probe_spec import ProbeSpec

FULL = Contract(
    "triage",
    purpose="which patients are seen first",
    owner="Ada",
    levels=[LevelRole("spine", "spine", "high"), LevelRole("site", "fast", scope="subject")],
    may_change=[
        MayChange("M1", "spine", "drift", 0.05, 0.05, 0.2, 24.0, 2, "proposal"),
        MayChange("M2", "site", "the site's own ways", per_day=0.5),
    ],
    must_stay_fixed=StaysFixed(
        parameters=["norm.*"],
        digests={"norm.weight": "0f" * 32},
        behaviour=[FixedBehaviour("B1", "acc", least=0.8, fall=0.02, views=["whole"])],
        interface=Interface("classification", (13,), 2, "adults"),
    ),
    must_change_by=[
        MustChange("H1", "women are missed", "gap", "spine", date(2027, 6, 30), most=0.05)
    ],
    protocol=EvaluationProtocol(["acc"], 0.9, 50, "held by the clinic"),
    reviews=[Review("Grace", date(2026, 11, 1), date(2027, 4, 30), "all read")],
    risks=[Risk("R1", "hidden harm", "serious", ["B1"], "small groups", "Ada", date(2027, 4, 30))],
    probes=[
        ProbeSpec("acc", "accuracy", "rows.csv", slices={"old": {"age": "70+"}}),
        ProbeSpec("gap", "false_negative_gap", groups=["sex"], settings={"positive": 1}),
    ],
)


def test_toml_there_and_back() -> None:
    again = Contract.from_toml(FULL.to_toml())
    assert again == FULL
    assert again.digest == FULL.digest
    assert Contract.from_data(json.loads(json.dumps(FULL.to_data()))).digest == FULL.digest


def test_defaults_written_out_are_the_same_contract() -> None:
    short = Contract.from_toml('name = "a"\n[[levels]]\nname = "s"\nrole = "spine"\n')
    full = 'name = "a"\n[[levels]]\nname="s"\nrole="spine"\nmateriality="medium"\nscope="global"\n'
    assert Contract.from_toml(full).digest == short.digest


def _shuffle(value: Any, draw: st.DataObject) -> Any:
    if isinstance(value, dict):
        keys = draw.draw(st.permutations(list(value)))
        return {key: _shuffle(value[key], draw) for key in keys}
    return [_shuffle(entry, draw) for entry in value] if isinstance(value, list) else value


@given(st.data())
def test_order_of_keys_and_comments_do_not_change_the_digest(data: st.DataObject) -> None:
    text = tomli_w.dumps(_shuffle(FULL.to_data(), data))
    lines = []
    for line in text.splitlines():
        word = data.draw(st.text(alphabet="abc [=\"#'", max_size=6))
        # Between the lines of a list a comment stands as well as anywhere.
        lines += [line, f"# {word}"] if data.draw(st.booleans()) else [line]
    assert Contract.from_toml("\n".join(lines) + "\n").digest == FULL.digest


def _list_values(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, entry in pairs for found in _list_values(entry, (*where, key))]
    return [where]


CHANGES: dict[str, Any] = {
    "role": "fast",
    "materiality": "low",
    "scope": "global",
    "severity": "minor",
    "task": "regression",
    "trigger": "automatic",
    "norm.weight": "1f" * 32,
    "until": "2027-05-30",
    "on": "2026-11-02",
    "by": "2027-07-01",
}


@given(st.sampled_from(_list_values(FULL.to_data())))
def test_any_changed_value_changes_the_digest(where: tuple[Any, ...]) -> None:
    data = FULL.to_data()
    place: Any = data
    for key in where[:-1]:
        place = place[key]
    value, key = place[where[-1]], where[-1]
    if key in CHANGES and value != CHANGES[key]:
        changed = CHANGES[key]
    elif isinstance(value, str):
        changed = {"whole": "spine"}.get(value, value + "x")
    else:
        changed = value + (1 if isinstance(value, int) else 1 / 64)
    place[key] = changed
    try:
        found = Contract.from_data(data)
    except SettingError:
        return  # it would contradict another clause: no contract at all
    assert found.digest != FULL.digest


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("name = ")
    for source, said in ((tmp_path / "gone.toml", "cannot read"), (wrong, "is not TOML")):
        with pytest.raises(SettingError, match=said):
            Contract.of(source)
    wrong.write_text('name = "a"\nmay_chnage = []\n')
    with pytest.raises(SettingError, match=r"wrong\.toml': may_chnage is not known"):
        Contract.of(wrong)


def test_an_unknown_modification_is_named() -> None:
    assert FULL.find_modification("M2").level == "site"
    with pytest.raises(SettingError, match=r"no modification 'M3'; known: \['M1', 'M2'\]"):
        FULL.find_modification("M3")
    assert FULL.list_spine() == ["spine"]
