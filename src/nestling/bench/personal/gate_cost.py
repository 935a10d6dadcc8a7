"""What scoring every example adds to the cost of learning, over plain fine-tuning."""

import gc
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from nestling.bench.promises.default_costs import (
    Step,
    flush_denormals,
    iterate_batches,
    make_bare_loop,
    make_network,
    read_shuffled,
)
from nestling.bench.rivals.competitors import Pair
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.timing import Figures, Rows
from nestling.learn import Learner
from nestling.learn.default import make_default_plan
from nestling.levels import Mix, Plan

BATCH_SIZES = (10, 128)


@dataclass(frozen=True)
class GateAmounts:
    """How much is learned while it is timed.

    Args:
        warm: examples learned before.
        batches: per round, on each side.
        turn: batches after which the next side has its turn; divides `batches`.
        rounds: that count.
    """

    warm: int
    batches: int
    turn: int
    rounds: int


AMOUNTS = {10: GateAmounts(4_000, 300, 25, 9), 128: GateAmounts(4_000, 75, 5, 9)}


def measure_gate(
    place: CellFolders, *, amounts: Mapping[int, GateAmounts] | None = None
) -> tuple[Figures, Rows]:
    """`gate_over_finetune`: CPU seconds that the gate adds to `learn`, over those of a bare loop.

    Three sides with a 784-400-400-10 ReLU network of the same first weights learn the same
    batches of MNIST by turns: the default plan; the same plan whose read-out mixes by fixed
    weights, so that no gate is kept and nothing scored; and zero_grad, cross entropy, backward
    and step of `AdamW(fused=True)`. The figure is the median over rounds of (default - fixed) /
    bare, at batches of 10 and of 128; without a suffix, the larger. `learn_over_finetune_b...`
    is default / bare of the same rounds. Denormal numbers count as zero for all.

    Args:
        place: where MNIST lies.
        amounts: batch size -> how much is learned; None for AMOUNTS.
    """
    figures: Figures = {}
    rows: Rows = []
    pair = read_shuffled(place)
    for batch_size, amount in (amounts or AMOUNTS).items():
        with flush_denormals():
            found = _time_rounds(iterate_batches(pair, batch_size), amount)
        for name in ("gate_over_finetune", "learn_over_finetune"):
            figures[f"{name}_b{batch_size}"] = statistics.median(
                float(str(row[name])) for row in found
            )
        rows += [{"batch": batch_size, **row} for row in found]
    figures["gate_over_finetune"] = max(
        value for name, value in figures.items() if name.startswith("gate_over_finetune_b")
    )
    return figures, rows


def fix_weights(plan: Plan) -> Plan:
    """The same plan whose read-out mixes the same experts by equal weights, without a gate.

    Who is asked outside a memory's experience is an expert like the others then.

    Args:
        plan: whose read-out is a mixture.
    """
    assert isinstance(plan.readout, Mix)
    fixed = replace(plan.readout, weights=(1.0,) * len(plan.readout.mix), outside=None)
    return Plan(*plan.levels, readout=fixed)


def time_in_turns(sides: Mapping[str, Step], turns: Sequence[Sequence[Pair]]) -> dict[str, float]:
    """CPU seconds of the process while each side learns the same batches, by turns.

    Args:
        sides: name -> what learns a batch.
        turns: batches of each turn; the order of the sides is turned round with every turn.
    """
    names, seconds = list(sides), dict.fromkeys(sides, 0.0)
    gc.collect()
    gc.disable()
    try:
        for number, batches in enumerate(turns):
            for name in names if number % 2 else reversed(names):
                step, started = sides[name], time.process_time()
                for x, y in batches:
                    step(x, y)
                seconds[name] += time.process_time() - started
    finally:
        gc.enable()
    return seconds


def _time_rounds(batches: Iterator[Pair], amounts: GateAmounts) -> Rows:
    model = make_network()
    fixed_plan = fix_weights(make_default_plan(model, pretrained=False, replay=0))
    sides: dict[str, Step] = {
        "default": _learn_by(Learner(model)),
        "fixed": _learn_by(Learner(make_network(), fixed_plan)),
        "bare": make_bare_loop(make_network()),
    }
    num_seen = 0
    while num_seen < amounts.warm:
        x, y = next(batches)
        for step in sides.values():
            step(x, y)
        num_seen += len(x)
    num_turns = amounts.batches // amounts.turn
    rows: Rows = []
    for number in range(amounts.rounds + 1):  # the first round does not count
        turns = [[next(batches) for _ in range(amounts.turn)] for _ in range(num_turns)]
        seconds = time_in_turns(sides, turns)
        if number:
            row: dict[str, object] = {"round": number}
            for name, taken in seconds.items():
                row[f"{name}_milliseconds"] = 1e3 * taken / amounts.batches
            row["gate_over_finetune"] = (seconds["default"] - seconds["fixed"]) / seconds["bare"]
            row["learn_over_finetune"] = seconds["default"] / seconds["bare"]
            rows.append(row)
    return rows


def _learn_by(learner: Learner) -> Step:
    def learn(x: Tensor, y: Tensor) -> None:
        learner.learn(x, y)

    return learn
