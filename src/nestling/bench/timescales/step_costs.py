"""What a training step of every method costs: counted operations, and seconds in one process."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nestling.bench.rivals.competitors import Competitor
from nestling.bench.rivals.tunable import Setup
from nestling.bench.suites.cell_files import identify_code
from nestling.bench.suites.parallel_cells import Progress
from nestling.bench.timescales.compute_count import count_step, draw_batches
from nestling.bench.timescales.mechanisms import PLAIN
from nestling.bench.timescales.nested_loop import NestedLoop
from nestling.bench.timescales.timescale_cells import build_at_middle
from nestling.bench.timing import Side, median_ratio, time_rounds
from nestling.core.errors import JobError
from nestling.core.machine import fingerprint, use_threads
from nestling.store import write_whole

NUM_ROUNDS = 5


@dataclass(frozen=True)
class StepCost:
    """Of one method, over a step of plain SGD.

    Attributes:
        compute: counted operations.
        seconds: of CPU, median of NUM_ROUNDS ratios, both in turns in one process.
    """

    compute: float
    seconds: float


def measure_costs(
    methods: Sequence[str], setup: Setup, folder: Path, *, progress: Progress | None = None
) -> dict[str, StepCost]:
    """The cost of a training step of each method; kept in costs.json for this code and machine.

    Args:
        methods: names, see `timescale_cells`; those with more steps per batch need not be named.
        setup: the network and batch, and the seed of the noise that is learned.
        folder: of the run.
        progress: told the method and the share that is done.

    Raises:
        JobError: costs.json is damaged.
    """
    path = folder / "costs.json"
    key = {
        "code": identify_code(),
        "machine": {name: one for name, one in fingerprint().items() if name != "num_threads"},
        "network": [setup.num_inputs, *setup.widths, setup.num_classes, setup.batch_size],
    }
    found = _read(path, key)
    with use_threads(1):
        base = count_step(build_at_middle(PLAIN, setup), setup)
        for number, name in enumerate(methods):
            if progress is not None:
                progress(f"cost of {name}", number / len(methods))
            if name not in found:
                operations = count_step(build_at_middle(name, setup), setup)
                found[name] = StepCost(operations / base, _time_one(name, setup))
                data = {**key, "methods": {one: asdict(cost) for one, cost in found.items()}}
                write_whole(path, json.dumps(data, indent=1) + "\n")
    return {name: found[name] for name in methods}


def check_plain(setup: Setup) -> bool:
    """Whether a plan of one level moves the network as torch's SGD does, to the last bit."""
    loop = build_at_middle(PLAIN, setup)
    assert isinstance(loop, NestedLoop)
    lr = loop.optimizer.param_groups[0]["lr"]
    bare = setup.make_model()
    optimizer = torch.optim.SGD(bare.parameters(), lr)
    with use_threads(1):
        for x, y in draw_batches(setup):
            loop.learn(x, y, is_new=True)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(bare(x), y).backward()
            optimizer.step()
    pairs = zip(loop.model.parameters(), bare.parameters(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def _time_one(name: str, setup: Setup) -> float:
    sides = {
        "ours": _make_side(build_at_middle(name, setup), setup),
        "plain": _make_side(build_at_middle(PLAIN, setup), setup),
    }
    return median_ratio(time_rounds(sides, NUM_ROUNDS), "ours", "plain")


def _make_side(competitor: Competitor, setup: Setup) -> Side:
    batches = draw_batches(setup)

    def side() -> float:
        started = time.process_time()
        for x, y in batches:
            competitor.learn(x, y, is_new=True)
        return time.process_time() - started

    return side


def _read(path: Path, key: dict[str, Any]) -> dict[str, StepCost]:
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if any(data[name] != value for name, value in key.items()):
            return {}
        return {name: StepCost(**one) for name, one in data["methods"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobError(
            f"'{path}' is damaged ({type(error).__name__}); delete it to measure it again"
        ) from None
