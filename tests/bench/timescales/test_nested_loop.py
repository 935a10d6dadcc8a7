"""Learning by a plan, and methods that are given more or fewer steps."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from nestling.bench.rivals.competitors import Pair
from nestling.bench.rivals.tunable import Setup
from nestling.bench.timescales.nested_loop import Budgeted, NestedLoop
from nestling.bench.timescales.step_costs import check_plain
from nestling.levels import Copy, Level, Plan
from nestling.optim import sgd

SETUP = Setup(
    num_inputs=6,
    num_classes=3,
    batch_size=4,
    epochs=1,
    num_experiences=2,
    knows_task=False,
    is_encoded=False,
    seed=0,
    widths=(8, 8),
)
LEVEL = Level("all", ("*",), optimizer=sgd(0.1))


def draw(num_batches: int) -> list[Pair]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.rand(4, 6, generator=generator), torch.randint(3, (4,), generator=generator))
        for _ in range(num_batches)
    ]


class Watched:
    """Notes what it is asked to learn."""

    def __init__(self) -> None:
        self.learned: list[tuple[float, bool]] = []

    def learn(self, x: Tensor, y: Tensor, *, is_new: bool) -> None:  # noqa: ARG002
        self.learned.append((x.item(), is_new))

    def end_experience(self, loader: object) -> None: ...

    def compute_scores(self, x: Tensor) -> Tensor:
        return x

    def count_bytes(self) -> int:
        return 7


def test_one_level_is_plain_training_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_plain(SETUP)
    # The check sees a plan that moves otherwise.
    from nestling.bench.timescales import mechanisms

    monkeypatch.setattr(mechanisms, "sgd", lambda lr: sgd(lr, momentum=0.1))
    assert not check_plain(SETUP)


def test_a_copy_answers_and_several_answer_by_their_mean() -> None:
    plan = Plan(LEVEL, Copy("slow", of=("all",), decay=0.9, warmup=False))
    made = {
        readout: NestedLoop(SETUP.make_model(), plan, readout=readout)
        for readout in (("live",), ("slow",), ("live", "slow"))
    }
    slow = {name: value.clone() for name, value in SETUP.make_model().named_parameters()}
    for x, y in draw(5):
        for loop in made.values():
            loop.learn(x, y, is_new=True)
        for name, value in made["live",].model.named_parameters():
            slow[name] = 0.9 * slow[name] + 0.1 * value.detach()
    ((x, _),) = draw(1)
    live = made["live",].compute_scores(x)
    old = functional_call(SETUP.make_model(), slow, (x,))
    torch.testing.assert_close(made["slow",].compute_scores(x), old)
    both = made["live", "slow"].compute_scores(x)
    torch.testing.assert_close(both, (live.softmax(1) + old.softmax(1)) / 2)
    assert (live - old).abs().max() > 1e-3
    assert made["slow",].count_bytes() == 4 * sum(
        p.numel() for p in SETUP.make_model().parameters()
    )


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.5, [(2, True), (4, True)]),
        (1.0, [(1, True), (2, True), (3, True), (4, True)]),
        (1.5, [(1, True), (2, True), (2, False), (3, True), (4, True), (4, False)]),
    ],
)
def test_steps_are_spread_evenly(ratio: float, expected: list[tuple[float, bool]]) -> None:
    inner = Watched()
    budgeted = Budgeted(inner, ratio)
    for number in range(1, 5):
        budgeted.learn(torch.tensor([[float(number)]]), torch.tensor([0]), is_new=True)
    assert inner.learned == expected
    assert budgeted.count_bytes() == 7


def test_ten_tenths_are_one_step() -> None:
    inner = Watched()
    budgeted = Budgeted(inner, 0.1)
    for _ in range(10):
        budgeted.learn(torch.zeros(1, 1), torch.tensor([0]), is_new=True)
    assert len(inner.learned) == 1
