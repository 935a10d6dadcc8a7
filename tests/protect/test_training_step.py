"""One training step for any optimizer: it is the plain loop, or it changes nothing."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nestling as nl
from learners import differences, draw, make_batch
from nestling.core.errors import DataError
from nestling.core.seeds import make_generator
from nestling.protect import ER, EWC, SI, Retention, descend, take_step


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 2)
    )


def make_nested(model: nn.Module) -> torch.optim.Optimizer:
    return nl.NestedOptimizer(
        model,
        nl.Plan(
            nl.Level("head", match=("4.*",), optimizer=nl.adamw(lr=0.01)),
            nl.Level("spine", match=("*",), period=3, between="skip", optimizer=nl.adamw(lr=0.01)),
        ),
    )


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), 0.01),
    "nested": make_nested,
}
every = pytest.mark.parametrize("name", OPTIMIZERS)


def read(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return copy.deepcopy({"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()})


@every
def test_a_step_is_that_of_a_plain_loop(name: str) -> None:
    model, twin = make_net(), make_net()
    ours, theirs = OPTIMIZERS[name](model), OPTIMIZERS[name](twin)
    for step in range(7):
        x, y = make_batch(step)
        torch.manual_seed(step)
        taken = take_step(model, ours, (x, y))
        torch.manual_seed(step)
        if isinstance(theirs, nl.NestedOptimizer):
            theirs.prepare_step()
        theirs.zero_grad()
        output = twin(x)
        loss = functional.cross_entropy(output, y)
        loss.backward()
        theirs.step()
        assert taken.loss == loss.item()
        assert torch.equal(taken.output, output)
        assert not taken.output.requires_grad
    assert differences(read(model, ours), read(twin, theirs)) == []


def spoil_loss(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output, target) / 0.0


def spoil_gradient(output: Tensor, target: Tensor) -> Tensor:
    # The root of 0 is finite and its slope is not.
    return functional.cross_entropy(output, target) + (output - output.detach()).abs().sum().sqrt()


def fail(output: Tensor, target: Tensor) -> Tensor:
    raise ValueError("no loss")


@every
@pytest.mark.parametrize(
    ("loss", "said"),
    [(spoil_loss, "loss is inf"), (spoil_gradient, "a gradient is not finite"), (fail, None)],
    ids=["loss", "gradient", "error"],
)
def test_a_refused_step_changes_nothing(
    name: str, loss: Callable[[Tensor, Tensor], Tensor], said: str | None
) -> None:
    model, method = make_net(), nl.protect.ER(20, 4)
    optimizer = OPTIMIZERS[name](model)
    for step in range(4):
        take_step(model, optimizer, make_batch(step), [method])
    before, kept = read(model, optimizer), method.store.num_seen
    if said is None:
        with pytest.raises(ValueError, match="no loss"):
            take_step(model, optimizer, make_batch(9), [method], loss=loss)
    else:
        assert take_step(model, optimizer, make_batch(9), [method], loss=loss).refused == said
    assert differences(read(model, optimizer), before) == []
    assert method.store.num_seen == kept
    assert all(param.requires_grad for param in model.parameters())
    assert all(param.grad is None for param in model.parameters())
    assert take_step(model, optimizer, make_batch(10), [method]).refused == ""
    assert differences(read(model, optimizer), before) != []


def test_a_scheduler_hears_of_every_step() -> None:
    model = make_net()
    optimizer = make_nested(model)
    heard: list[int] = []
    optimizer.register_step_post_hook(lambda *_: heard.append(1))
    for step in range(3):
        take_step(model, optimizer, make_batch(step))
    assert len(heard) == 3


def test_sparse_gradients_are_looked_at_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(10, 4, sparse=True), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = torch.arange(12).reshape(4, 3) % 10, torch.tensor([0, 1, 0, 1])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert take_step(model, optimizer, (x, y), loss=spoil_gradient).refused
    assert differences(dict(model.state_dict()), before) == []
    assert not take_step(model, optimizer, (x, y)).refused
    assert differences(dict(model.state_dict()), before) != []


def test_autocast_covers_the_forward_passes_alone() -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    taken = take_step(
        model, optimizer, make_batch(), precision=torch.autocast("cpu", dtype=torch.bfloat16)
    )
    assert taken.output.dtype == torch.bfloat16
    assert all(param.dtype == torch.float32 for param in model.parameters())


def test_the_loss_that_is_told_is_that_of_the_new_batch_alone() -> None:
    class Heavy(Retention):
        def compute_loss(self, model: nn.Module, *_: object) -> Tensor:
            return 100.0 * next(model.parameters()).square().sum()

    nets = [make_net().eval(), make_net().eval()]
    steps = [
        take_step(net, torch.optim.SGD(net.parameters(), 0.001), make_batch(), methods)
        for net, methods in zip(nets, ([], [Heavy()]), strict=True)
    ]
    assert steps[0].loss == steps[1].loss
    assert not torch.equal(nets[0][0].weight, nets[1][0].weight)


def test_a_batch_that_the_model_cannot_take_says_so() -> None:
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = read(model, optimizer)
    with pytest.raises(DataError, match=r"the model cannot take input 0 \(3, 5\)"):
        take_step(model, optimizer, (torch.zeros(3, 5), torch.zeros(3, dtype=torch.long)), [EWC(1)])
    assert differences(read(model, optimizer), before) == []


def test_descend_is_the_step_below_a_loss_of_ones_own() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], 0.5)
    assert descend(optimizer, weight.square().sum()) == ""
    assert weight.item() == 0.0
    assert descend(optimizer, (weight / 0.0).sum()) == "loss is nan"
    assert weight.item() == 0.0


class Recurrent(nn.Module):
    """Keeps what it computed last in a buffer that `forward` assigns anew."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.Linear(4, 2)
        self.register_buffer("last", torch.zeros(1, 2))
        self.register_buffer("first", None)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.cell(x) + self.last.mean()
        self.last = found.detach()
        self.first = found.detach() if self.first is None else self.first
        return found


