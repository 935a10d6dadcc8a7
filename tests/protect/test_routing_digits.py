"""Scikit-learn's digits upright, turned by 90 degrees and inverted, and back again, unlabelled."""

import copy
import sys
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from learners import differences
from nestling.core.seeds import make_generator
from nestling.data.digits import load_digits
from nestling.protect.routing import (
    Growth,
    LearnedRouter,
    LikelihoodRouter,
    ModuleBank,
    Router,
    StepResult,
    TaskRouter,
    learn_routed,
    predict_routed,
)

pytest.importorskip("sklearn")

NUM_TRAIN, BATCH, VISITS = 1184, 32, (0, 1, 2, 0, 1, 2)
NAMES = ("upright", "turned", "inverted")
Pair = tuple[Tensor, Tensor]


def make_contexts(seed: int) -> list[tuple[Pair, Pair]]:
    """((x, y) for training, (x, y) for testing) of each context: the same digits in each."""
    x, y = load_digits()
    order = torch.randperm(len(x), generator=make_generator(seed, "digits"))
    x, y = x[order], y[order]
    turned = x.reshape(-1, 8, 8).rot90(1, (1, 2)).reshape(-1, 64)
    n = NUM_TRAIN
    return [((v[:n], y[:n]), (v[n:], y[n:])) for v in (x, turned, 1.0 - x)]


def make_bank(seed: int, num_modules: int = 1, max_modules: int = 5) -> ModuleBank:
    def make_module(slot: int) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ModuleBank(
            nn.Identity(), make_module, num_modules=num_modules, max_modules=max_modules
        )


