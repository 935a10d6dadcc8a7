"""Suite `ridge`: what a ridge memory promises, on all of MNIST.

One pass of the default's features in integers: its accuracy; the same sums, bit for bit, in any
order and any cutting, after `remove` and after `merge`; the same answers; and its time against a
bare loop.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nestling.bench.timing import Figures, Rows, median_ratio, time_rounds
from nestling.core.machine import use_threads
from nestling.core.seeds import make_generator
from nestling.memory import RidgeMemory
from nestling.memory.coded.coded_features import SIZES, CodedFeatures
from nestling.memory.coded.image_shape import ImageShape
from nestling.memory.coded.input_codes import InputScale
from nestling.memory.features import Features

NUM_PIXELS, NUM_CLASSES = 784, 10
BLOCK = 1000
NUM_ORDERS = 10
# Rows of a batch; orders take them by turns. The small ones would take minutes on all images.
BATCH_SIZES, SMALL_BATCH_SIZES = (32, 64, 128, 256, 512), (1, 7)
NUM_SMALL = 6000
NUM_SHARDS = 4
NUM_REMOVED = 1000
NUM_ROUNDS = 5

Pairs = tuple[Tensor, Tensor]
MakeFeatures = Callable[[], Features]


def run(data_folder: Path | None, offline: bool, num_threads: int = 2) -> dict[str, Any]:
    """Measure everything; some minutes on two cores.

    `order_...` compare ten random orders, each in batches of another size (32 to 512) and with 1
    or 2 threads, one sorted by class, and batches of 1 and 7 of the first 6,000 images, with one
    pass in file order; `remove_...` a memory from which 1,000 images were removed, in cuts of all
    sizes, with one that has never seen them; `merge_...` four shards, merged in two orders, with
    one that has seen all. `..._max_diff` is the largest difference between sums, 0 if they are
    equal bit for bit, `..._answer_diff` that between probabilities of the test images.

    Timed is a whole pass over the 60,000 images in blocks of 1,000, the final solution (strength,
    calibration) included, against a bare loop over the same blocks of the three products that
    define the statistics (features, features by features, features by targets) in float64 without
    any solution; in turns, median of five rounds.

    Args:
        data_folder: where MNIST lies or is put; None for the usual folder.
        offline: do not fetch.
        num_threads: of torch where nothing else is said.

    Returns: {"figures": {name: number}, "rows": [...]}.
    """
    from nestling.data import load

    with use_threads(num_threads):
        x, y, x_test, y_test = load("mnist", folder=data_folder, offline=offline)
        return measure((x, y), (x_test, y_test))


def make_features() -> Features:
    """Oriented gradients of the images under random ReLU, and random ReLU of their pixels."""
    num_image_features, num_raw_features = SIZES["default"]
    return CodedFeatures(
        NUM_PIXELS,
        InputScale("unit", factor=255.0),
        image=ImageShape(1, 28, 28),
        num_image_features=num_image_features,
        num_raw_features=num_raw_features,
    )


def measure(
    train: Pairs,
    test: Pairs,
    features: MakeFeatures = make_features,
    num_rounds: int = NUM_ROUNDS,
) -> dict[str, Any]:
    """As `run`, on given images (N, 784) and labels (N,), with given features of them."""
    rows: Rows = []
    answer, differences = _compare_all(train, test, features, rows)
    seconds = time_rounds(
        {
            "memory": lambda: time_memory(train, features),
            "products": lambda: time_products(train, features().num_outputs),
        },
        num_rounds,
    )
    rows += [
        {"round": i, "memory_seconds": ours, "product_seconds": bare}
        for i, (ours, bare) in enumerate(zip(seconds["memory"], seconds["products"], strict=True))
    ]
    figures: Figures = {
        "mnist_accuracy": 100.0 * float((answer.argmax(dim=1) == test[1]).double().mean()),
        **differences,
        "time_over_matmul": median_ratio(seconds, "memory", "products"),
    }
    return {"figures": figures, "rows": rows}


def _compare_all(
    train: Pairs, test: Pairs, features: MakeFeatures, rows: Rows
) -> tuple[Tensor, Figures]:
    """The answers of a plain pass, and how far every other way to learn the same is from it."""
    x, y = train
    N = len(x)
    figures: Figures = {}

    def compare(kind: str, name: str, memory: RidgeMemory, wanted: RidgeMemory) -> None:
        found, answer = memory.predict(test[0]), wanted.predict(test[0])
        row = _describe(name, found, answer, test[1])
        row["sum_diff"] = compare_sums(memory.read_sums(), wanted.read_sums())
        rows.append(row)
        for figure, value in (("max", row["sum_diff"]), ("answer", row["answer_diff"])):
            key = f"{kind}_{figure}_diff"
            figures[key] = max(figures.get(key, 0.0), float(str(value)))

    first = learn(train, features, torch.arange(N, device="cpu"))
    plain = first.predict(test[0])
    rows.append(_describe("file order", plain, plain, test[1]))
    for i, order in enumerate(make_orders(N)):
        size, num_threads = BATCH_SIZES[i % len(BATCH_SIZES)], 1 + i % 2
        name = f"random order {i}, batches of {size}, threads: {num_threads}"
        with use_threads(num_threads):
            shuffled = learn(train, features, order, size)
        compare("order", name, shuffled, first)
    by_class = learn(train, features, y.argsort(stable=True))
    compare("order", "sorted by class", by_class, first)
    few = torch.arange(min(N, NUM_SMALL), device="cpu")
    small = learn(train, features, few)
    for size in SMALL_BATCH_SIZES:
        compare("order", f"batches of {size}", learn(train, features, few, size), small)

    shards = [
        learn(
            train,
            features,
            torch.arange(i, N, NUM_SHARDS, device="cpu"),
            BATCH_SIZES[i % len(BATCH_SIZES)],
        )
        for i in range(NUM_SHARDS)
    ]
    for name, listed in (("", shards), (", last first", shards[::-1])):
        merged = listed[0].copy()
        for shard in listed[1:]:
            merged.merge(shard)
        compare("merge", f"{NUM_SHARDS} shards merged{name}", merged, first)

    remove(first, train, N // 2, NUM_REMOVED)
    taken = range(N // 2, N // 2 + NUM_REMOVED)
    kept = torch.tensor([i for i in range(N) if i not in taken], device="cpu", dtype=torch.int64)
    compare("remove", f"{NUM_REMOVED} removed", first, learn(train, features, kept))
    return plain, figures


def compare_sums(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Largest difference between sums of one name; 0 only if all are equal.

    Returns: infinity where names, shapes or dtypes differ, or a sum is not finite.

    >>> one = {"gram": torch.tensor([3, 4]), "count": torch.tensor(2)}
    >>> compare_sums(one, dict(one)), compare_sums({**one, "count": torch.tensor(5)}, one)
    (0.0, 3.0)
    """
    if found.keys() != wanted.keys():
        return math.inf
    largest = 0.0
    for name, ours in found.items():
        theirs = wanted[name]
        if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
            return math.inf
        if not torch.equal(ours, theirs):
            difference = float((ours - theirs).abs().max())
            largest = max(largest, difference if math.isfinite(difference) else math.inf)
    return largest