class Failing(Retention):
    """Takes in two steps; the third is too much. It counts, and draws, before it fails."""

    def __init__(self) -> None:
        self.num, self.generator = 0, make_generator(0, "failing")

    def observe(self, *_: object) -> None:
        self.num += 1
        torch.rand(3, generator=self.generator)
        if self.num > 2:
            raise RuntimeError("too much")

    def list_generators(self) -> list[torch.Generator]:
        return [self.generator]

    def state_dict(self) -> dict[str, Any]:
        return {"num": self.num}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num = state["num"]


@pytest.mark.parametrize("bad", ["loss", "method"])
def test_buffers_that_forward_assigns_are_put_back(bad: str) -> None:
    model, x, y = Recurrent(), draw(5, 4), torch.zeros(5, dtype=torch.long)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    kept, before = model.last, model.last.clone()
    if bad == "loss":
        assert take_step(model, optimizer, (x, y), loss=lambda o, _: o.sum() * math.inf).refused
    else:
        method = Failing()
        method.num = 2
        with pytest.raises(RuntimeError, match="too much"):
            take_step(model, optimizer, (x, y), [method])
    assert model.last is kept
    assert torch.equal(kept, before)
    assert model.first is None


@pytest.mark.parametrize("nested", [True, False])
def test_a_method_that_fails_after_the_step_leaves_nothing(nested: bool) -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 2), draw(5, 4), torch.zeros(5, dtype=torch.long)
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), 0.1)
    if nested:
        rule = nl.Level("all", match=["*"], period=2, optimizer=nl.adamw(lr=0.1))
        optimizer = nl.NestedOptimizer(
            model, nl.Plan(rule, nl.Copy("slow", of=["all"], decay=0.9, probability=0.5))
        )
    replay, failing = ER(10), Failing()
    methods = [replay, failing]
    for _ in range(2):
        take_step(model, optimizer, (x, y), methods)

    def read() -> list[Any]:
        parts = [model, optimizer, *methods]
        states = [copy.deepcopy(one.state_dict()) for one in parts]
        return [*states, *(g.get_state() for m in methods for g in m.list_generators())]

    before = read()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="too much"):
            take_step(model, optimizer, (x, y), methods)
        assert differences(read(), before) == []


def test_a_refused_step_draws_nothing() -> None:
    model, x, y = nn.Linear(4, 2), draw(5, 4), torch.zeros(5, dtype=torch.long)
    optimizer, replay = torch.optim.SGD(model.parameters(), 0.1), ER(10, 3)
    take_step(model, optimizer, (x, y), [replay])
    before = [generator.get_state() for generator in replay.list_generators()]
    assert take_step(
        model, optimizer, (x, y), [replay], loss=lambda o, _: o.sum() * math.inf
    ).refused
    after = [generator.get_state() for generator in replay.list_generators()]
    assert differences(after, before) == []


def test_path_importance_takes_sparse_gradients() -> None:
    class Bag(nn.Module):
        def __init__(self, sparse: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.words, self.last = nn.Embedding(20, 8, sparse=sparse), nn.Linear(8, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.last(self.words(ids).mean(1))  # type: ignore[no-any-return]

    ids = torch.randint(0, 20, (16, 5), generator=make_generator(0))
    states = []
    for sparse in (True, False):
        model, method = Bag(sparse), SI(1.0)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        take_step(model, optimizer, (ids, ids[:, 0] % 2), [method])
        states.append(method.state_dict())
    torch.testing.assert_close(*(one["path"] for one in states))
