"""Probes that compare groups: parts, intervals, and groups too small to judge."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nestling.core.errors import DataError, SettingError
from nestling.judge import GroupCounts, ProbeData, ProbeResult, make_probe
from nestling.judge.contract.probe_spec import ProbeSpec
from nestling.judge.probes import METRICS, calibration_gap

GROUP_METRICS = sorted(name for name, metric in METRICS.items() if metric.needs == "groups")


def measure(
    metric: str, answers: Tensor, y: Tensor | None, columns: dict[str, list[str]], **given: Any
) -> ProbeResult:
    data = ProbeData(torch.zeros(len(answers), 1), y, columns)
    spec = ProbeSpec("p", metric=metric, **({"groups": sorted(columns)} | given))
    return make_probe(spec, data).measure(lambda _: answers)


def make_case() -> tuple[Tensor, Tensor, dict[str, list[str]]]:
    """100 women of whom 40 are positive and 30 found, 200 men of whom 80 are and 78 found."""
    y = [1] * 40 + [0] * 60 + [1] * 80 + [0] * 120
    answer = [1] * 30 + [0] * 70 + [1] * 78 + [0] * 2 + [1] * 12 + [0] * 108
    sex = ["f"] * 100 + ["m"] * 200
    return torch.eye(2)[answer], torch.tensor(y), {"sex": sex}


def test_gaps_of_a_case_by_hand() -> None:
    p, y, columns = make_case()
    expected = {
        "demographic_parity_difference": 90 / 200 - 30 / 100,
        "equalized_odds_difference": 78 / 80 - 30 / 40,
        "false_negative_gap": 10 / 40 - 2 / 80,
        "false_positive_gap": 12 / 120,
        "accuracy_gap": 186 / 200 - 90 / 100,
        "worst_group_accuracy": 90 / 100,
        # Answers of probability 1: the calibration error of a group is its error.
        "calibration_gap": 0.10 - 0.07,
    }
    assert sorted(expected) == GROUP_METRICS
    for name, value in expected.items():
        result = measure(name, p, y, columns)
        assert result.value == pytest.approx(value, abs=1e-12), name
        assert 0.0 <= result.low <= result.value <= result.high
        assert result.is_judged
        assert result.num_examples == 300


def test_parts_are_the_rates_of_the_groups() -> None:
    p, y, columns = make_case()
    result = measure("false_negative_gap", p, y, columns)
    assert [(one.name, one.value, one.num_examples) for one in result.parts] == [
        ("sex=f", 0.25, 40),
        ("sex=m", 0.025, 80),
    ]
    assert all(one.low < one.value < one.high for one in result.parts)
    odds = measure("equalized_odds_difference", p, y, columns)
    assert [one.name for one in odds.parts] == [
        "sex=f: true positive rate",
        "sex=m: true positive rate",
        "sex=f: false positive rate",
        "sex=m: false positive rate",
    ]


def test_a_group_with_too_few_positives_is_said_and_not_passed() -> None:
    p, y, columns = make_case()
    few = measure("false_negative_gap", p, y, columns, least_examples=41)
    assert math.isnan(few.value)
    assert not few.is_judged
    assert few.too_few == (
        "sex=f: 40 positives, fewer than the least 41",
        "sex: 1 groups with 41 or more positives, a gap needs 2",
    )
    assert math.isnan(few.parts[0].value)
    assert few.parts[1].value == 0.025
    # It has rows enough for other figures.
    assert measure("demographic_parity_difference", p, y, columns, least_examples=41).is_judged


def test_the_other_groups_are_still_compared() -> None:
    p, y, columns = make_case()
    columns["sex"][:3] = ["x"] * 3
    for name in GROUP_METRICS:
        result = measure(name, p, y, columns)
        assert math.isfinite(result.value), name
        assert not result.is_judged
        assert any(words.startswith("sex=x: ") for words in result.too_few)


def test_with_fewer_than_two_groups_to_judge_there_is_no_figure() -> None:
    p, y, columns = make_case()
    for name in GROUP_METRICS:
        result = measure(name, p, y, columns, least_examples=1000)
        assert math.isnan(result.value), name
        assert {part.name.split(":")[0] for part in result.parts} == {"sex=f", "sex=m"}
        assert len(result.too_few) >= 2
    calibration = measure("calibration_gap", p, y, columns, least_examples=101)
    assert calibration.too_few == (
        "sex=f: 100 rows with a target, fewer than the least 101",
        "sex: 1 groups with enough rows, a gap needs 2",
    )
    assert measure("worst_group_accuracy", p, y, columns, least_examples=101).value == 0.93


def test_the_calibration_gap_as_a_function_of_counts() -> None:
    p, y, columns = make_case()
    counts = GroupCounts()
    counts.update(0.9 * p + 0.05, y, columns["sex"])
    # Confidence .95 throughout; the women are right in .90 of all cases, the men in .93.
    assert calibration_gap(counts.counts) == pytest.approx(0.05 - 0.02, abs=1e-7)
    with pytest.raises(DataError, match="no groups"):
        calibration_gap({})


def test_a_group_without_any_target_is_said() -> None:
    p, y, columns = make_case()
    columns["sex"][:40] = ["x"] * 40
    y[:40] = -1
    for name in GROUP_METRICS:
        result = measure(name, p, y, columns)
        if name == "demographic_parity_difference":  # which needs no targets
            assert result.is_judged
            continue
        assert not result.is_judged
        said = [words for words in result.too_few if words.startswith("sex=x: 0 ")]
        assert said, name


def test_a_group_without_positives_is_too_few_even_at_the_least_of_one() -> None:
    p, y, columns = make_case()
    columns["sex"][-5:] = ["x"] * 5
    result = measure("false_negative_gap", p, y, columns, least_examples=1)
    assert result.value == pytest.approx(0.225)
    assert result.too_few == ("sex=x: 0 positives, fewer than the least 1",)
    assert not result.is_judged


def test_the_largest_gap_over_the_columns_counts() -> None:
    p, y, columns = make_case()
    columns["half"] = ["a", "b"] * 150
    both = measure("accuracy_gap", p, y, columns)
    alone = [measure("accuracy_gap", p, y, columns, groups=name).value for name in columns]
    assert both.value == max(alone)
    assert [one.name for one in both.parts] == ["half=a", "half=b", "sex=f", "sex=m"]
    crossed = measure("accuracy_gap", p, y, columns, settings={"crossed": True})
    assert [one.name for one in crossed.parts] == [
        "half=a, sex=f",
        "half=a, sex=m",
        "half=b, sex=f",
        "half=b, sex=m",
    ]


def test_parity_needs_no_targets() -> None:
    p, y, columns = make_case()
    name = "demographic_parity_difference"
    assert measure(name, p, None, columns).value == measure(name, p, y, columns).value


def test_another_positive_class() -> None:
    p, y, columns = make_case()
    result = measure("false_negative_gap", p, y, columns, settings={"positive": 0})
    assert result.value == pytest.approx(12 / 120)


def test_the_calibration_gap_has_an_interval_of_its_data() -> None:
    p, y, columns = make_case()
    first, again = (measure("calibration_gap", p, y, columns) for _ in range(2))
    assert first == again
    assert first.low < first.value < first.high
    assert [one.value for one in first.parts] == pytest.approx([0.10, 0.07])


def test_groups_that_are_none_are_refused() -> None:
    p, y, columns = make_case()
    with pytest.raises(DataError, match=r"probe 'p': no column 'sax'; .* did you mean 'sex'"):
        measure("accuracy_gap", p, y, columns, groups="sax")
    with pytest.raises(SettingError, match=r"compares groups; give groups, columns of \['sex'\]"):
        measure("accuracy_gap", p, y, columns, groups=[])
    with pytest.raises(DataError, match=r"column 'sex' has one group, {'f'}; a gap needs 2"):
        measure("accuracy_gap", p, y, {"sex": ["f"] * 300})


def test_slices_of_a_gap_are_parts() -> None:
    p, y, columns = make_case()
    columns["half"] = ["a", "b"] * 150
    slices = {"first half": {"half": "a"}}
    result = measure("accuracy_gap", p, y, columns, groups="sex", slices=slices)
    alone = measure(
        "accuracy_gap", p, y, columns, groups="sex", slices=slices, settings={"slice": "first half"}
    )
    assert [one.name for one in result.parts] == ["sex=f", "sex=m", "first half"]
    assert result.parts[-1].value == alone.value
    assert alone.num_examples == 150
