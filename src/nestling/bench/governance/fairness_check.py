"""Group fairness figures beside fairlearn's on the same predictions, and merged shards."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.bench.governance.two_parts import TwoPartNet, learn_part
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import Figures, Rows
from nestling.core.errors import MissingExtra
from nestling.core.seeds import make_generator
from nestling.data.groups import GroupedRows, load_census
from nestling.judge.probes import group_gaps
from nestling.judge.probes.group_counts import GroupCount, GroupCounts

COLUMNS = ("sex", "age group", "race")
NUM_TRAIN, NUM_SHARDS = 8_000, 7
Gap = Callable[[Mapping[str, GroupCount]], float]

OURS: dict[str, Gap] = {
    "demographic parity difference": group_gaps.demographic_parity_difference,
    "demographic parity ratio": group_gaps.demographic_parity_ratio,
    "equalized odds difference": group_gaps.equalized_odds_difference,
    "false negative gap": group_gaps.false_negative_gap,
    "false positive gap": group_gaps.false_positive_gap,
    "worst group accuracy": group_gaps.worst_group_accuracy,
    "accuracy gap": group_gaps.accuracy_gap,
}


def measure_fairness(place: CellFolders) -> tuple[Figures, Rows]:
    """`fairness_max_diff`: the largest difference of our group figures to fairlearn's.

    A logistic regression of 8,000 people of Adult answers about the other 24,561; every figure of
    both libraries is of these answers, by sex, age group and race. The same answers are counted
    in seven shards, in an order that is drawn, and merged.

    Returns: the figure, and `shards_max_diff`, which is 0 where merged shards equal one pass; a
        row per column and figure.

    Raises:
        MissingExtra: fairlearn is not installed.
        DataError: the census cannot be had.
    """
    rows = load_census(place.data, offline=place.offline).shuffle(0)
    trained, tested = rows.split(NUM_TRAIN)
    model = TwoPartNet(rows.x.shape[1], seed=0)
    learn_part(model, trained, "spine", num_epochs=2, seed=0)
    with torch.no_grad():
        p_NK = model(tested.x).softmax(dim=1)
    found = [row for name in COLUMNS for row in compare_column(p_NK, tested, name)]
    figures = {
        "fairness_max_diff": max(float(str(row["difference"])) for row in found),
        "shards_max_diff": max(measure_shards(p_NK, tested, name) for name in COLUMNS),
    }
    return figures, found


def compare_column(p_NK: Tensor, rows: GroupedRows, column: str) -> Rows:
    """Every figure by the groups of one column: ours, fairlearn's and their difference.

    Args:
        p_NK: (N, K) probabilities of the rows' labels.
        rows: N of them.
        column: whose values are the groups.
    """
    groups = list(rows.columns[column])
    ours = count_groups(p_NK, rows.y, groups)
    theirs = list_fairlearn(p_NK.argmax(dim=1), rows.y, groups)
    found: Rows = []
    for name, gap in OURS.items():
        pair = (gap(ours.counts), theirs[name])
        found.append(
            {
                "column": column,
                "figure": name,
                "nestling": pair[0],
                "fairlearn": pair[1],
                "difference": abs(pair[0] - pair[1]),
            }
        )
    return found


def count_groups(p_NK: Tensor, y: Tensor, groups: Sequence[str]) -> GroupCounts:
    """Counts of one pass over all rows."""
    counts = GroupCounts()
    counts.update(p_NK, y, groups)
    return counts


def measure_shards(p_NK: Tensor, rows: GroupedRows, column: str) -> float:
    """Largest difference of a figure between shards that were merged and one pass."""
    groups = list(rows.columns[column])
    order = torch.randperm(len(rows), generator=make_generator(0, "shards"), device="cpu")
    merged = GroupCounts()
    for shard in order.tensor_split(NUM_SHARDS):
        merged.merge(count_groups(p_NK[shard], rows.y[shard], [groups[i] for i in shard.tolist()]))
    whole = count_groups(p_NK, rows.y, groups)
    return max(abs(gap(merged.counts) - gap(whole.counts)) for gap in OURS.values())


def list_fairlearn(answers: Tensor, y: Tensor, groups: Sequence[str]) -> dict[str, float]:
    """The figures of `OURS` by fairlearn, from answers (N,) and labels (N,)."""
    try:
        from fairlearn import metrics
    except ImportError:
        raise MissingExtra(
            "fairness figures are compared with fairlearn's: pip install 'nestling[compat]'"
        ) from None
    truth, said = y.numpy(), answers.numpy()
    given: dict[str, Any] = {"y_true": truth, "y_pred": said, "sensitive_features": groups}
    by_group = metrics.MetricFrame(
        metrics={
            "false negative": metrics.false_negative_rate,
            "false positive": metrics.false_positive_rate,
            "accuracy": lambda truth, said: float((truth == said).mean()),
        },
        **given,
    )
    gaps = by_group.difference(method="between_groups")
    return {
        "demographic parity difference": float(metrics.demographic_parity_difference(**given)),
        "demographic parity ratio": float(metrics.demographic_parity_ratio(**given)),
        "equalized odds difference": float(metrics.equalized_odds_difference(**given)),
        "false negative gap": float(gaps["false negative"]),
        "false positive gap": float(gaps["false positive"]),
        "worst group accuracy": float(by_group.group_min()["accuracy"]),
        "accuracy gap": float(gaps["accuracy"]),
    }
