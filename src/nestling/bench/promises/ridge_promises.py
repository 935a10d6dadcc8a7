"""Suite `ridge`: what a ridge memory promises, on all of MNIST.

One pass of 2,000 random features: its accuracy, the same answers in any order, `remove` and
`merge` against never having seen and having seen it all, and its time against a bare loop.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nestling.bench.timing import Figures, Rows, median_ratio, time_rounds
from nestling.core.seeds import make_generator
from nestling.memory import RandomFeatures, RidgeMemory

NUM_PIXELS, NUM_CLASSES = 784, 10
NUM_FEATURES = 2000
BLOCK = 1000
NUM_ORDERS = 10
NUM_SHARDS = 4
NUM_REMOVED = 1000
NUM_ROUNDS = 5

Pairs = tuple[Tensor, Tensor]


def run(data_folder: Path | None, offline: bool, num_threads: int = 2) -> dict[str, Any]:
    """Measure everything; about six minutes on two cores.

    Timed is a whole pass over the 60,000 images in blocks of 1,000, the final solution (strength,
    calibration) included, against a bare loop over the same blocks of the three products that
    define the statistics (features, features by features, features by targets) without any
    solution; in turns, median of five rounds.

    Args:
        data_folder: where MNIST lies or is put; None for the usual folder.
        offline: do not fetch.
        num_threads: of torch.

    Returns: {"figures": {name: number}, "rows": [...]}.
    """
    from nestling.data import load

    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        x, y, x_test, y_test = load("mnist", folder=data_folder, offline=offline)
        train = (x.reshape(len(x), -1).float(), y.long())
        return measure(train, (x_test.reshape(len(x_test), -1).float(), y_test.long()))
    finally:
        torch.set_num_threads(before)


def measure(
    train: Pairs, test: Pairs, num_features: int = NUM_FEATURES, num_rounds: int = NUM_ROUNDS
) -> dict[str, Any]:
    """As `run`, on given images (N, 784) and labels (N,), with so many features."""
    x, y = train
    N = len(x)
    first = learn(train, num_features, torch.arange(N, device="cpu"))
    answer = first.predict(test[0])
    accuracy = 100.0 * float((answer.argmax(dim=1) == test[1]).double().mean())
    rows: Rows = [_describe("file order", answer, answer, test[1])]

    def compare(name: str, memory: RidgeMemory, wanted: Tensor) -> float:
        found = memory.predict(test[0])
        rows.append(_describe(name, found, wanted, test[1]))
        return float((found - wanted).abs().max())

    order_diffs = [
        compare(f"random order {i}", learn(train, num_features, order), answer)
        for i, order in enumerate(make_orders(N))
    ]
    order_diffs.append(
        compare("sorted by class", learn(train, num_features, y.argsort(stable=True)), answer)
    )
    kept = torch.cat(
        (torch.arange(N // 2, device="cpu"), torch.arange(N // 2 + NUM_REMOVED, N, device="cpu"))
    )
    taken = slice(N // 2, N // 2 + NUM_REMOVED)
    first.remove(x[taken], y[taken], clock=N // 2)
    never_seen = learn(train, num_features, kept).predict(test[0])
    remove_diff = compare(f"{NUM_REMOVED} removed", first, never_seen)
    shards = [
        learn(train, num_features, torch.arange(i, N, NUM_SHARDS, device="cpu"))
        for i in range(NUM_SHARDS)
    ]
    for shard in shards[1:]:
        shards[0].merge(shard)
    merge_diff = compare(f"{NUM_SHARDS} shards merged", shards[0], answer)
    seconds = time_rounds(
        {
            "memory": lambda: time_memory(train, num_features),
            "products": lambda: time_products(train, num_features),
        },
        num_rounds,
    )
    rows += [
        {"round": i, "memory_seconds": ours, "product_seconds": bare}
        for i, (ours, bare) in enumerate(zip(seconds["memory"], seconds["products"], strict=True))
    ]
    figures: Figures = {
        "mnist_accuracy": accuracy,
        "order_max_diff": max(order_diffs),
        "remove_max_diff": remove_diff,
        "merge_max_diff": merge_diff,
        "time_over_matmul": median_ratio(seconds, "memory", "products"),
    }
    return {"figures": figures, "rows": rows}


def make_memory(num_features: int) -> RidgeMemory:
    """An empty memory of ReLU features of the pixels."""
    features = RandomFeatures(NUM_PIXELS, num_features, seed=0)
    return RidgeMemory(NUM_PIXELS, num_outputs=NUM_CLASSES, features=features)


def learn(train: Pairs, num_features: int, order: Tensor) -> RidgeMemory:
    """A memory that has seen the examples once, in that order."""
    memory = make_memory(num_features)
    for rows in order.split(BLOCK):
        memory.add(train[0][rows], train[1][rows])
    return memory


def make_orders(num_examples: int) -> Iterator[Tensor]:
    """Ten random orders."""
    for i in range(NUM_ORDERS):
        yield torch.randperm(num_examples, generator=make_generator(i, "ridge suite"), device="cpu")


def time_memory(train: Pairs, num_features: int) -> float:
    """Seconds of one pass and the solution."""
    memory = make_memory(num_features)
    start = time.perf_counter()
    for x, y in zip(train[0].split(BLOCK), train[1].split(BLOCK), strict=True):
        memory.add(x, y)
    memory.predict(train[0][:1])
    return time.perf_counter() - start


def time_products(train: Pairs, num_features: int) -> float:
    """Seconds of the bare products of one pass, float64 as the memory's."""
    generator = make_generator(0, "ridge suite", "bare")
    weights_PD = torch.randn(
        NUM_PIXELS, num_features, generator=generator, dtype=torch.float64, device="cpu"
    )
    gram_DD = torch.zeros(num_features, num_features, dtype=torch.float64, device="cpu")
    cross_DK = torch.zeros(num_features, NUM_CLASSES, dtype=torch.float64, device="cpu")
    start = time.perf_counter()
    for x, y in zip(train[0].split(BLOCK), train[1].split(BLOCK), strict=True):
        phi_ND = (x.double() @ weights_PD).relu_()
        gram_DD += phi_ND.T @ phi_ND
        cross_DK += phi_ND.T @ torch.nn.functional.one_hot(y, NUM_CLASSES).double()
    return time.perf_counter() - start


def _describe(name: str, found: Tensor, wanted: Tensor, labels: Tensor) -> dict[str, object]:
    own = found[torch.arange(len(labels), device="cpu"), labels]
    return {
        "pass": name,
        "accuracy": 100.0 * float((found.argmax(dim=1) == labels).double().mean()),
        "log_loss": float(-own.log().mean()),
        "max_diff": float((found - wanted).abs().max()),
    }
