"""How good are a ridge memory's probabilities? Prints the table of docs/memories.md.

    .venv/bin/python recipes/measure_calibration.py

300 ReLU features beside the inputs, one pass, float64. The best temperature in hindsight is
searched on the test set itself, so nobody can have it. MNIST is left out where it was not fetched.
"""

import math
from collections.abc import Iterator

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor

from nestling.core.errors import DataError
from nestling.data import load, load_digits
from nestling.memory import RandomFeatures, RidgeMemory

Case = tuple[str, Tensor, Tensor, Tensor, Tensor]


def list_cases() -> Iterator[Case]:
    """Name, training inputs and labels, test inputs and labels."""
    order = torch.Generator().manual_seed(0)
    digits, labels = load_digits()
    rows = torch.randperm(len(digits), generator=order)
    for size in (898, 200):
        test = rows[898:]
        yield (
            f"digits, {size}",
            digits[rows[:size]],
            labels[rows[:size]],
            digits[test],
            labels[test],
        )
    x, y = load_breast_cancer(return_X_y=True)
    cells, kinds = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    cells = (cells - cells.mean(dim=0)) / cells.std(dim=0)
    rows = torch.randperm(len(cells), generator=order)
    train, test = rows[:284], rows[284:]
    yield "breast cancer, 284", cells[train], kinds[train], cells[test], kinds[test]
    try:
        x, y, x_test, y_test = load("mnist", offline=True)
    except DataError as error:
        print(f"MNIST left out: {error}")
        return
    rows = torch.randperm(len(x), generator=order)
    for size in (1_000, 10_000):
        yield f"MNIST, {size:,}", x[rows[:size]], y[rows[:size]], x_test, y_test


def measure_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean log-loss in nats, after mixing in 1e-6 of equal shares."""
    shares = (1 - 1e-6) * logits.softmax(dim=1) + 1e-6 / logits.shape[1]
    return float(-shares[torch.arange(len(labels)), labels].log().mean())


def measure_calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error in points, 15 equal bins of the largest probability."""
    confidence, answer = probabilities.max(dim=1)
    right = (answer == labels).double()
    bins = (confidence * 15).long().clamp(max=14)
    gaps = [
        (bins == b).double().mean() * (right[bins == b].mean() - confidence[bins == b].mean()).abs()
        for b in bins.unique()
    ]
    return 100 * float(torch.stack(gaps).sum())


def main() -> None:
    """Print one row per case."""
    torch.set_num_threads(1)
    print("| data, examples | accuracy | log-loss | best in hindsight | calibration error |")
    print("|---|---|---|---|---|")
    for name, x, y, x_test, y_test in list_cases():
        features = RandomFeatures(x.shape[1], 300, passthrough=True)
        memory = RidgeMemory(x.shape[1], features=features)
        memory.add(x, y)
        probabilities = memory.predict(x_test)
        logits = probabilities.clamp_min(1e-300).log()
        scales = [math.exp(power / 20) for power in range(-60, 61)]
        best = min(measure_loss(logits * scale, y_test) for scale in scales)
        accuracy = 100 * float((probabilities.argmax(dim=1) == y_test).double().mean())
        print(
            f"| {name} | {accuracy:.1f} % | {measure_loss(logits, y_test):.3f} | {best:.3f} "
            f"| {measure_calibration_error(probabilities, y_test):.1f} points |"
        )


if __name__ == "__main__":
    main()
