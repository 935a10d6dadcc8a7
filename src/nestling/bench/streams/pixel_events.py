"""Conflict and drift of the suites as events of 196 numbers, ours beside plain SGD."""

import statistics
from collections.abc import Callable, Iterator, Sequence
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
EVENT_RATES = (0.003, 0.01, 0.02, 0.05)  # of SGD event by event


def measure_pixels_as_events(
    name: str, make_ours: Callable[[int], Any], seeds: Sequence[int], place: CellFolders
) -> tuple[Figures, Rows]:
    """`..._prequential` of ours, `..._over_sgd` in points, of drift also `..._final`.

    The suite's stream, event by event: each is answered before it is learned, the first counts
    as wrong. Final is the mean accuracy at the end on the four contexts of drift. Plain SGD gets
    the network 196-128-128-10, and what turns out best over these seeds: batches of 10, with or
    without momentum .9, or single events, pixels as they are or their running z-scores, and rate.

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
        for label, right, final in _run_sgd(model, batches, tests):
            row = _describe(name, seed, label, right, starts)
            if final is not None:
                row["final"] = final
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


def scale_rows(x_ND: Tensor, further_MD: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Running z-scores, clipped to +-8: of every row by all rows up to it, itself included.

    Args:
        x_ND: in the order of the stream.
        further_MD: scaled by all of them; None for none.
    """
    x_ND = x_ND.double()
    counts_N1 = torch.arange(1, len(x_ND) + 1, dtype=torch.float64, device=x_ND.device)[:, None]
    # Around the first row, so that squares of what hardly moves stay exact.
    apart_ND = x_ND - x_ND[:1]
    means_ND = apart_ND.cumsum(dim=0) / counts_N1
    deviations_ND = (apart_ND.square().cumsum(dim=0) / counts_N1 - means_ND.square()).sqrt()

    def scale(apart: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        z = torch.where(deviation > 1e-9, (apart - mean) / deviation, 0.0)
        return z.clamp(-8.0, 8.0).float()

    further = x_ND[:0] if further_MD is None else further_MD.double()
    return scale(apart_ND, means_ND, deviations_ND), scale(
        further - x_ND[:1], means_ND[-1], deviations_ND[-1]
    )


def _run_sgd(
    make_model: Callable[[], nn.Module], batches: Sequence[Pair], tests: Sequence[Pair]
) -> Iterator[tuple[str, NDArray[np.bool_], float | None]]:
    """Every kind of plain SGD: its name, whether each answer was right, and final accuracy."""
    x_ND = torch.cat([x.flatten(1) for x, _ in batches])
    y_N = torch.cat([y for _, y in batches])
    scaled = [(scale_rows(x_ND, x.flatten(1))[1], y) for x, y in tests]
    z_ND, _ = scale_rows(x_ND)
    kinds: list[tuple[str, dict[float, tuple[float, ...]], Sequence[Pair], Sequence[Pair]]] = [
        ("batches of 10", RATES, batches, tests),
        ("events", {0.0: EVENT_RATES}, _split(x_ND, y_N), tests),
        ("events, z-scores", {0.0: EVENT_RATES}, _split(z_ND, y_N), scaled),
    ]
    for kind, grid, pairs, looks in kinds:
        for momentum, rates in grid.items():
            for rate in rates:
                learn, predict = make_sgd(make_model(), rate, momentum)
                right = follow_tensors(pairs, learn, predict)
                found = [measure_accuracy(predict(x), y) for x, y in looks]
                name = f"sgd {rate:g}, {kind}" + (f", momentum {momentum:g}" if momentum else "")
                yield name, right, statistics.mean(found) if found else None


def _split(x_ND: Tensor, y_N: Tensor) -> list[Pair]:
    return list(zip(torch.split(x_ND, 1), torch.split(y_N, 1), strict=True))


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
