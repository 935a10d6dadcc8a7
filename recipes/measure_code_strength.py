"""Which ridge strength suits classes on features in codes: a rule, or cross-validation?

    python recipes/measure_code_strength.py [NAME ...]

Prints, per data set and number of examples, accuracy in % of an exact memory on the default's
features at c min(1, (D / n)^2) for several c, and at the strength that generalised cross-validation
chooses. Names: mnist, fashion-mnist, and suites of the benchmark whose inputs are pixels.
"""

import sys
from collections.abc import Iterator

import torch
from torch import Tensor

import nestling as nl
from nestling.bench.suites.parallel_cells import open_suite
from nestling.memory.coded.coded_features import choose_coded_features
from nestling.memory.exact.integer_sums import IntegerSums
from nestling.memory.exact.solve import solve_ridge
from nestling.memory.exact.statistics import Statistics

FACTORS = (1.0, 0.25, 0.1, 0.04, 0.015)
NAMES = ("mnist", "fashion-mnist", "split-mnist", "split-fashion")
NAMES += ("permuted-mnist", "rotated-mnist", "split-cifar10")
COUNTS = (300, 1500, 7000, 60_000)


def read(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Examples to learn, in a fixed random order, and to test."""
    if name in ("mnist", "fashion-mnist"):
        x, y, x_test, y_test = nl.data.load(name)
    else:
        made = open_suite(name, 0, "test", None, False).experiences
        x, y = (torch.cat([one.train[part] for one in made]) for part in (0, 1))
        x_test, y_test = (torch.cat([one.test[part] for one in made]) for part in (0, 1))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], y[order], x_test, y_test


def score(stats: Statistics, strength: float | None, phi: Tensor, y: Tensor, *, coded: bool) -> str:
    """Accuracy in %, of features that share a scale (coded) or have their own."""
    solution = solve_ridge(stats, strength, coded=coded)
    found = torch.addmm(solution.intercept, phi, solution.weights).argmax(1)
    return f"{100 * float((found == y).double().mean()):.2f}"


def measure(name: str) -> Iterator[str]:
    """A line for each number of examples."""
    x, y, x_test, y_test = read(name)
    shape = (1, 14, 14) if x.shape[1:] == (196,) else None
    features = choose_coded_features(x[:256], shape=shape)
    phi = torch.cat([features(rows) for rows in x_test.split(256)]).double()
    codes = torch.cat([features(rows) for rows in x.split(256)])
    D, K = codes.shape[1], int(y.max()) + 1
    for count in sorted({min(count, len(x)) for count in COUNTS}):
        sums = IntegerSums(D, K)
        sums.add(codes[:count], y[:count], torch.ones(count, dtype=torch.int64))
        stats = sums.values
        scores = [
            f"{c:g}: {score(stats, c * min(1.0, (D / count) ** 2), phi, y_test, coded=True)}"
            for c in FACTORS
        ]
        chosen = score(stats, None, phi, y_test, coded=False)
        yield f"{name}, {count}: {', '.join(scores)}; cross-validation: {chosen}"


def main() -> None:
    """Print everything."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or NAMES:
        for line in measure(name):
            print(line, flush=True)


if __name__ == "__main__":
    main()
