"""Accuracy of a plain network that was taught asleep, beside the memory that taught it.

`python -m nestling.bench.promises.sleep_accuracy` prints it; about two minutes on one core.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import Figures, Rows
from nestling.consolidate import dream
from nestling.core.machine import use_threads
from nestling.core.seeds import make_generator
from nestling.data import Experience, class_incremental
from nestling.data.archives import Split, load
from nestling.judge.scores import measure_accuracy
from nestling.learn import Learner
from nestling.learn.default import make_default_plan
from nestling.levels import Level, Memory, Plan, Sleep
from nestling.models import mlp

# Data set -> the name of its figure.
FIGURES = {"mnist": "sleep_mnist", "fashion-mnist": "sleep_fashion"}
NUM_EXPERIENCES, BATCH_SIZE = 5, 32
SIZES = (784, 400, 400, 10)
FRESH = Sleep("sleep", of="memory", start="fresh")


def measure_sleeping(place: CellFolders) -> tuple[Figures, Rows]:
    """As `measure_sleep`, with data where a benchmark keeps it."""
    found = measure_sleep(place.data, place.offline)
    return found["figures"], found["rows"]


def measure_sleep(
    data_folder: Path | None = None,
    offline: bool = False,
    *,
    memory: Memory | None = None,
    seeds: Sequence[int] = (0,),
) -> dict[str, Any]:
    """Accuracy in per cent of a network taught asleep, on all of Split-MNIST and Split-Fashion.

    One pass over 60,000 images in five experiences of two classes, batch 32, no boundary told,
    nothing stored: the default's memory learns, and beside it a network 784-400-400-10 by AdamW at
    every step, which is plain fine-tuning. Then `consolidate(change="sleep")` teaches a network of
    new weights what the memory knows. One thread.

    Args:
        data_folder: where the archives lie or go; None for the usual folder.
        offline: do not fetch.
        memory: that teaches; None for the default's.
        seeds: of class orders, weights and dreams.

    Returns: {"figures": {"sleep_mnist": ..., "sleep_fashion": ...}, "rows": one for each data set
        and seed, with the accuracies of the memory, of fine-tuning and of one pass in mixed order,
        and seconds}.

    Raises:
        DataError: data that cannot be had.
    """
    figures: Figures = {}
    rows: Rows = []
    with use_threads(1):
        for name, figure in FIGURES.items():
            parts = load(name, data_folder, offline=offline)
            found = [measure_parts(name, parts, seed, memory=memory) for seed in seeds]
            figures[figure] = statistics.mean(float(str(row["asleep"])) for row in found)
            rows += found
    return {"figures": figures, "rows": rows}


def measure_parts(
    name: str,
    parts: Split,
    seed: int,
    *,
    memory: Memory | None = None,
    sleep: Sleep = FRESH,
) -> dict[str, object]:
    """One row: what memory, fine-tuning and sleep reach on images in [0, 1] with ten classes.

    Args:
        name: of the data, for the row.
        parts: training images (N, D) and labels (N,), test images and labels.
        seed: of the class order, weights and dreams.
        memory: that teaches; None for the default's.
        sleep: what the plan says of it; the seed is its seed, too.
    """
    learner = make_sleeper(parts[0].shape[1], seed, memory, sleep)
    started = time.perf_counter()
    for experience in split_classes(parts, seed):
        for x, y in zip(*(part.split(BATCH_SIZE) for part in experience.train), strict=True):
            learner.learn(x, y)
    learned = time.perf_counter()
    x_test, y_test = parts[2], parts[3]
    taught_by = learner.plan.memories[0].name
    row: dict[str, object] = {
        "data": name,
        "seed": seed,
        "memory": 100.0 * learner.evaluate(x_test, y_test),
        "fine-tuned": 100.0 * score(learner.model, x_test, y_test),
    }
    row["mixed"] = 100.0 * score(train_mixed(parts, seed), x_test, y_test)
    begun = time.perf_counter()
    proposal = learner.consolidate(change="sleep")
    slept = time.perf_counter()
    level = learner.levels.sleeps["sleep"]
    dreams = dream(level, learner.levels.memories[taught_by], num_inputs=1_000, salt="look")
    agreed = measure_accuracy(dreams.answers, dreams.classes)
    return row | {
        "asleep": 100.0 * score(learner.model, x_test, y_test),
        "status": proposal.status,
        "dreams of their class": 100.0 * agreed,
        "seconds learning": learned - started,
        "of these, class sums": level.seconds,
        "seconds asleep": slept - begun,
        "bytes of class sums": sum(t.nbytes for t in level.tensors().values()),
    }


def make_network(num_inputs: int, seed: int) -> nn.Module:
    """D-400-400-10; the seed draws the weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return mlp([num_inputs, *SIZES[1:]])


def train_mixed(parts: Split, seed: int) -> nn.Module:
    """The same network trained on the true examples in mixed order: one pass, AdamW at 1e-3."""
    x, y = parts[0], parts[1]
    model = make_network(x.shape[1], seed)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    order = torch.randperm(len(x), generator=make_generator(seed, "mixed"), device="cpu")
    for rows in order.split(BATCH_SIZE):
        optimizer.zero_grad()
        functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model


def make_sleeper(num_inputs: int, seed: int, memory: Memory | None, sleep: Sleep) -> Learner:
    """The default's memory, a fine-tuned network beside it, and sleep."""
    model = make_network(num_inputs, seed)
    if memory is None:
        (memory,) = make_default_plan(model, pretrained=False, replay=0).memories
    asleep = replace(sleep, of=memory.name, seed=seed)
    plan = Plan(memory, Level("network", match=["*"]), asleep, readout=memory.name)
    return Learner(model, plan, num_classes=SIZES[-1], seed=seed)


def split_classes(parts: Split, seed: int) -> list[Experience]:
    """Two classes after two others, in an order that the seed draws."""
    return class_incremental(*parts, num_experiences=NUM_EXPERIENCES, seed=seed)


def score(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy of a plain model, in [0, 1]."""
    model.eval()
    with torch.no_grad():
        return measure_accuracy(model(x), y)


if __name__ == "__main__":
    import json
    import sys

    sys.stdout.write(json.dumps(measure_sleep(), indent=1) + "\n")