def make_memory(features: MakeFeatures) -> RidgeMemory:
    """An empty memory."""
    return RidgeMemory(NUM_PIXELS, num_outputs=NUM_CLASSES, features=features())


def learn(
    train: Pairs, features: MakeFeatures, order: Tensor, batch_size: int = BLOCK
) -> RidgeMemory:
    """A memory that has seen the examples once, in that order, batch by batch."""
    memory = make_memory(features)
    for rows in order.split(batch_size):
        memory.add(train[0][rows], train[1][rows])
    return memory


def remove(memory: RidgeMemory, train: Pairs, start: int, count: int) -> None:
    """Take away a run of examples that were learned in file order, in cuts of every size."""
    end = start + count
    for size in (*SMALL_BATCH_SIZES, *BATCH_SIZES, count):
        rows = slice(start, min(start + size, end))
        memory.remove(train[0][rows], train[1][rows], clock=start)
        start = rows.stop


def make_orders(num_examples: int) -> Iterator[Tensor]:
    """Ten random orders."""
    for i in range(NUM_ORDERS):
        yield torch.randperm(num_examples, generator=make_generator(i, "ridge suite"), device="cpu")


def time_memory(train: Pairs, features: MakeFeatures) -> float:
    """Seconds of one pass and the solution."""
    memory = make_memory(features)
    start = time.perf_counter()
    for x, y in zip(train[0].split(BLOCK), train[1].split(BLOCK), strict=True):
        memory.add(x, y)
    memory.predict(train[0][:1])
    return time.perf_counter() - start


def time_products(train: Pairs, num_features: int) -> float:
    """Seconds of the bare products of one pass, in float64."""
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
        "answer_diff": float((found - wanted).abs().max()),
    }