@dataclass
class Run:
    """A stream in which nobody says which context it is in."""

    router: Router
    growth: Growth | None
    seed: int = 0
    bank: ModuleBank = field(init=False)
    steps: list[StepResult] = field(default_factory=list)
    truth: list[int] = field(default_factory=list)
    # After each visit: accuracy on each context, and each context's most used slot and its share.
    accuracy: list[list[float]] = field(default_factory=list)
    found: list[list[tuple[int, float]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bank = make_bank(self.seed, max_modules=self.router.num_contexts)
        self.optimizer = torch.optim.Adam(self.bank.parameters(), 0.01)
        self.contexts = make_contexts(self.seed)

    def learn(self, batches: list[Pair], context: int) -> None:
        for x, y in batches:
            step = learn_routed(self.bank, self.router, self.optimizer, (x, y), growth=self.growth)
            self.steps.append(step)
            self.truth.append(context)

    def make_batches(self, context: int, visit: int, epochs: int = 3) -> list[Pair]:
        generator = make_generator(self.seed, "order", visit)
        x, y = self.contexts[context][0]
        orders = [torch.randperm(len(x), generator=generator) for _ in range(epochs)]
        return [(x[rows], y[rows]) for order in orders for rows in order.split(BATCH)]

    def evaluate(self) -> None:
        accuracy, found = [], []
        for _, (x, y) in self.contexts:
            answers = predict_routed(self.bank, self.router, x).argmax(1)
            accuracy.append((answers == y).double().mean().item())
            counts = self.router.route(x).argmax(1).bincount(minlength=self.router.num_contexts)
            found.append((int(counts.argmax()), counts.max().item() / len(x)))
        self.accuracy.append(accuracy)
        self.found.append(found)

    @property
    def grown(self) -> list[tuple[int, int]]:
        return [(k, s.grown) for k, s in enumerate(self.steps) if s.grown is not None]


def run(router: Router, growth: Growth | None, seed: int = 0) -> Run:
    result = Run(router, growth, seed)
    for visit, context in enumerate(VISITS):
        result.learn(result.make_batches(context, visit), context)
        result.evaluate()
    return result


@pytest.fixture(scope="module")
def routed() -> Run:
    return run(LikelihoodRouter(64, 5), Growth())


@pytest.fixture(scope="module")
def shared() -> Run:
    """One net of the same size for all contexts."""
    return run(LikelihoodRouter(64, 1), None)


def report(name: str, result: Run) -> None:
    """The figures of docs/routing.md: `pytest tests/protect/test_routing_digits.py -s`."""
    lines = [f"\n{name}: modules grown at batches {[step for step, _ in result.grown]}"]
    for visit, (accuracy, found) in enumerate(zip(result.accuracy, result.found, strict=True)):
        shown = " ".join(
            f"{context} {100 * a:.1f} % (slot {slot}: {100 * share:.1f} %)"
            for context, a, (slot, share) in zip(NAMES, accuracy, found, strict=True)
        )
        lines.append(f"  after {NAMES[VISITS[visit]]:8s} {shown}")
    sys.stdout.write("\n".join(lines) + "\n")


def test_contexts_are_found_and_none_is_forgotten(routed: Run, shared: Run) -> None:
    report("likelihood router", routed)
    report("one net", shared)
    for visit in range(2, len(VISITS)):
        slots = [slot for slot, _ in routed.found[visit]]
        assert len(set(slots)) == 3
        assert min(share for _, share in routed.found[visit]) >= 0.95
    first, last = routed.accuracy[0][0], routed.accuracy[2][0]
    assert last > first - 0.02
    assert shared.accuracy[2][0] < shared.accuracy[0][0] - 0.2
    # Coming back finds the old module again, and goes on from it.
    assert min(routed.accuracy[-1]) > 0.9
    assert min(routed.accuracy[-1]) > min(shared.accuracy[-1])


def test_modules_grow_when_contexts_change_and_only_then(routed: Run) -> None:
    per_visit = len(routed.steps) // len(VISITS)
    steps = [step for step, _ in routed.grown]
    assert len(steps) == routed.bank.num_modules - 1 == 2
    for step, change in zip(steps, (per_visit, 2 * per_visit), strict=True):
        assert change <= step < change + 6
    held = sum(step.is_held for step in routed.steps)
    assert held <= 12
    wrong = [
        k
        for k, (context, step) in enumerate(zip(routed.truth, routed.steps, strict=True))
        if not step.is_held and step.context != context
    ]
    assert not wrong


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_grows_while_the_stream_stays(seed: int) -> None:
    result = Run(LikelihoodRouter(64, 5), Growth(), seed)
    result.learn(result.make_batches(0, 0, epochs=8), 0)
    assert result.grown == []
    assert sum(step.is_held for step in result.steps) <= 0.02 * len(result.steps)


def test_a_learned_router_finds_contexts_by_loss() -> None:
    result = run(LearnedRouter(64, 5), Growth())
    report("learned router", result)
    assert [slot for slot, _ in result.found[-1]] == [0, 1, 2]
    assert min(share for _, share in result.found[-1]) >= 0.95
    assert result.accuracy[2][0] > result.accuracy[0][0] - 0.02


def test_a_learned_router_without_replay_forgets() -> None:
    result = run(LearnedRouter(64, 5, replay=0), Growth())
    assert (
        min(share for _, share in result.found[-1]) < 0.95
        or len({slot for slot, _ in result.found[-1]}) < 3
    )


def test_a_full_bank_uses_the_nearest_module_and_says_so() -> None:
    result = Run(LikelihoodRouter(64, 1), Growth(patience=2))
    result.learn(result.make_batches(0, 0, 1), 0)
    result.learn(result.make_batches(1, 1, 1), 1)
    notes = [step.note for step in result.steps if step.note]
    assert "all 1 are in use; 2 surprising batches go to the nearest module, 0" in notes[0]
    assert result.grown == []
    # Nothing is lost: every batch was learned.
    assert isinstance(result.router, LikelihoodRouter)
    assert result.growth is not None
    waiting = sum(held.batch.size for held in result.growth.held)
    assert result.router.count_examples() == [2 * NUM_TRAIN - waiting]


@pytest.mark.parametrize("make", [LikelihoodRouter, LearnedRouter])
def test_resume_loses_no_bit_while_batches_wait(
    make: type[LikelihoodRouter] | type[LearnedRouter],
) -> None:
    def read(one: Run) -> dict[str, object]:
        assert one.growth is not None
        return {
            "bank": dict(one.bank.state_dict()),
            "router": one.router.state_dict(),
            "growth": one.growth.state_dict(),
            "optimizer": one.optimizer.state_dict(),
        }

    whole = Run(make(64, 3), Growth())
    batches = whole.make_batches(0, 0, 2)
    whole.learn(batches, 0)
    whole.learn(whole.make_batches(1, 1, 1)[:2], 1)
    assert whole.growth is not None
    assert len(whole.growth.held) == 2
    state = copy.deepcopy(read(whole))
    other = Run(make(64, 3), Growth(), seed=0)
    assert other.growth is not None
    other.bank.load_state_dict(state["bank"])  # type: ignore[arg-type]
    other.router.load_state_dict(state["router"])  # type: ignore[arg-type]
    other.growth.load_state_dict(state["growth"])  # type: ignore[arg-type]
    other.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
    assert differences(read(other), state) == []
    for one in (whole, other):
        one.learn(one.make_batches(1, 1)[2:], 1)
        one.learn(one.make_batches(2, 2, 1), 2)
        assert one.bank.num_modules == 3
    assert differences(read(other), read(whole)) == []
    assert differences(read(whole), state) != []
    # A bank that grew fits a new one.
    fresh = make_bank(9, max_modules=3)
    fresh.load_state_dict(whole.bank.state_dict())
    assert fresh.list_active() == [0, 1, 2]
    x = whole.contexts[1][1][0]
    assert torch.equal(fresh(x, context=1), whole.bank(x, context=1))


def test_labels_choose_where_they_are_known() -> None:
    contexts = make_contexts(0)
    bank, router = make_bank(0, 3, 3), TaskRouter(NAMES)
    optimizer = torch.optim.AdamW(bank.parameters(), 0.01, weight_decay=0.1)
    for name, ((x, y), _) in zip(NAMES, contexts, strict=True):
        others = [
            param.clone()
            for slot, part in enumerate(bank.parts)
            for param in part.parameters()
            if NAMES[slot] != name
        ]
        for epoch in range(3):
            order = torch.randperm(len(x), generator=make_generator(0, name, epoch))
            for rows in order.split(BATCH):
                step = learn_routed(bank, router, optimizer, (x[rows], y[rows]), task=name)
                assert step.context == NAMES.index(name)
        now = [
            param
            for slot, part in enumerate(bank.parts)
            for param in part.parameters()
            if NAMES[slot] != name
        ]
        assert all(torch.equal(a, b) for a, b in zip(others, now, strict=True))
    x, y = contexts[0][1]
    right = (predict_routed(bank, router, x, task="upright").argmax(1) == y).double().mean()
    wrong = (predict_routed(bank, router, x, task="turned").argmax(1) == y).double().mean()
    assert right > 0.9 > 0.5 > wrong
