"""Canaries, invariance, monotonicity and negative flips."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nestling.core.errors import DataError, SettingError, ShapeMismatch
from nestling.judge import ProbeData, ProbeResult, make_probe
from nestling.judge.contract.probe_spec import ProbeSpec

CLASSES = torch.eye(3)


def judge(metric: str, data: ProbeData, answers: Any, **given: Any) -> ProbeResult:
    """Measure a model that answers the inputs themselves, or with fixed answers."""
    probe = make_probe(ProbeSpec("p", metric=metric, **given), data)
    return probe.measure((lambda x: x) if answers is None else (lambda _: answers))


def test_canaries_require_and_forbid() -> None:
    columns = {"forbidden": ["", "2", "0, 2", "1 2"]}
    data = ProbeData(torch.zeros(4, 1), torch.tensor([0, -1, 1, -1]), columns)
    passed = judge("canary_pass_rate", data, CLASSES[[0, 1, 1, 0]])
    assert passed.value == 1.0
    assert passed.is_judged  # a list of canaries is no sample: four are enough
    assert passed.notes == ()
    failed = judge("canary_pass_rate", data, CLASSES[[1, 2, 1, 1]])
    assert failed.value == 0.25
    assert failed.notes == (
        "canaries failed: row 0 answered 1, row 1 answered 2, row 3 answered 1",
    )
    few = judge("canary_pass_rate", data, CLASSES[[0, 1, 1, 0]], least_examples=5)
    assert few.too_few == ("4 canaries, fewer than the least 5",)


def test_canaries_may_require_one_of_several() -> None:
    columns = {"required": ["0 1", "2"]}
    data = ProbeData(torch.zeros(2, 1), torch.tensor([2, 2]), columns)
    assert judge("canary_pass_rate", data, CLASSES[[1, 2]]).value == 1.0
    assert judge("canary_pass_rate", data, CLASSES[[2, 2]]).value == 0.5


def test_an_answer_that_is_not_finite_fails_its_canary() -> None:
    data = ProbeData(torch.zeros(1, 1), columns={"forbidden": ["0"]})
    result = judge("canary_pass_rate", data, torch.full((1, 3), float("nan")))
    assert result.value == 0.0
    assert result.notes[0] == "canaries failed: row 0 answered not finite"


def test_many_canaries_that_fail_are_counted() -> None:
    data = ProbeData(torch.zeros(9, 1), torch.zeros(9, dtype=torch.long))
    result = judge("canary_pass_rate", data, CLASSES[[1] * 9])
    assert result.notes[0].endswith("row 4 answered 1 and 4 more")


@pytest.mark.parametrize(
    ("columns", "y", "words"),
    [
        ({}, None, "canary 0 requires and forbids nothing"),
        ({"forbidden": ["1", ""]}, torch.tensor([0, -1]), "canary 1 requires and forbids nothing"),
        ({"forbidden": ["1", "two"]}, None, "canary 1: forbidden is 'two'; class numbers work"),
        ({"required": ["-1", "0"]}, None, "canary 0: required is '-1'"),
        ({"forbidden": ["0", "0"]}, torch.tensor([1, 0]), r"canary 1 forbids \[0\], all that it"),
        ({}, torch.tensor([0.0, 1.0]), "takes classes or no targets, not values"),
    ],
)
def test_canaries_that_say_nothing_are_refused(
    columns: dict[str, list[str]], y: Tensor | None, words: str
) -> None:
    data = ProbeData(torch.zeros(2, 1), y, columns)
    with pytest.raises(DataError, match=f"probe 'p': .*{words}"):
        make_probe(ProbeSpec("p", metric="canary_pass_rate"), data)


def make_pairs(before: list[list[float]], after: list[list[float]], y: Any = None) -> ProbeData:
    return ProbeData(torch.tensor(before), y, x_changed=torch.tensor(after))


def test_invariance_of_classes() -> None:
    data = make_pairs([[0.9, 0.1]] * 40, [[0.6, 0.4]] * 30 + [[0.4, 0.6]] * 10)
    result = judge("invariance", data, None)
    assert result.value == 0.75
    assert result.better == "higher"
    assert result.low < 0.75 < result.high


def test_invariance_within_a_tolerance() -> None:
    data = make_pairs([[0.75, 0.25]] * 40, [[0.5, 0.5]] * 30 + [[0.375, 0.625]] * 10)
    assert judge("invariance", data, None, settings={"tolerance": 0.25}).value == 0.75
    assert judge("invariance", data, None, settings={"tolerance": 0.2}).value == 0.0
    values = make_pairs([[1.0]] * 40, [[1.5]] * 40, torch.zeros(40))
    assert judge("invariance", values, None, settings={"tolerance": 0.5}).value == 1.0
    with pytest.raises(SettingError, match="invariance of values needs a tolerance"):
        judge("invariance", values, None)


def test_an_answer_that_fails_does_not_stay() -> None:
    nan = float("nan")
    data = make_pairs([[nan, nan]] * 40, [[nan, nan]] * 40)
    assert judge("invariance", data, None).value == 0.0
    assert judge("invariance", data, None, settings={"tolerance": 9.0}).value == 0.0
    assert judge("monotonicity", data, None).value == 0.0


def test_monotonicity_follows_its_direction() -> None:
    data = make_pairs([[0.5, 0.5]] * 40, [[0.5, 0.5]] * 10 + [[0.25, 0.75]] * 20 + [[1, 0.0]] * 10)
    assert judge("monotonicity", data, None).value == 30 / 40
    assert judge("monotonicity", data, None, settings={"direction": "down"}).value == 20 / 40
    assert judge("monotonicity", data, None, settings={"positive": 0}).value == 20 / 40
    assert judge("monotonicity", data, None, settings={"tolerance": 0.5}).value == 1.0
    with pytest.raises(SettingError, match="positive = 2; the answers have 2 columns"):
        judge("monotonicity", data, None, settings={"positive": 2})


def test_monotonicity_of_a_value() -> None:
    data = make_pairs([[1.0]] * 40, [[2.0]] * 30 + [[0.0]] * 10)
    assert judge("monotonicity", data, None).value == 0.75


def test_changed_rows_are_needed_and_answered_alike() -> None:
    with pytest.raises(DataError, match=r"needs the rows changed; give ProbeData.*x_changed"):
        judge("invariance", ProbeData(torch.zeros(40, 2)), None)
    data = make_pairs([[1.0, 0.0]] * 40, [[1.0]] * 40)
    with pytest.raises(ShapeMismatch, match=r"to the changed rows \(40, 1\)"):
        judge("monotonicity", data, None)


def test_negative_flips_against_the_version_before() -> None:
    y = torch.tensor([0] * 40 + [-1] * 10)
    before, now = [0] * 30 + [1] * 20, [0] * 24 + [1] * 10 + [0] * 6 + [1] * 10
    data = ProbeData(torch.zeros(50, 1), y)
    probe = make_probe(ProbeSpec("p", metric="negative_flip_rate"), data)
    result = probe.measure(lambda _: CLASSES[now], lambda _: CLASSES[before])
    assert result.value == 6 / 40
    assert result.num_examples == 40
    assert result.low < result.value < result.high
    assert result.better == "lower"


def test_without_a_version_before_there_are_no_flips_to_judge() -> None:
    data = ProbeData(torch.zeros(40, 1), torch.zeros(40, dtype=torch.long))
    result = judge("negative_flip_rate", data, CLASSES[[0] * 40])
    assert math.isnan(result.value)
    assert result.too_few == ("no version before, so no flips; measure with before=...",)
    assert not result.is_judged


def test_flips_of_answers_that_fail() -> None:
    data = ProbeData(torch.zeros(40, 1), torch.zeros(40, dtype=torch.long))
    good, failed = CLASSES[[0] * 40], torch.full((40, 3), float("nan"))
    probe = make_probe(ProbeSpec("p", metric="negative_flip_rate"), data)
    assert probe.measure(lambda _: failed, lambda _: good).value == 1.0
    assert probe.measure(lambda _: good, lambda _: failed).value == 0.0
    few = make_probe(ProbeSpec("p", metric="negative_flip_rate", least_examples=41), data)
    assert few.measure(lambda _: good, lambda _: good).too_few[0].startswith("40 rows")
