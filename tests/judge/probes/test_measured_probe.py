"""Making and measuring probes: slices, groups, own functions, one forward pass, refusals."""

import json
import math
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from nestling.core.errors import DataError, SettingError
from nestling.judge import ProbeData, ProbePart, ProbeResult, make_probe, measure_probes
from nestling.judge.contract.clauses import EvaluationProtocol
from nestling.judge.contract.probe_spec import ProbeSpec
from nestling.judge.probes import METRICS, Answering

SITES = ["a"] * 50 + ["b"] * 40 + ["c"] * 10
SLICES = {"first": {"site": "a"}, "second": {"site": "b"}}


def make_data() -> ProbeData:
    """Answered by their own inputs: site a rightly, b half, c never."""
    y = torch.zeros(100, dtype=torch.long)
    answer = [0] * 50 + [0, 1] * 20 + [1] * 10
    return ProbeData(torch.eye(2)[answer], y, {"site": SITES})


def ask(x: Tensor) -> Tensor:
    return x


def measure(metric: str = "accuracy", **given: Any) -> ProbeResult:
    return make_probe(ProbeSpec("p", metric=metric, **given), make_data()).measure(ask)


def test_a_probe_knows_its_name_metric_and_data() -> None:
    probe = make_probe(ProbeSpec("skill", metric="log_loss"), make_data())
    assert (probe.name, probe.metric, probe.better) == ("skill", "log_loss", "lower")
    assert probe.data_digest == make_data().digest
    result = probe.measure(ask)
    assert (result.probe, result.metric, result.better) == ("skill", "log_loss", "lower")
    assert result.data_digest == make_data().digest
    assert json.loads(json.dumps(result.to_record()))["notes"] == []


def test_slices_and_groups_are_parts() -> None:
    result = measure(slices=SLICES, groups="site", least_examples=10)
    assert result.value == 0.7
    assert [(one.name, one.value, one.num_examples) for one in result.parts] == [
        ("first", 1.0, 50),
        ("second", 0.5, 40),
        ("site=a", 1.0, 50),
        ("site=b", 0.5, 40),
        ("site=c", 0.0, 10),
    ]
    assert result.is_judged


def test_a_part_with_too_few_rows_keeps_the_probe_from_being_judged() -> None:
    result = measure(slices={"third": {"site": "c"}})
    assert result.value == 0.7
    assert math.isnan(result.parts[0].value)
    assert result.too_few == ("third: 10 rows with a target, fewer than the least 30",)
    assert not result.is_judged


def test_the_figure_of_one_slice() -> None:
    result = measure(slices=SLICES, settings={"slice": "second"})
    assert (result.value, result.num_examples, result.parts) == (0.5, 40, ())


def test_the_worst_slice() -> None:
    result = measure("worst_slice_accuracy", slices=SLICES)
    assert (result.value, result.num_examples) == (0.5, 100)
    assert [one.name for one in result.parts] == ["first", "second"]
    assert result.low == result.parts[1].low
    few = measure("worst_slice_accuracy", slices=SLICES | {"third": {"site": "c"}})
    assert few.value == 0.5
    assert not few.is_judged
    none = measure("worst_slice_accuracy", slices={"third": {"site": "c"}})
    assert math.isnan(none.value)
    assert measure("worst_slice_accuracy", slices=SLICES, settings={"slice": "first"}).value == 1.0


