"""Counts by group: against a plain loop, merged in any order, saved and restored."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nestling.core.errors import (
    DataError,
    MergeError,
    MismatchedParameters,
    SettingError,
    ShapeMismatch,
)
from nestling.judge import GroupCounts, StreamScores
from nestling.judge.probes import group_counts as counting
from nestling.judge.probes.group_gaps import expected_calibration_error


def make_rows(seed: int, count: int, classes: int = 3) -> tuple[Tensor, Tensor, list[str]]:
    """Answers of which some fail, targets of which some are none, and groups."""
    generator = torch.Generator().manual_seed(seed)
    p = (3.0 * torch.randn(count, classes, generator=generator)).softmax(dim=1)
    p[torch.rand(count, generator=generator) < 0.1, 0] = float("nan")
    y = torch.randint(-1, classes, (count,), generator=generator)
    groups = torch.randint(0, 3, (count,), generator=generator)
    return p, y, ["abc"[place] for place in groups.tolist()]


def count_slowly(
    p: Tensor, y: Tensor, groups: list[str], positive: int, bins: int
) -> dict[str, dict[str, Any]]:
    """The same row by row, as its definition says."""
    found: dict[str, dict[str, Any]] = {}
    for p_K, target, group in zip(p.double().tolist(), y.tolist(), groups, strict=True):
        names = ("num_rows", "num_answered_positive", "num_right", "true_positives")
        names += ("false_positives", "false_negatives", "true_negatives")
        count = found.setdefault(
            group,
            dict.fromkeys(names, 0)
            | {name: [0] * bins for name in ("bin_rows", "bin_right", "bin_confidence")},
        )
        failed = any(not math.isfinite(value) for value in p_K)
        answer = -1 if failed else p_K.index(max(p_K))
        confidence = 1.0 if failed else max(p_K)
        positive_answer = answer == positive or (failed and target >= 0 and target != positive)
        count["num_rows"] += 1
        count["num_answered_positive"] += positive_answer
        if target < 0:
            continue
        truth = "true" if positive_answer == (target == positive) else "false"
        count[f"{truth}_{'positives' if positive_answer else 'negatives'}"] += 1
        count["num_right"] += answer == target
        place = min(int(confidence * bins), bins - 1)
        count["bin_rows"][place] += 1
        count["bin_right"][place] += answer == target
        count["bin_confidence"][place] += round(confidence * 2**40)
    return found


@given(st.integers(0, 2**20), st.integers(1, 60), st.integers(0, 2), st.integers(1, 15))
def test_counts_equal_a_plain_loop(seed: int, count: int, positive: int, bins: int) -> None:
    p, y, groups = make_rows(seed, count)
    counts = GroupCounts(positive, bins)
    counts.update(p, y, groups)
    assert counts.state_dict()["counts"] == count_slowly(p, y, groups, positive, bins)


@given(st.integers(0, 2**20), st.lists(st.integers(0, 40), min_size=1, max_size=5), st.randoms())
def test_merged_shards_equal_one_pass(seed: int, sizes: list[int], order: Any) -> None:
    p, y, groups = make_rows(seed, sum(sizes))
    whole = GroupCounts()
    whole.update(p, y, groups)
    shards, start = [], 0
    for size in sizes:
        shard = GroupCounts()
        rows = slice(start, start + size)
        shard.update(p[rows], y[rows], groups[rows])
        shards.append(shard)
        start += size
    order.shuffle(shards)
    merged = GroupCounts()
    for shard in shards:
        merged.merge(shard)
    assert merged == whole
    assert json.dumps(merged.state_dict()) == json.dumps(whole.state_dict())


def test_a_long_batch_is_cut_so_that_sums_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    p, y, groups = make_rows(0, 100)
    whole, cut = GroupCounts(), GroupCounts()
    whole.update(p, y, groups)
    monkeypatch.setattr(counting, "_MOST_AT_ONCE", 7)
    cut.update(p, y, groups)
    assert cut == whole
    # The greatest sum of a batch, all rows sure and in one bin, is still a 64-bit integer.
    assert 2**22 * round(1.0 / counting.CONFIDENCE_UNIT) < 2**63


def test_a_row_without_target_counts_in_the_rate_of_positive_answers_only() -> None:
    p = torch.tensor([[0.1, 0.9], [0.9, 0.1], [float("nan"), 0.0]])
    counts = GroupCounts()
    counts.update(p, None, ["a"] * 3)
    count = counts.counts["a"]
    assert (count.num_rows, count.num_answered_positive, count.num_labelled) == (3, 1, 0)
    assert math.isnan(expected_calibration_error([count]))


def test_the_calibration_error_is_that_of_stream_scores() -> None:
    p, y, groups = make_rows(3, 500)
    kept = p.isfinite().all(dim=1) & (y >= 0)
    p, y = p[kept].double(), y[kept]
    groups = [group for group, is_kept in zip(groups, kept.tolist(), strict=True) if is_kept]
    scores, counts = StreamScores(), GroupCounts()
    for row, label in zip(p.tolist(), y.tolist(), strict=True):
        scores.update(label, {place: value / sum(row) for place, value in enumerate(row)})
    counts.update(p, y, groups)
    ours = expected_calibration_error(counts.counts.values())
    assert ours == pytest.approx(scores.ece, abs=1e-6)  # float32 rows sum to 1 within 1e-7


def test_a_state_goes_through_json_and_on() -> None:
    p, y, groups = make_rows(1, 40)
    whole, first, second = GroupCounts(2, 5), GroupCounts(2, 5), GroupCounts(2, 5)
    whole.update(p, y, groups)
    first.update(p[:20], y[:20], groups[:20])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.update(p[20:], y[20:], groups[20:])
    assert second == whole


def break_state(**changed: Any) -> dict[str, Any]:
    counts = GroupCounts(num_bins=2)
    counts.update(torch.tensor([[0.1, 0.9]]), torch.tensor([1]), ["a"])
    state = counts.state_dict()
    state["counts"]["a"].update(changed)
    return state


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "class None in None bins"),
        (GroupCounts(0, 2).state_dict(), "class 0 in 2 bins for counts of class 1 in 2"),
        (GroupCounts(1, 3).state_dict(), "in 3 bins"),
        ({"positive": 1, "num_bins": 2, "counts": [1]}, "a state without counts"),
        ({"positive": 1, "num_bins": 2, "counts": {"a": {}}}, "its counts must be"),
        (break_state(num_right=-1), "num_right -1; counts from 0 work"),
        (break_state(num_right=1.0), "num_right 1.0"),
        (break_state(num_right=True), "num_right True"),
        (break_state(bin_rows=[0, 1, 0]), "bin_rows"),
        (break_state(bin_rows=1), "bin_rows 1"),
        (break_state(num_rows=0), "do not add up"),
        (break_state(true_positives=0), "do not add up"),
    ],
)
def test_a_foreign_state_changes_nothing(state: dict[str, Any], words: str) -> None:
    counts = GroupCounts(num_bins=2)
    counts.update(torch.tensor([[0.6, 0.4]]), torch.tensor([1]), ["b"])
    before = counts.state_dict()
    with pytest.raises(MismatchedParameters, match=words):
        counts.load_state_dict(state)
    assert counts.state_dict() == before


def test_a_wrong_batch_changes_nothing() -> None:
    counts = GroupCounts()
    for p, y, groups, error in [
        (torch.ones(2, 2), torch.tensor([0]), ["a", "b"], ShapeMismatch),
        (torch.ones(2, 2), torch.tensor([0, 1]), ["a"], ShapeMismatch),
        (torch.ones(2), torch.tensor([0, 1]), ["a", "b"], ShapeMismatch),
        (torch.ones(2, 2), torch.tensor([0.0, 1.0]), ["a", "b"], DataError),
    ]:
        with pytest.raises(error):
            counts.update(p, y, groups)
    assert counts == GroupCounts()


def test_counts_of_other_settings_do_not_merge() -> None:
    ours = GroupCounts()
    with pytest.raises(MergeError, match="class 1 in 15 bins and of class 0 in 15"):
        ours.merge(GroupCounts(0))
    with pytest.raises(MergeError, match="with the same settings"):
        ours.merge(GroupCounts(num_bins=3))
    with pytest.raises(SettingError, match="positive class -1"):
        GroupCounts(-1)
    with pytest.raises(SettingError, match="0 bins"):
        GroupCounts(num_bins=0)


def test_counts_may_be_merged_with_themselves() -> None:
    counts = GroupCounts()
    counts.update(torch.tensor([[0.1, 0.9]]), torch.tensor([1]), ["a"])
    counts.merge(counts)
    assert counts.counts["a"].num_rows == 2
