"""Streams that change under the learner: labels that change and change back, and drift."""

import statistics
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from nestling.bench.personal.following import score
from nestling.bench.rivals.competitors import Pair
from nestling.bench.rivals.tunable import make_setup
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import Figures, Rows, run_backward
from nestling.data.drifts import iterate_stream
from nestling.data.suites import make_suite
from nestling.judge.scores import measure_accuracy
from nestling.learn import Learner

# Of plain SGD: momentum -> rates; the best of all is taken in hindsight, over all seeds.
RATES: dict[float, tuple[float, ...]] = {
    0.0: (0.03, 0.1, 0.2, 0.3, 0.5),
    0.9: (0.003, 0.01, 0.02, 0.03, 0.1),
}
NUM_CONTEXTS = 4  # of drift; each of the first segments has another

Learn = Callable[[Tensor, Tensor], object]
Predict = Callable[[Tensor], Tensor]


def measure_changing(name: str, seeds: Sequence[int], place: CellFolders) -> tuple[Figures, Rows]:
    """`..._prequential` of `nl.Learner(model)`, and `..._over_sgd`; of drift also `..._final`.

    A network 196-128-128-10 learns the suite's stream in batches of 10; each batch is answered
    before it is learned, the first one counts as wrong. Final is the mean accuracy at the end on
    the four contexts of drift. Plain SGD, with and without momentum .9, has the rate that turns
    out best over these seeds.

    Args:
        name: "conflict" or "drift".
        seeds: of streams and weights.
        place: where MNIST lies.

    Returns: accuracies in [0, 1], `over_sgd` in points of prequential accuracy; a row per seed
        and method.
    """
    rows: Rows = []
    for seed in seeds:
        suite = make_suite(name, seed, folder=place.data, offline=place.offline)
        setup = make_setup(suite, seed)
        batches = list(iterate_stream(suite.experiences, suite.batch_size))
        tests = [one.test for one in suite.experiences[:NUM_CONTEXTS]] if name == "drift" else []
        learner = Learner(setup.make_model(), seed=seed)
        sides: list[tuple[str, Learn, Predict]] = [
            ("nestling", learner.learn, learner.predict_proba)
        ]
        for momentum, rates in RATES.items():
            for rate in rates:
                label = f"sgd {rate:g}" + (f", momentum {momentum:g}" if momentum else "")
                sides.append((label, *make_sgd(setup.make_model(), rate, momentum)))
        for label, learn, predict in sides:
            row: dict[str, object] = {"suite": name, "seed": seed, "method": label}
            row["prequential"] = follow_stream(batches, learn, predict)
            if tests:
                row["final"] = statistics.mean(measure_accuracy(predict(x), y) for x, y in tests)
            rows.append(row)
    return build_changing_figures(name, rows), rows


def follow_stream(batches: Iterable[Pair], learn: Learn, predict: Predict) -> float:
    """Prequential accuracy: the share of examples that were right before they were learned.

    Args:
        batches: in order; who knows nothing is not asked about the first, which counts as wrong.
        learn: a batch (N, D), (N,).
        predict: (N, D) -> (N, K), higher is likelier.
    """
    num_right = num_seen = 0
    for x, y in batches:
        if num_seen:
            num_right += int((predict(x).argmax(dim=1) == y).sum())
        learn(x, y)
        num_seen += len(y)
    return num_right / num_seen


def build_changing_figures(name: str, rows: Rows) -> Figures:
    """The figures of `measure_changing` from its rows."""
    means = {str(row["method"]): _average(rows, str(row["method"]), "prequential") for row in rows}
    ours = means.pop("nestling")
    figures: Figures = {
        f"{name}_prequential": ours,
        f"{name}_over_sgd": 100.0 * (ours - max(means.values())),
    }
    if "final" in rows[0]:
        figures[f"{name}_final"] = _average(rows, "nestling", "final")
    return figures


def _average(rows: Rows, method: str, column: str) -> float:
    return statistics.mean(float(str(row[column])) for row in rows if row["method"] == method)


def make_sgd(model: nn.Module, rate: float, momentum: float) -> tuple[Learn, Predict]:
    """Plain SGD on a model: what learns a batch, and what answers one."""
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=momentum)

    def learn(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        run_backward(nn.functional.cross_entropy(model(x), y))
        optimizer.step()

    return learn, lambda x: score(model, x)
