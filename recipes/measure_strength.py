"""What share of the strength of cross-validation finds the right class most often?

    python recipes/measure_strength.py

Prints, per data set and number of examples, accuracy in % (and log-loss) of a ridge memory on 800
random features at shares of the strength that generalised cross-validation chooses. Fetches
MNIST and Fashion-MNIST if they are not there; clinc150, banking77 and split-cifar10 too, with
the encoders of the benchmark (the first time takes minutes).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

import nestling as nl
from nestling.bench.suites.parallel_cells import open_suite
from nestling.memory import RandomFeatures, RidgeMemory
from nestling.memory.exact.solve import share_strength

SHARES = (1.0, 0.25, 0.1, 0.05, 0.025, 0.01)
Case = tuple[tuple[str, Tensor, Tensor], Tensor, Tensor]


def list_cases() -> Iterator[Case]:
    """Name, examples to learn, examples to test."""
    for name in ("digits", "fashion-mnist", "mnist"):
        x, y, x_test, y_test = nl.data.load(name)
        for count in (100, 500, 2000, 7000):
            if count <= len(x):
                yield cut(name, x.flatten(1), y, count), x_test.flatten(1)[:3000], y_test[:3000]
    for name in ("clinc150", "banking77", "split-cifar10"):
        made = open_suite(name, 0, "test", None, False).experiences
        x, y = (torch.cat([one.train[part] for one in made]) for part in (0, 1))
        x_test, y_test = (torch.cat([one.test[part] for one in made]) for part in (0, 1))
        for count in (1000, len(x)):
            yield cut(name, x, y, count), x_test, y_test


def cut(name: str, x: Tensor, y: Tensor, count: int) -> tuple[str, Tensor, Tensor]:
    """So many examples, drawn at random but always the same."""
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[:count]
    return f"{name}, {count}", x[rows], y[rows]


def measure(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, share: float) -> str:
    """Accuracy in % and log-loss at one share."""
    width = x.shape[1]
    # As the default plan does: encoded inputs themselves, too.
    features = RandomFeatures(width, 800, passthrough=width in (384, 1280))
    memory = RidgeMemory(width, features=features, num_outputs=int(y.max()) + 1)
    memory.add(x, y)
    memory.ridge = share * memory.solution.strength / share_strength(len(y.unique()))
    p = memory.predict(x_test)
    right = (p.argmax(1) == y_test).double().mean().item()
    loss = -p[torch.arange(len(p)), y_test].clamp_min(1e-12).log().mean().item()
    return f"{100 * right:.2f} ({loss:.3f})"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| data, examples | " + " | ".join(map(str, SHARES)) + " |")
    print("|---" * (len(SHARES) + 1) + "|")
    for (name, x, y), x_test, y_test in list_cases():
        found = [measure(x, y, x_test, y_test, share) for share in SHARES]
        print(f"| {name} | " + " | ".join(found) + " |", flush=True)


if __name__ == "__main__":
    main()
