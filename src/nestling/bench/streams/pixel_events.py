"""Conflict and drift of the suites as events of 196 numbers, ours beside plain SGD."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nestling.bench.personal.changing_streams import NUM_CONTEXTS, RATES, Learn, Predict, make_sgd
from nestling.bench.rivals.competitors import Pair
from nestling.bench.rivals.tunable import make_setup
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import Figures, Rows
from nestling.data.drifts import iterate_stream
from nestling.data.suites import make_suite
from nestling.judge.scores import measure_accuracy

AFTER = 300  # events after a change, in which what is known of it shows
OURS = "nestling"
_Split = Callable[[Sequence[Pair]], Sequence[Pair]]


def measure_pixels_as_events(
    name: str, make_ours: Callable[[int], Any], seeds: Sequence[int], place: CellFolders
) -> tuple[Figures, Rows]:
    """`..._prequential` of ours, `..._over_sgd` in points, of drift also `..._final`.

    The suite's stream, event by event: each is answered before it is learned, the first counts
    as wrong. Final is the mean accuracy at the end on the four contexts of drift. Plain SGD gets
    the network 196-128-128-10, with and without momentum .9, batches of 10 or single events, and
    the rate that turns out best over these seeds.

    Args:
        name: "conflict" or "drift".
        make_ours: makes a learner of a seed.
        seeds: of streams, weights and learners.
        place: where MNIST lies.
    """
    rows: Rows = []
    for seed in seeds:
        suite = make_suite(name, seed, folder=place.data, offline=place.offline)
        batches = list(iterate_stream(suite.experiences, suite.batch_size))
        tests = [one.test for one in suite.experiences[:NUM_CONTEXTS]] if name == "drift" else []
        sizes = [len(one.train[1]) for one in suite.experiences]
        starts = [sum(sizes[:place]) for place in range(1, len(sizes))]
        learner = make_ours(seed)
        row = _describe(name, seed, OURS, follow_pixels(batches, learner), starts)
        if tests:
            row["final"] = statistics.mean(score_pixels(learner, pair) for pair in tests)
        rows.append(row)
        model = make_setup(suite, seed).make_model
        for label, split, learn, predict in _list_sgd(model):
            right = follow_tensors(split(batches), learn, predict)
            row = _describe(name, seed, label, right, starts)
            if tests:
                row["final"] = statistics.mean(measure_accuracy(predict(x), y) for x, y in tests)
            rows.append(row)
    return build_pixel_figures(name, rows), rows


def build_pixel_figures(name: str, rows: Rows) -> Figures:
    """The figures of `measure_pixels_as_events` from its rows."""
    methods = dict.fromkeys(str(row["method"]) for row in rows)
    means = {method: _average(rows, method, "prequential") for method in methods}
    ours = means.pop(OURS)
    figures: Figures = {
        f"{name}_prequential": ours,
        f"{name}_over_sgd": 100.0 * (ours - max(means.values())),
        f"{name}_after_changes": _average(rows, OURS, "after_changes"),
    }
    if "final" in rows[0]:
        figures[f"{name}_final"] = _average(rows, OURS, "final")
    return figures


def follow_pixels(batches: Sequence[Pair], learner: Any) -> NDArray[np.bool_]:
    """Whether each answer of a learner of events was right, (N,)."""
    right = []
    for images, labels in batches:
        for row, label in zip(images.flatten(1).tolist(), labels.tolist(), strict=True):
            x = name_pixels(row)
            answer = learner.predict_proba_one(x)
            right.append(bool(answer) and max(answer, key=answer.__getitem__) == label)
            learner.learn_one(x, label)
    return np.array(right, np.bool_)


def follow_tensors(batches: Sequence[Pair], learn: Learn, predict: Predict) -> NDArray[np.bool_]:
    """The same of what learns batches of tensors; the first batch counts as wrong."""
    right: list[bool] = []
    for x, y in batches:
        right += (predict(x).argmax(dim=1) == y).tolist() if right else [False] * len(y)
        learn(x, y)
    return np.array(right, np.bool_)


def score_pixels(learner: Any, pair: Pair) -> float:
    """Accuracy of a learner of events on images that it does not learn."""
    num_right = 0
    for row, label in zip(pair[0].flatten(1).tolist(), pair[1].tolist(), strict=True):
        answer = learner.predict_proba_one(name_pixels(row))
        num_right += bool(answer) and max(answer, key=answer.__getitem__) == label
    return num_right / len(pair[1])


def name_pixels(row: Sequence[float]) -> dict[str, float]:
    """An image as an event."""
    return {f"pixel {place}": value for place, value in enumerate(row)}


def _list_sgd(make_model: Callable[[], nn.Module]) -> list[tuple[str, _Split, Learn, Predict]]:
    sides: list[tuple[str, _Split, Learn, Predict]] = []
    for size, split in (("batches of 10", _keep), ("events", _split)):
        for momentum, rates in RATES.items():
            for rate in rates:
                label = f"sgd {rate:g}, {size}"
                label += f", momentum {momentum:g}" if momentum else ""
                sides.append((label, split, *make_sgd(make_model(), rate, momentum)))
    return sides


def _keep(batches: Sequence[Pair]) -> Sequence[Pair]:
    return batches


def _split(batches: Sequence[Pair]) -> Sequence[Pair]:
    def cut(whole: Tensor) -> Sequence[Tensor]:
        return torch.split(whole, 1)

    return [pair for x, y in batches for pair in zip(cut(x), cut(y), strict=True)]


def _describe(
    name: str, seed: int, method: str, right: NDArray[np.bool_], starts: Sequence[int]
) -> dict[str, object]:
    after = [float(right[start : start + AFTER].mean()) for start in starts if start < len(right)]
    return {
        "suite": name,
        "seed": seed,
        "method": method,
        "prequential": float(right.mean()),
        "after_changes": statistics.mean(after),
    }


def _average(rows: Rows, method: str, column: str) -> float:
    return statistics.mean(float(str(row[column])) for row in rows if row["method"] == method)