def test_the_least_is_of_the_specification_else_of_the_protocol() -> None:
    protocol = EvaluationProtocol(least_examples=101)
    few = make_probe(ProbeSpec("p", metric="accuracy"), make_data(), protocol).measure(ask)
    assert few.too_few == ("100 rows with a target, fewer than the least 101",)
    spec = ProbeSpec("p", metric="accuracy", least_examples=100)
    assert make_probe(spec, make_data(), protocol).measure(ask).is_judged


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"metric": "acuracy"}, SettingError, "no metric 'acuracy'; .* did you mean 'accuracy'"),
        ({"settings": {"positive": 1}}, SettingError, "accuracy has no setting 'positive'"),
        (
            {"metric": "recall", "settings": {"positve": 1}},
            SettingError,
            "no setting 'positve'; .* did you mean 'positive'",
        ),
        ({"metric": "recall", "settings": {"positive": -1}}, SettingError, "0 or more works"),
        ({"metric": "recall", "settings": {"positive": "x"}}, SettingError, "whole number works"),
        ({"settings": {"crossed": True}}, SettingError, "no setting 'crossed'"),
        ({"slices": SLICES, "settings": {"slice": "firs"}}, SettingError, "did you mean 'first'"),
        ({"groups": "sit"}, DataError, "no column 'sit'; .* did you mean 'site'"),
        ({"slices": {"s": {"sit": "a"}}}, DataError, "no column 'sit'"),
        (
            {"slices": {"fourth": {"site": "d"}}},
            DataError,
            r"slice 'fourth' has no rows: none with site = 'd'; there are site: \['a', 'b', 'c'\]",
        ),
        ({"metric": "worst_slice_accuracy"}, SettingError, "needs slices; give slices"),
        (
            {"digest": "0" * 64},
            DataError,
            "the data have digest .*, the contract says 000000000000",
        ),
        ({"metric": "r_squared"}, DataError, "needs values, the targets are classes"),
        ({"metric": "my_metrics"}, SettingError, "written 'module:function'"),
        ({"metric": "no_such_module:f"}, SettingError, "no module 'no_such_module'"),
    ],
)
def test_what_is_no_probe_is_refused(
    given: dict[str, Any], error: type[Exception], words: str
) -> None:
    spec = ProbeSpec("p", **({"metric": "accuracy"} | given))
    with pytest.raises(error, match=f"^probe 'p': .*{words}") as caught:
        make_probe(spec, make_data())
    assert "\n" not in str(caught.value)


def test_targets_that_do_not_fit_are_refused() -> None:
    spec = ProbeSpec("p", metric="accuracy")
    with pytest.raises(DataError, match="needs classes, the targets are none"):
        make_probe(spec, ProbeData(torch.eye(2)))
    with pytest.raises(DataError, match=r"needs classes, the targets are values, torch\.float32"):
        make_probe(spec, ProbeData(torch.eye(2), torch.rand(2)))
    with pytest.raises(DataError, match="needs values, the targets are none"):
        make_probe(ProbeSpec("p", metric="r_squared"), ProbeData(torch.eye(2)))


def test_the_digest_of_the_contract_is_held() -> None:
    spec = ProbeSpec("p", metric="accuracy", digest=make_data().digest)
    assert make_probe(spec, make_data()).measure(ask).is_judged


def test_every_metric_measures() -> None:
    generator = torch.Generator().manual_seed(0)
    p = (2.0 * torch.randn(200, 2, generator=generator)).softmax(dim=1)
    y = torch.randint(0, 2, (200,), generator=generator)
    columns = {"sex": ["f", "m"] * 100, "half": ["first"] * 100 + ["second"] * 100}
    for name, metric in METRICS.items():
        target = torch.rand(200, 2, generator=generator) if metric.targets == "values" else y
        data = ProbeData(p, target, columns, x_changed=p.flip(0))
        slices = {"early": {"half": "first"}}
        spec = ProbeSpec("p", metric=name, groups="sex", slices=slices, least_examples=10)
        result = make_probe(spec, data).measure(ask, ask)
        assert result.is_judged, name
        assert result.low <= result.value <= result.high, name
        assert {part.name for part in result.parts} >= {"early"}, name
        assert json.dumps(result.to_record(), allow_nan=False)


def test_the_model_is_asked_once_about_the_same_data() -> None:
    asked: list[str] = []
    data, other = make_data(), make_data()

    def answer(name: str) -> Answering:
        def give(x: Tensor) -> Tensor:
            asked.append(name)
            assert not torch.is_grad_enabled()
            return x

        return give

    names = ("accuracy", "log_loss", "negative_flip_rate", "recall")
    probes = [make_probe(ProbeSpec(name, metric=name, least_examples=1), data) for name in names]
    probes.append(make_probe(ProbeSpec("elsewhere", metric="accuracy"), other))
    results = measure_probes(probes, answer("now"), answer("before"))
    assert [result.probe for result in results] == [*names, "elsewhere"]
    assert sorted(asked) == ["before", "now", "now"]
    assert results[2].value == 0.0
    with pytest.raises(SettingError, match="two probes are called 'accuracy'"):
        measure_probes([probes[0], probes[0]], ask)


def test_events_are_data() -> None:
    events = [{"size": float(size)} for size in range(60)]
    data = ProbeData(events, torch.tensor([0] * 30 + [1] * 30))

    def answer(given: list[dict[str, float]]) -> Tensor:
        large = torch.tensor([event["size"] >= 30.0 for event in given]).double()
        return torch.stack([1.0 - large, large], dim=1)

    assert make_probe(ProbeSpec("p", metric="accuracy"), data).measure(answer).value == 1.0


def count_first(answer: Answering, data: ProbeData) -> float:
    return float((answer(data.x)[:, 0] > 0.5).double().mean())


