"""Plans go to TOML and back unchanged; a wrong one is one line that names key and value."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import nestling as nl
from nestling.core.errors import SettingError, UnknownLevel
from nestling.levels import (
    AgreementGate,
    Copy,
    Freeze,
    ImportanceGate,
    Level,
    Memory,
    ParentGate,
    Plan,
    ScheduleGate,
    SurpriseGate,
)
from nestling.optim import SGD, Adam, AdamW, CustomOptimizer

rates = st.floats(0.0, 10.0)
shares = st.floats(0.0, 1.0)
fractions = st.floats(0.0, 0.999)
half_lives = st.one_of(st.just(math.inf), st.floats(1e-3, 1e9))
counts = st.integers(1, 10**6)
fused = st.sampled_from([None, True, False])
betas = st.tuples(fractions, fractions)
optimizers = st.one_of(
    st.builds(AdamW, lr=rates, betas=betas, eps=rates, weight_decay=rates, fused=fused),
    st.builds(Adam, lr=rates, betas=betas, weight_decay=rates, fused=fused),
    st.builds(SGD, lr=rates, momentum=st.floats(0.1, 0.9), nesterov=st.booleans(), fused=fused),
)
single_gates = st.tuples(
    st.builds(SurpriseGate, threshold=st.floats(-5, 5), half_life=half_lives, floor=shares),
    st.builds(ImportanceGate, strength=rates, half_life=half_lives),
    st.builds(AgreementGate, half_life=half_lives, floor=shares),
    st.builds(lambda a, b: ScheduleGate(min(a, b), max(a, b)), counts, counts),
)
windows = st.lists(st.tuples(counts, counts).map(lambda pair: tuple(sorted(pair))), max_size=3)
freezes = st.builds(
    Freeze, windows=windows.map(tuple), until=st.one_of(st.none(), st.text(max_size=5))
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    levels: list[Level | Copy | Memory] = []
    gradient = draw(st.lists(st.from_regex(r"g[a-zA-Z0-9_.-]{0,5}", fullmatch=True), unique=True))
    for index, name in enumerate(gradient):
        gates: list[Any] = [g for g in draw(single_gates) if draw(st.booleans())]
        if index:
            gates.append(ParentGate(of=draw(st.sampled_from(gradient[:index]))))
        period = draw(counts)
        low = draw(st.floats(0.0, 1.0))
        levels.append(
            Level(
                name,
                match=[f"{index}.{draw(st.text(max_size=4))}"],
                period=period,
                optimizer=draw(optimizers),
                reduce=draw(st.sampled_from(["mean", "sum"])),
                between=draw(st.sampled_from(["accumulate", "skip"])),
                window=draw(st.integers(1, period)),
                gate=gates,
                freeze=draw(st.one_of(st.none(), freezes)),
                trust=draw(st.one_of(st.none(), st.floats(1e-6, 10.0))),
                protect=draw(st.booleans()),
                band=(low, draw(st.floats(low + 0.1, 9.0))),
            )
        )
    answers = ["live"]
    if gradient:
        probability = draw(st.one_of(st.none(), st.floats(0.1, 1.0)))
        levels.append(Copy("copy", of=gradient, decay=draw(fractions), probability=probability))
        answers.append("copy")
    levels.append(
        Memory(
            "memory",
            on=draw(st.one_of(st.none(), st.text(max_size=5))),
            half_lives=draw(st.lists(half_lives, min_size=1, max_size=4)),
            num_features=draw(st.integers(0, 100)),
            features=draw(st.sampled_from(["relu", "fourier", "product"])),
            ridge=draw(st.one_of(st.none(), st.floats(1e-9, 1e9))),
            switch_rate=draw(fractions),
            prior_half_life=draw(st.one_of(st.none(), st.floats(1e-3, 1e9))),
            seed=draw(st.integers(0, 2**31)),
        )
    )
    answers.append("memory")
    weights = draw(
        st.one_of(
            st.none(),
            st.lists(st.floats(0.1, 1.0), min_size=len(answers), max_size=len(answers)),
        )
    )
    mixed = nl.mix(*answers, weights=weights, switch_rate=draw(fractions))
    return Plan(*levels, readout=draw(st.one_of(st.sampled_from(answers), st.just(mixed))))


@given(plan=plans())
def test_toml_round_trip(plan: Plan) -> None:
    again = Plan.from_toml(plan.to_toml())
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.to_toml() == plan.to_toml()


LEVEL = '[[level]]\nname = "all"\nmatch = ["*"]\n'
WRONG_TOML = {
    "not toml": ("[[level]\n", "is not TOML"),
    "no level": ("", "no [[level]] table"),
    "empty": ("level = []", "at least one level"),
    "unknown top key": (LEVEL.replace("[[", "raedout = 1\n[["), "did you mean 'readout'"),
    "no name": ('[[level]]\nmatch = ["*"]', "level 'number 1': name is missing; give name=..."),
    "unknown key": (LEVEL + "perod = 4", "perod"),
    "zero period": (LEVEL + "period = 0", "period: a number of 1 or more works, got 0"),
    "word for a period": (LEVEL + 'period = "often"', "got 'often'"),
    "kind": (LEVEL + 'kind = "slow"', "'slow'"),
    "optimizer": (LEVEL + 'optimizer = {name = "lion"}', "'lion'"),
    "optimizer knob": (LEVEL + 'optimizer = {name = "sgd", betas = [0.9, 0.9]}', "betas"),
    "negative lr": (LEVEL + 'optimizer = {name = "adam", lr = -1.0}', "got -1.0"),
    "nan lr": (LEVEL + 'optimizer = {name = "adam", lr = nan}', "got nan"),
    "nesterov": (LEVEL + 'optimizer = {name = "sgd", nesterov = true}', "momentum=0.9 works"),
    "reduce": (LEVEL + 'reduce = "max"', "got 'max'"),
    "gate": (LEVEL + 'gate = [{kind = "moon"}]', "'moon'"),
    "gate value": (LEVEL + 'gate = [{kind = "surprise", floor = 2.0}]', "got 2.0"),
    "gate ramp": (LEVEL + 'gate = [{kind = "schedule", start = 9, stop = 3}]', "stops at 3"),
    "two gates": (LEVEL + 'gate = [{kind = "surprise"}, {kind = "surprise"}]', "two surprise"),
    "parent": (LEVEL + 'gate = [{kind = "parent", of = "al"}]', "did you mean 'all'"),
    "own parent": (LEVEL + 'gate = [{kind = "parent", of = "all"}]', "circle among ['all']"),
    "window": (LEVEL + "period = 2\nwindow = 3", "window 3 is longer than period 2"),
    "band": (LEVEL + "band = [0.5, 0.5]", "band (0.5, 0.5) is empty"),
    "freeze": (LEVEL + "freeze = {windows = [[5, 2]]}", "window (5, 2) ends before"),
    "no pattern": ('[[level]]\nname = "all"\nmatch = []', "no pattern"),
    "twice": (LEVEL + LEVEL, "two levels are called 'all'"),
    "live": (LEVEL.replace("all", "live"), "'live' means the model"),
    "bad name": (LEVEL.replace("all", "a b"), "got 'a b'"),
    "copy of nothing": (LEVEL + '[[level]]\nkind = "copy"\nname = "c"\nof = ["alll"]', "'alll'"),
    "copy of nobody": (LEVEL + '[[level]]\nkind = "copy"\nname = "c"\nof = []', "copies no level"),
    "decay": (LEVEL + '[[level]]\nkind = "copy"\nname = "c"\nof = ["all"]\ndecay = 1.5', "got 1.5"),
    "memory": (LEVEL + '[[level]]\nkind = "memory"\nname = "m"\nhalf_lives = [-1.0]', "got -1.0"),
    "readout": ('readout = "copy"\n' + LEVEL, "'copy' cannot answer; known: ['live']"),
    "readout level": ('readout = "all"\n' + LEVEL, "'all' cannot answer"),
    "readout number": ("readout = 3\n" + LEVEL, "readout"),
    "mix of one": ('readout = {mix = ["live"]}\n' + LEVEL, "two or more different names"),
    "level is a word": ('level = ["all"]', "level 1"),
}


@pytest.mark.parametrize("case", WRONG_TOML)
def test_wrong_toml_is_one_line_that_names_key_and_value(case: str) -> None:
    text, words = WRONG_TOML[case]
    with pytest.raises(SettingError) as caught:
        Plan.from_toml(text, "job.toml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def raise_for(case: str) -> object:
    match case:
        case "list":
            return Plan([Level("a", match=["*"])])  # type: ignore[arg-type]
        case "nothing":
            return Plan()
        case "readout":
            return Plan(Level("a", match=["*"]), readout=3)  # type: ignore[arg-type]
        case "level key":
            return Level("a", match=["*"], perod=3)  # type: ignore[call-arg]
        case "level value":
            return Level("a", match=["*"], period=1.5)  # type: ignore[arg-type]
        case "match":
            return Level("a", match=3)  # type: ignore[arg-type]
        case "optimizer":
            return nl.adamw(lr=-1.0)
        case "circle":
            return Plan(
                Level("a", match=["a"], gate=[ParentGate(of="b")]),
                Level("b", match=["*"], gate=[ParentGate(of="a")]),
            )
        case "weights":
            return nl.mix("live", "b", weights=[1.0])
        case "zero weights":
            return nl.mix("live", "b", weights=[0.0, 0.0])
        case "repeated":
            return nl.mix("live", "live")
        case "memory":
            return Memory("m", num_features=0, include_read=False)
    return Memory("m", half_lives=[])


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("list", "got a list; nl.Plan"),
        ("nothing", "at least one level"),
        ("readout", "readout is an int; 'live'"),
        ("level key", "did you mean 'period'"),
        ("level value", "period"),
        ("match", "match: a list works, such as [3], got 3"),
        ("optimizer", "lr: a number of 0 or more works, got -1.0"),
        ("circle", "circle among ['a', 'b']"),
        ("weights", "2 names and 1 weights"),
        ("zero weights", "sum to zero"),
        ("repeated", "different names"),
        ("memory", "reads nothing"),
        ("half-lives", "no half-life"),
    ],
)
def test_wrong_python_is_one_line(case: str, words: str) -> None:
    with pytest.raises(SettingError) as caught:
        raise_for(case)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_pattern_or_one_level_may_stand_alone() -> None:
    assert Level("a", "head.*").match == ("head.*",)
    assert Copy("c", of="a").of == ("a",)
    text = LEVEL.replace('["*"]', '"*"')
    assert Plan.from_toml(text) == Plan(Level("all", match=["*"]))


# Of pydantic's own phrases none may reach a user: they speak of Python's types to who wrote TOML.
PHRASES = ("Input should", "Field required", "valid", "instance", "Extra", "Unexpected", "parse")


@pytest.mark.parametrize("case", WRONG_TOML)
def test_wrong_toml_is_said_in_plain_words(case: str) -> None:
    with pytest.raises(SettingError) as caught:
        Plan.from_toml(WRONG_TOML[case][0], "job.toml")
    assert not [phrase for phrase in PHRASES if phrase in str(caught.value)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Level("a", "*"), "the plan is a Level; nl.Plan(level)"),
        ([Level("a", "*")], "the plan is a list; nl.Plan(*levels)"),
        ({"level": []}, "the plan is a dict; nl.Plan.from_data(data)"),
        (None, "the plan is None; nl.Plan("),
        (Plan, "the plan is the class Plan; nl.Plan("),
        ("nowhere.toml", "cannot read plan 'nowhere.toml'"),
    ],
)
def test_what_is_no_plan_is_named_with_the_remedy(given: object, words: str) -> None:
    with pytest.raises(SettingError) as caught:
        Plan.of(given)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_find_and_files(tmp_path: Path) -> None:
    plan = Plan(Level("trunk", match=["*"], period=4), Copy("slow", of=["trunk"]), readout="slow")
    assert plan.find("slow") is plan.copies[0]
    assert repr(plan) == "Plan(gradient 'trunk', copy 'slow'; read-out slow)"
    with pytest.raises(UnknownLevel, match=r"'trunc'.*did you mean 'trunk'"):
        plan.find("trunc")
    path = tmp_path / "plan.toml"
    with pytest.raises(SettingError, match="cannot read plan"):
        Plan.load(path)
    path.write_text(plan.to_toml(), encoding="utf-8")
    assert Plan.load(path) == plan
    path.write_text("oops", encoding="utf-8")
    with pytest.raises(SettingError, match=r"plan\.toml' is not TOML|plan\.toml is not TOML"):
        Plan.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingError, match="cannot read plan"):
        Plan.load(path)
    assert plan != "plan"


OWN_RULES = """
import functools, torch
half = functools.partial(torch.optim.Adagrad, lr=0.5)
def make(params):
    return torch.optim.RMSprop(params, lr=0.25)
