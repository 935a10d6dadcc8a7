"""Fairlearn as oracle: the same figures to 1e-12 on the same predictions."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from nestling.core.errors import DataError
from nestling.judge import GroupCounts, ProbeData, make_probe, measure_probes
from nestling.judge.contract.clauses import EvaluationProtocol
from nestling.judge.contract.probe_spec import ProbeSpec
from nestling.judge.probes import (
    GroupCount,
    accuracy_gap,
    demographic_parity_difference,
    demographic_parity_ratio,
    equalized_odds_difference,
    false_negative_gap,
    false_positive_gap,
    worst_group_accuracy,
)

fairlearn = pytest.importorskip("fairlearn.metrics")

OURS = {
    "demographic_parity_difference": demographic_parity_difference,
    "demographic_parity_ratio": demographic_parity_ratio,
    "equalized_odds_difference": equalized_odds_difference,
    "false_negative_gap": false_negative_gap,
    "false_positive_gap": false_positive_gap,
    "accuracy_gap": accuracy_gap,
    "worst_group_accuracy": worst_group_accuracy,
}


def ask_fairlearn(truth: Tensor, answer: Tensor, groups: list[str]) -> dict[str, float]:
    from sklearn.metrics import accuracy_score

    y, p, g = truth.numpy(), answer.numpy(), np.asarray(groups)

    def frame(metric):  # type: ignore[no-untyped-def]
        return fairlearn.MetricFrame(metrics=metric, y_true=y, y_pred=p, sensitive_features=g)

    accuracy = frame(accuracy_score)
    found = {
        name: getattr(fairlearn, name)(y, p, sensitive_features=g)
        for name in (
            "demographic_parity_difference",
            "demographic_parity_ratio",
            "equalized_odds_difference",
        )
    }
    found["false_negative_gap"] = frame(fairlearn.false_negative_rate).difference()
    found["false_positive_gap"] = frame(fairlearn.false_positive_rate).difference()
    found["accuracy_gap"] = accuracy.difference()
    found["worst_group_accuracy"] = accuracy.group_min()
    return {name: float(value) for name, value in found.items()}


def count(truth: Tensor, answer: Tensor, groups: list[str]) -> Mapping[str, GroupCount]:
    counts = GroupCounts()
    # In shards, so that merging is held to the same figures.
    for start in range(0, len(groups), 17):
        rows, shard = slice(start, start + 17), GroupCounts()
        shard.update(torch.eye(2)[answer[rows]], truth[rows], groups[rows])
        counts.merge(shard)
    return counts.counts


@given(
    st.integers(0, 2**20),
    st.integers(10, 200),
    st.integers(1, 5),
    st.floats(0.05, 0.95),
    st.floats(0.05, 0.95),
)
def test_random_answers(
    seed: int, num_rows: int, num_groups: int, true_share: float, share: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = (torch.rand(num_rows, generator=generator) < true_share).long()
    answer = (torch.rand(num_rows, generator=generator) < share).long()
    groups = torch.randint(0, num_groups, (num_rows,), generator=generator)
    named = [f"group {place}" for place in groups.tolist()]
    counts = count(truth, answer, named)
    # Of a group without positives or negatives we say something else, see below.
    assume(all(one.num_positives and one.num_negatives for one in counts.values()))
    theirs = ask_fairlearn(truth, answer, named)
    for name, figure in OURS.items():
        assert figure(counts) == pytest.approx(theirs[name], abs=1e-12, nan_ok=True), name


def test_a_group_without_positives_has_no_rate() -> None:
    truth, answer = torch.tensor([1, 1, 0, 0]), torch.tensor([0, 1, 0, 1])
    groups = ["a", "a", "a", "b"]
    counts = count(truth, answer, groups)
    # Fairlearn takes the missed positives of a group that has none to be 0 of 0 = 0.
    assert ask_fairlearn(truth, answer, groups)["false_negative_gap"] == 0.5
    assert math.isnan(false_negative_gap(counts))
    assert math.isnan(equalized_odds_difference(counts))
    assert false_positive_gap(counts) == 1.0


def test_no_group_is_an_error() -> None:
    for figure in OURS.values():
        with pytest.raises(DataError, match="no groups"):
            figure({})


@pytest.fixture(scope="module")
def census() -> tuple[Tensor, Tensor, dict[str, list[str]]]:
    """Probabilities of a small model, truths, and columns of the census of 1994."""
    from nestling.data.groups.census_groups import TARGET, read_adult
    from nestling.data.sources import obtain
    from nestling.data.table_encoding import fit_encoding

    try:
        path: Path = obtain("adult", offline=True)[0]
    except DataError as error:
        pytest.skip(str(error))
    table = read_adult(path)
    order = torch.randperm(32_561, generator=torch.Generator().manual_seed(0)).tolist()
    trained, held = table.select(order[:4000]), table.select(order[4000:12_000])
    encoding = fit_encoding([trained], TARGET)
    x, y = encoding.encode(trained)
    held_x, held_y = encoding.encode(held)
    # Least squares on the truth, squeezed: cheap, and wrong by group as real models are.
    ones = torch.ones(len(x), 1)
    X = torch.cat([x, ones], dim=1).double()
    w = torch.linalg.solve(
        X.T @ X + torch.eye(X.shape[1], dtype=torch.float64), X.T @ (2.0 * y.double() - 1.0)
    )
    score = torch.cat([held_x, torch.ones(len(held_x), 1)], dim=1).double() @ w
    p = torch.sigmoid(3.0 * score)
    columns = {name: [str(cell) for cell in held.columns[name]] for name in ("sex", "race")}
    return torch.stack([1.0 - p, p], dim=1), held_y, columns


@pytest.mark.parametrize("column", ["sex", "race"])
def test_real_answers(census: tuple[Tensor, Tensor, dict[str, list[str]]], column: str) -> None:
    p, truth, columns = census
    answer = p.argmax(dim=1)
    counts = count(truth, answer, columns[column])
    theirs = ask_fairlearn(truth, answer, columns[column])
    for name, figure in OURS.items():
        assert figure(counts) == pytest.approx(theirs[name], abs=1e-12), name
    data = ProbeData(p, truth, columns)
    protocol = EvaluationProtocol(least_examples=1)
    names = [name for name in OURS if name != "demographic_parity_ratio"]
    probes = [
        make_probe(ProbeSpec(name.replace("_", "-"), metric=name, groups=column), data, protocol)
        for name in names
    ]
    for name, result in zip(names, measure_probes(probes, lambda x: x), strict=True):
        assert result.value == pytest.approx(theirs[name], abs=1e-12), name
        assert result.low <= result.value <= result.high
        assert result.is_judged


def test_crossed_groups(census: tuple[Tensor, Tensor, dict[str, list[str]]]) -> None:
    p, truth, columns = census
    sex, race = columns["sex"], [text[:5] for text in columns["race"]]
    keep = [row for row, text in enumerate(race) if text in ("White", "Black")]
    p, truth = p[keep], truth[keep]
    sex, race = [sex[row] for row in keep], [race[row] for row in keep]
    crossed = [f"{a} {b}" for a, b in zip(sex, race, strict=True)]
    spec = ProbeSpec(
        "crossed",
        metric="equalized_odds_difference",
        groups=["sex", "race"],
        settings={"crossed": True},
    )
    data = ProbeData(p, truth, {"sex": sex, "race": race})
    result = make_probe(spec, data, EvaluationProtocol(least_examples=1)).measure(lambda x: x)
    theirs = ask_fairlearn(truth, p.argmax(dim=1), crossed)
    assert result.value == pytest.approx(theirs["equalized_odds_difference"], abs=1e-12)
    assert "sex=Female, race=Black: true positive rate" in {part.name for part in result.parts}