def count_rows(answer: Answering, data: ProbeData) -> int:
    return data.num_rows


def give_result(answer: Answering, data: ProbeData) -> ProbeResult:
    part = ProbePart("all", 0.5, 0.4, 0.6, 3)
    return ProbeResult("x", "y", 0.5, 0.4, 0.6, 3, 0.9, "lower", "", (part,))


def give_tensor(answer: Answering, data: ProbeData) -> Tensor:
    return answer(data.x).mean()


def give_truth(answer: Answering, data: ProbeData) -> bool:
    return True


def give_infinity(answer: Answering, data: ProbeData) -> float:
    return math.inf


def divide(answer: Answering, data: ProbeData) -> float:
    return 1.0 / 0.0


def change_in_place(answer: Answering, data: ProbeData) -> float:
    return float(answer(data.x).zero_().sum())


def give_either(answer: Answering, data: ProbeData) -> float | ProbeResult:
    return 0.5 if data.num_rows == 100 else give_result(answer, data)


def ask_for_more(answer: Answering, data: ProbeData) -> float:
    raise DataError("give more")


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("own_metrics")
    functions = (count_first, count_rows, give_result, give_tensor, give_truth, give_infinity)
    for function in (*functions, divide, change_in_place, give_either, ask_for_more):
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, "own_metrics", module)
    return "own_metrics"


def test_a_function_of_ones_own(own: str) -> None:
    result = measure(f"{own}:count_first", settings={"better": "lower"})
    assert (result.value, result.num_examples, result.better) == (0.7, 100, "lower")
    assert math.isnan(result.low)
    assert result.metric == "own_metrics:count_first"
    assert result.is_judged
    assert measure(f"{own}:count_rows").value == 100.0


def test_a_function_of_ones_own_on_slices_and_groups(own: str) -> None:
    result = measure(f"{own}:count_first", slices=SLICES, groups="site")
    assert [(one.name, one.num_examples) for one in result.parts] == [
        ("first", 50),
        ("second", 40),
        ("site=a", 50),
        ("site=b", 40),
        ("site=c", 10),
    ]
    assert [one.value for one in result.parts[:4]] == [1.0, 0.5, 1.0, 0.5]
    assert result.too_few == ("site=c: 10 rows, fewer than the least 30",)
    one = measure(f"{own}:count_first", slices=SLICES, settings={"slice": "second"})
    assert (one.value, one.num_examples) == (0.5, 40)
    assert one.data_digest == make_data().digest


def test_a_function_of_ones_own_may_give_a_whole_result(own: str) -> None:
    result = measure(f"{own}:give_result")
    assert (result.probe, result.metric, result.better) == (
        "p",
        "own_metrics:give_result",
        "higher",
    )
    assert (result.value, result.low, result.parts[0].name) == (0.5, 0.4, "all")
    assert result.data_digest == make_data().digest


def test_a_figure_that_is_not_finite_is_not_judged(own: str) -> None:
    assert not measure(f"{own}:give_infinity").is_judged


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("give_tensor", SettingError, "gave a Tensor; return a float or a ProbeResult"),
        ("give_truth", SettingError, "gave a bool; return a float"),
        ("give_either", SettingError, "gave a float and then a ProbeResult"),
        ("divide", DataError, "failed: ZeroDivisionError: float division by zero"),
    ],
)
def test_a_function_that_gives_no_figure(
    own: str, name: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"^probe 'p': 'own_metrics:{name}' {words}"):
        measure(f"{own}:{name}", slices=SLICES)


def test_an_error_of_ones_own_names_the_probe(own: str) -> None:
    with pytest.raises(DataError, match=r"^probe 'p': give more$"):
        measure(f"{own}:ask_for_more")


def test_a_function_has_no_other_settings(own: str) -> None:
    with pytest.raises(SettingError, match="has no setting 'positive'"):
        measure(f"{own}:count_first", settings={"positive": 1})


def test_own_functions_share_the_answers_and_cannot_spoil_them(own: str) -> None:
    data, asked = make_data(), []

    def answer(x: Tensor) -> Tensor:
        asked.append(len(x))
        return x.clone()

    probes = [
        make_probe(ProbeSpec("spoils", metric=f"{own}:change_in_place"), data),
        make_probe(ProbeSpec("counts", metric=f"{own}:count_first"), data),
        make_probe(ProbeSpec("skill", metric="accuracy"), data),
    ]
    values = [result.value for result in measure_probes(probes, answer)]
    assert values == [0.0, 0.7, 0.7]
    assert asked == [100]