number = 3
"""


@pytest.fixture
def own_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_rules.py").write_text(OWN_RULES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_rules"


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("own_rules:make", "own_rules:make"),
        ("own_rules:half", "own_rules:half"),
        ("torch.optim:RMSprop", "torch.optim.rmsprop:RMSprop"),
    ],
)
@pytest.mark.usefixtures("own_rules")
def test_an_optimizer_of_ones_own_goes_to_toml_and_back(name: str, written: str) -> None:
    plan = Plan.from_toml(LEVEL + f'optimizer = "{name}"')
    rule = plan.gradient_levels[0].optimizer
    assert isinstance(rule, CustomOptimizer)
    assert f'optimizer = "{written}"' in plan.to_toml()
    again = Plan.from_toml(plan.to_toml())
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.to_toml() == plan.to_toml()
    assert Plan(Level("all", match=["*"], optimizer=rule.make)) == plan


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_rules:maek", "did you mean 'make'"),
        ("own_rules:number", "is a int"),
        ("own_rules", "write 'module:function'"),
        ("no_such_rules:make", "no module 'no_such_rules'"),
    ],
)
@pytest.mark.usefixtures("own_rules")
def test_a_wrong_optimizer_in_a_file_is_one_line(name: str, words: str) -> None:
    with pytest.raises(SettingError) as caught:
        Plan.from_toml(LEVEL + f'optimizer = "{name}"', "job.toml")
    assert f"job.toml, level 'all': optimizer '{name}'" in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_cannot_name_a_lambda() -> None:
    plan = Plan(Level("all", match=["*"], optimizer=lambda params: torch.optim.Rprop(params)))
    with pytest.raises(SettingError, match=r"'all': a file cannot name optimizer '.*<lambda>"):
        plan.to_toml()


def test_a_plan_like_another_takes_its_optimizers_and_imports_nothing() -> None:
    """Two functions may be printed alike; each level gets its own back."""
    rules = [lambda params, lr=lr: torch.optim.Rprop(params, lr=lr) for lr in (0.5, 0.25)]
    plan = Plan(
        Level("head", match=["2.*"], optimizer=rules[0]),
        Level("spine", match=["*"], optimizer=rules[1]),
    )
    data: Any = plan.to_data()
    assert Plan.from_data(data, like=plan) == plan
    with pytest.raises(SettingError, match=r"level 'head': optimizer .*; this plan has 'adamw'"):
        Plan.from_data(data, like=Plan(Level("head", match=["*"]), Level("spine", match=["0"])))
    with pytest.raises(SettingError, match=r"level 'head': optimizer .*; this plan has none there"):
        Plan.from_data(data, like=Plan(Level("all", match=["*"])))
    data["level"][0]["optimizer"] = "no_such_rules:make"
    with pytest.raises(SettingError, match=r"'no_such_rules:make'; this plan has '.*lambda"):
        Plan.from_data(data, like=plan)
