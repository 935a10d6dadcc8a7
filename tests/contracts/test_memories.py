"""What every memory promises, whatever it remembers; one row each in MEMORIES."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor

from nestling.core.errors import DataError
from nestling.memory import (
    BalancedReplay,
    ClassPrior,
    MemoryBank,
    RandomFeatures,
    ReservoirReplay,
    RidgeMemory,
)
from nestling.memory.coded.coded_features import CodedFeatures
from nestling.memory.coded.input_codes import InputScale
from nestling.store.state_trees import decode_tree, encode_tree

Memory = Any
NUM = 300


def read_digits() -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x[:NUM]).float(), torch.tensor(y[:NUM])


def read_few_digits() -> tuple[Tensor, Tensor]:
    """For what takes as long for an example as others for a block."""
    x, y = read_digits()
    return x[:24], y[:24]


def read_diabetes() -> tuple[Tensor, Tensor]:
    x, y = load_diabetes(return_X_y=True)
    return torch.tensor(x[:NUM]).float(), torch.tensor(y[:NUM]).float()


@dataclass(frozen=True)
class Row:
    """One memory: how to make it, feed it and ask it.

    Args:
        make: a new empty memory.
        read: its data.
        add: (memory, x, y) learns a block.
        ask: everything that it answers, drawn numbers included.
        tolerance: how far blocks may be from one by one; 0 for bitwise.
        bad: (x, y) that must be refused.
    """

    make: Callable[[], Memory]
    read: Callable[[], tuple[Tensor, Tensor]]
    add: Callable[[Memory, Tensor, Tensor], object]
    ask: Callable[[Memory, Tensor], Tensor]
    tolerance: float
    bad: Callable[[Tensor, Tensor], list[tuple[Tensor, Tensor]]]


def add_pair(memory: Memory, x: Tensor, y: Tensor) -> object:
    return memory.add(x, y)


def predict(memory: Memory, x: Tensor) -> Tensor:
    answer: Tensor = memory.predict(x)
    return answer


def ask_novelty(memory: Memory, x: Tensor) -> Tensor:
    novelty: Tensor = memory.novelty(x)
    return novelty


def spoil_pair(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    with_nan, with_inf = x.clone(), x.clone()
    with_nan[3, 5], with_inf[-1, 0] = math.nan, math.inf
    return [(with_nan, y), (with_inf, y), (x[:, 1:], y), (x, y[1:]), (x.long(), y)]


def spoil_classes(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [*spoil_pair(x, y), (x, -y - 1), (x, y.float())]


def spoil_values(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [*spoil_pair(x, y), (x, y * math.nan), (x, torch.stack((y, y), dim=1))]


def ridge_row(tolerance: float = 1e-8, **settings: Any) -> Row:
    is_values = settings.get("task") == "regression"
    read = read_diabetes if is_values else read_digits

    def make() -> RidgeMemory:
        return RidgeMemory(read()[0].shape[1], **settings)

    return Row(
        make, read, add_pair, predict, tolerance, spoil_values if is_values else spoil_classes
    )


def bank_row(**settings: Any) -> Row:
    is_values = settings.get("task") == "regression"
    read = read_diabetes if is_values else read_digits

    def make() -> MemoryBank:
        half_lives = (30.0, 200.0, math.inf)
        return MemoryBank(read()[0].shape[1], half_lives=half_lives, **settings)

    return Row(make, read, add_pair, predict, 1e-8, spoil_values if is_values else spoil_classes)


def replay_row(make: Callable[[], Memory], needs_labels: bool) -> Row:
    def add(memory: Memory, x: Tensor, y: Tensor) -> object:
        return memory.add({"x": x, "y": y, "logits": x[:, :10]})

    def ask(memory: Memory, x: Tensor) -> Tensor:
        drawn, stored = memory.sample(7), memory.read_all()
        return torch.cat((drawn["x"].reshape(-1), stored["x"].reshape(-1), stored["y"].float()))

    def spoil(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
        bad = [(x[:, 1:], y), (x, y[1:]), (x.long(), y)]
        return [*bad, (x, y.float())] if needs_labels else bad

    return Row(make, read_digits, add, ask, 0.0, spoil)


def prior_row() -> Row:
    return Row(
        lambda: ClassPrior(half_life=20.0),
        read_digits,
        lambda memory, _, y: memory.add(y),
        lambda memory, _: memory.predict(3),
        1e-12,
        lambda x, y: [(x, -y - 1), (x, y.float()), (x, y[:, None])],
    )


RELU = RandomFeatures(64, 60, seed=3, passthrough=True)
PRODUCT = RandomFeatures(64, 60, kind="product", seed=3, passthrough=True)
FOURIER = RandomFeatures(10, 40, kind="fourier", seed=3, scale=20.0)
CODES = CodedFeatures(64, InputScale("signed", factor=8.0), num_raw_features=96, constant=64)
MEMORIES = {
    "ridge": ridge_row(),
    "ridge fixed strength": ridge_row(ridge=0.1),
    "ridge features": ridge_row(features=RELU),
    "ridge products": ridge_row(features=PRODUCT),
    "ridge decayed": ridge_row(features=RELU, half_life=50.0),
    "ridge codes": ridge_row(features=CODES),
    "ridge codes decayed": ridge_row(features=CODES, half_life=50.0),
    "ridge values": ridge_row(task="regression"),
    "ridge values decayed": ridge_row(task="regression", features=FOURIER, half_life=80.0),
    "familiarity": replace(ridge_row(features=PRODUCT), ask=ask_novelty),
    "familiarity decayed": replace(ridge_row(features=RELU, half_life=50.0), ask=ask_novelty),
    "bank": bank_row(features=RELU, block=16),
    "bank that foresees": bank_row(features=RELU, block=32, foresees=True),
    "bank codes": bank_row(features=CODES, block=32),
    "bank prior": bank_row(block=7, prior_half_life=20.0, mix="all"),
    "bank events": replace(bank_row(block=1, ridge=0.1), read=read_few_digits),
    "bank values": bank_row(task="regression", block=32),
    "class prior": prior_row(),
    "reservoir": replay_row(lambda: ReservoirReplay(40, seed=5), needs_labels=False),
    "balanced": replay_row(lambda: BalancedReplay(40, seed=5), needs_labels=True),
}
every_memory = pytest.mark.parametrize("row", MEMORIES.values(), ids=MEMORIES)


def same_state(left: object, right: object) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same_state(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_state, left, right))
    return type(left) is type(right) and left == right


@every_memory
def test_a_restored_memory_goes_on_bit_by_bit(row: Row) -> None:
    """From each of three places, after a block of one, an odd one and a long one."""
    x, y = row.read()
    stops = (1, len(x) * 83 // 300, len(x) * 190 // 300, len(x))

    def go_on(memory: Memory, start: int) -> list[Tensor]:
        """Ask and learn in turns from one of the stops on; what was answered."""
        answers = []
        for now, after in pairwise(stops):
            if now >= start:
                answers.append(row.ask(memory, x))
                row.add(memory, x[now:after], y[now:after])
        return [*answers, row.ask(memory, x)]

    memory, states, wanted = row.make(), [], []
    row.add(memory, x[:1], y[:1])
    for now, after in pairwise(stops):
        # In the form in which a snapshot stores it.
        states.append(encode_tree(copy.deepcopy(memory.state_dict())))
        wanted.append(row.ask(memory, x))
        row.add(memory, x[now:after], y[now:after])
    wanted.append(row.ask(memory, x))
    for index, state in enumerate(states):
        twin = row.make()
        twin.load_state_dict(decode_tree(*state))
        found = go_on(twin, stops[index])
        assert all(map(torch.equal, found, wanted[index:]))
        assert len(found) == len(wanted[index:])
        assert same_state(memory.state_dict(), twin.state_dict())


@every_memory
def test_blocks_equal_one_by_one(row: Row) -> None:
    x, y = row.read()
    blocks, events = row.make(), row.make()
    third, end = len(x) // 3, 2 * len(x) // 3
    odd = third + max(2, third // 9)
    for start, stop in ((0, 1), (1, third), (third, odd), (odd, end)):
        row.add(blocks, x[start:stop], y[start:stop])
    for i in range(end):
        row.add(events, x[i : i + 1], y[i : i + 1])
    found, wanted = row.ask(blocks, x), row.ask(events, x)
    if row.tolerance == 0.0:
        assert torch.equal(found, wanted)
    torch.testing.assert_close(
        found, wanted, rtol=0.0, atol=row.tolerance * float(wanted.abs().max())
    )


@every_memory
def test_inputs_are_not_changed_and_not_kept(row: Row) -> None:
    x, y = row.read()
    own_x, own_y = x.clone(), y.clone()
    memory = row.make()
    row.add(memory, own_x, own_y)
    answer = row.ask(copy.deepcopy(memory), x)
    assert torch.equal(own_x, x)
    assert torch.equal(own_y, y)
    own_x.fill_(7.0)
    own_y.fill_(3)
    assert torch.equal(row.ask(memory, x), answer)


@every_memory
def test_exported_state_is_not_shared(row: Row) -> None:
    x, y = row.read()
    memory = row.make()
    third = len(x) // 3
    row.add(memory, x[:third], y[:third])
    state = memory.state_dict()
    before = copy.deepcopy(state)
    row.add(memory, x[third:], y[third:])
    assert same_state(state, before)
    twin = row.make()
    twin.load_state_dict(state)
    row.add(twin, x[third:], y[third:])
    assert same_state(state, before)


@every_memory
def test_bad_input_changes_nothing(row: Row) -> None:
    x, y = row.read()
    memory = row.make()
    third = len(x) // 3
    row.add(memory, x[:third], y[:third])
    before = copy.deepcopy(memory.state_dict())
    for bad_x, bad_y in row.bad(x[third : len(x) // 2], y[third : len(x) // 2]):
        with pytest.raises(DataError) as found:
            row.add(memory, bad_x, bad_y)
        assert "\n" not in str(found.value)
        assert same_state(memory.state_dict(), before)


@every_memory
def test_empty_batches_do_nothing_and_single_ones_work(row: Row) -> None:
    x, y = row.read()
    memory = row.make()
    row.add(memory, x[:0], y[:0])
    row.add(memory, x[:1], y[:1])
    before = copy.deepcopy(memory.state_dict())
    row.add(memory, x[:0], y[:0])
    assert same_state(memory.state_dict(), before)
    assert bool(row.ask(memory, x).isfinite().all())


@every_memory
def test_answers_are_wide_and_states_are_plain(row: Row) -> None:
    x, y = row.read()
    memory = row.make()
    row.add(memory, x, y)
    answer = row.ask(memory, x)
    is_store = isinstance(memory, ReservoirReplay | BalancedReplay)
    assert answer.dtype == (torch.float32 if is_store else torch.float64)
    assert not answer.requires_grad
    encode_tree(memory.state_dict())  # raises for what a snapshot cannot hold


@every_memory
def test_asking_changes_nothing(row: Row) -> None:
    x, y = row.read()
    asked, silent = row.make(), row.make()
    step = len(x) // 6
    for start in range(0, len(x), step):
        for one in (asked, silent):
            row.add(one, x[start : start + step], y[start : start + step])
        if not isinstance(asked, ReservoirReplay | BalancedReplay):  # these draw numbers
            row.ask(asked, x)
    assert same_state(asked.state_dict(), silent.state_dict())


@every_memory
def test_size_does_not_grow_with_examples(row: Row) -> None:
    x, y = row.read()
    memory = row.make()

    def count() -> list[int]:
        """What it says, if it says so, and what its state holds but for solutions made of it."""
        _, tensors = encode_tree(memory.state_dict())
        said = [memory.num_bytes] if hasattr(memory, "num_bytes") else []
        held = [one for name, one in tensors.items() if not name.startswith("/held")]
        return [*said, sum(one.numel() * one.element_size() for one in held)]

    row.add(memory, x, y)
    before = count()
    assert min(before) > 0
    third = len(x) // 3
    for _ in range(3):
        row.add(memory, x[:third], y[:third])
    # A bank's unfinished block is the only part that comes and goes.
    slack = 33 * (x.shape[1] + 70) * 8 if isinstance(memory, MemoryBank) else 0
    assert all(now <= then + slack for now, then in zip(count(), before, strict=True))


@every_memory
def test_a_memory_of_another_build_is_refused(row: Row) -> None:
    from nestling.core.errors import ForeignSnapshot

    x, y = row.read()
    memory = row.make()
    row.add(memory, x, y)
    state = memory.state_dict()
    config = state["config"]
    key = sorted(k for k, v in config.items() if isinstance(v, float | int | str))[0]
    config[key] = "other"
    before = copy.deepcopy(row.make().state_dict())
    fresh = row.make()
    with pytest.raises(ForeignSnapshot, match=key):
        fresh.load_state_dict(state)
    assert same_state(fresh.state_dict(), before)


@every_memory
def test_the_modes_of_the_caller_stay_outside(row: Row) -> None:
    x, y = row.read()
    plain, inside = row.make(), row.make()
    step = len(x) // 6
    for start in range(0, len(x), step):
        row.add(plain, x[start : start + step], y[start : start + step])
        if start % (2 * step):
            row.add(inside, x[start : start + step], y[start : start + step])
        else:
            with torch.inference_mode():
                row.add(inside, x[start : start + step], y[start : start + step])
    assert torch.equal(row.ask(inside, x), row.ask(plain, x))
    assert same_state(inside.state_dict(), plain.state_dict())
