"""What every penalty promises, whichever it is."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learners import draw, make_mlp
from nestling.core.batches import Batch
from nestling.core.errors import DataError, ForeignSnapshot
from nestling.protect import Retention, take_step
from nestling.protect.penalties import (
    EWC,
    L2SP,
    MAS,
    SI,
    LwF,
    MaskAbsent,
    OnlineEWC,
    estimate_fisher,
)
from nestling.store.state_trees import decode_tree, encode_tree

Make = Callable[[], Retention]
METHODS: dict[str, Make] = {
    "ewc": lambda: EWC(100.0, num_examples=64),
    "ewc exact": lambda: EWC(100.0, labels="exact"),
    "online ewc": lambda: OnlineEWC(100.0, decay=0.9),
    "si": lambda: SI(2.0),
    "mas": lambda: MAS(1.0),
    "l2-sp": lambda: L2SP(0.01, 0.001, head=""),
    "lwf": lambda: LwF(1.0),
    "mask absent": MaskAbsent,
    "mask absent, experience": lambda: MaskAbsent("experience"),
}
NEED_EXAMPLES = ["ewc", "ewc exact", "online ewc", "mas"]
every = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS.keys())


def make_task(index: int, num: int = 256) -> list[tuple[Tensor, Tensor]]:
    """Batches of a task that the sign of one input decides; the tasks lie apart by the last."""
    x = draw(num, 4, seed=index)
    x[:, 3] = 2.0 * index - 1.0
    return list(zip(x.split(32), (x[:, index] > 0).long().split(32), strict=True))


def train(
    model: nn.Module, method: Retention | None, task: list[tuple[Tensor, Tensor]], epochs: int = 10
) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    methods = [] if method is None else [method]
    return [
        take_step(model, optimizer, (x, y), methods).loss for _ in range(epochs) for x, y in task
    ]


def score(model: nn.Module, task: list[tuple[Tensor, Tensor]]) -> float:
    x, y = (torch.cat(parts) for parts in zip(*task, strict=True))
    return float((model(x).argmax(1) == y).float().mean())


def run_two_tasks(method: Retention | None) -> tuple[float, float, float]:
    """Accuracy on the first and on the second task at the end, and how far the weights went."""
    model = make_mlp(4, 2, width=32)
    train(model, method, make_task(0))
    if method is not None:
        method.end_experience(model, make_task(0))
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    train(model, method, make_task(1))
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    return score(model, make_task(0)), score(model, make_task(1)), float((after - before).norm())


@every
def test_learns_the_second_task(make: Make) -> None:
    _, second, moved = run_two_tasks(make())
    assert moved > 0.01
    assert second > 0.7


@pytest.mark.parametrize("name", ["ewc", "ewc exact", "online ewc", "si", "mas", "lwf"])
def test_holds_the_first_task_better_than_nothing(name: str) -> None:
    kept, _, moved = run_two_tasks(METHODS[name]())
    kept_by_nothing, _, moved_by_nothing = run_two_tasks(None)
    assert kept > kept_by_nothing + 0.02
    assert name == "lwf" or moved < moved_by_nothing


@every
def test_goes_on_exactly_from_a_saved_state(make: Make) -> None:
    model, method = make_mlp(), make()
    train(model, method, make_task(0, 64), epochs=2)
    method.end_experience(model, make_task(0, 64))
    train(model, method, make_task(1, 64), epochs=2)  # a path, and classes, on the way

    tree, tensors = encode_tree(method.state_dict())
    twin, other = copy.deepcopy(model), make()
    saved = decode_tree(tree, tensors)
    assert isinstance(saved, dict)
    other.load_state_dict(saved)
    assert other.count_bytes() == method.count_bytes()
    for owner, net in ((method, model), (other, twin)):
        train(net, owner, make_task(1, 64), epochs=1)
        owner.end_experience(net, make_task(1, 64))
        train(net, owner, make_task(0, 64), epochs=1)
    for left, right in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(left, right)
    _, first = encode_tree(method.state_dict())
    _, second = encode_tree(other.state_dict())
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@every
def test_a_saved_state_is_a_copy(make: Make) -> None:
    model, method = make_mlp(), make()
    train(model, method, make_task(0, 64), epochs=1)
    method.end_experience(model, make_task(0, 64))
    train(model, method, make_task(1, 64), epochs=1)
    state = method.state_dict()
    _, tensors = encode_tree(state)
    before = {name: value.clone() for name, value in tensors.items()}
    restored = make()
    restored.load_state_dict(state)
    for owner in (method, restored):
        train(copy.deepcopy(model), owner, make_task(0, 64), epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in encode_tree(state)[1].items())


@every
def test_counts_the_bytes_that_it_keeps(make: Make) -> None:
    model, method = make_mlp(), make()
    assert method.count_bytes() == 0
    train(model, method, make_task(0, 64), epochs=1)
    method.end_experience(model, make_task(0, 64))
    train(model, method, make_task(1, 64), epochs=1)
    _, tensors = encode_tree(method.state_dict())
    kept = sum(
        value.numel() * value.element_size()
        for name, value in tensors.items()
        if name != "/generator"
    )
    assert method.count_bytes() == kept


@pytest.mark.parametrize("name", NEED_EXAMPLES)
def test_without_examples_it_says_what_works_and_stays(name: str) -> None:
    model, method = make_mlp(), METHODS[name]()
    method.end_experience(model, make_task(0, 64))
    _, before = encode_tree(method.state_dict())
    train(model, method, make_task(1, 64), epochs=1)
    with pytest.raises(DataError, match=r"end_experience\(model, loader\) works"):
        method.end_experience(model)
    x, y = make_task(1, 64)[0]
    with pytest.raises(DataError, match="empty"):
        method.end_experience(model, [])
    with pytest.raises(Exception, match="mat1"):  # the second batch fails: nothing is taken in
        method.end_experience(model, [(x, y), (x[:, :2], y)])
    _, after = encode_tree(method.state_dict())
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@every
def test_says_whether_it_needs_boundaries(make: Make) -> None:
    """Without one, it changes a first experience exactly if it says that it needs none."""
    protected, plain, method = make_mlp(4, 3), make_mlp(4, 3), make()
    # Every batch has the first two classes: only masks and pulls to the start make a difference.
    train(protected, method, make_task(0, 64), epochs=1)
    train(plain, None, make_task(0, 64), epochs=1)
    same = all(
        torch.equal(left, right)
        for left, right in zip(protected.parameters(), plain.parameters(), strict=True)
    )
    if isinstance(method, MaskAbsent):
        assert not same  # the third class has never been there, in either sense
    else:
        assert same == method.needs_boundary


@every
def test_a_state_of_another_method_is_refused_and_nothing_changes(make: Make) -> None:
    model, method = make_mlp(), make()
    method.end_experience(model, make_task(0, 64))
    state: dict[str, Any] = method.state_dict()
    foreign = {**state, "config": {**state["config"], "kind": "another"}}
    with pytest.raises(ForeignSnapshot, match="'another'"):
        method.load_state_dict(foreign)
    _, before = encode_tree(state)
    _, after = encode_tree(method.state_dict())
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@every
def test_experiences_of_one_class_and_of_one_example(make: Make) -> None:
    model, method = make_mlp(4, 3), make()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for label, num in ((0, 8), (1, 1), (2, 8)):
        x, y = draw(num, 4, seed=label), torch.full((num,), label)
        for _ in range(3):
            take_step(model, optimizer, (x, y), [method])
        method.end_experience(model, [(x, y)])
    assert all(bool(param.isfinite().all()) for param in model.parameters())
    again = method.compute_loss(model, Batch((x,), target=y), model(x))
    assert again is None or bool(again.isfinite())


@every
def test_a_head_that_grows(make: Make) -> None:
    model, method = make_mlp(4, 2), make()
    train(model, method, make_task(0, 64), epochs=1)
    method.end_experience(model, make_task(0, 64))
    grown = nn.Linear(16, 4)
    with torch.no_grad():
        grown.weight[:2], grown.bias[:2] = model[2].weight, model[2].bias
    model[2] = grown
    before = grown.weight.detach().clone()
    x = draw(32, 4, seed=7)
    later = [(x, 2 + (x[:, 0] > 0).long())]
    train(model, method, later, epochs=5)
    method.end_experience(model, later)
    train(model, method, make_task(1, 64), epochs=1)
    assert float((grown.weight.detach() - before)[2:].norm()) > 0.01
    assert all(bool(param.isfinite().all()) for param in model.parameters())


def test_methods_combine() -> None:
    """A step with three of them is one on the sum of their losses over the masked batch."""
    model, (x, y) = make_mlp(4, 4), make_task(0, 64)[0]
    methods = [MaskAbsent(), EWC(10.0, labels="true"), LwF(0.5)]
    train(model, methods[2], make_task(1, 64), epochs=1)
    for method in methods:
        method.end_experience(model, make_task(1, 64))
    anchor, old = copy.deepcopy(model), copy.deepcopy(model)(x).detach()
    train(model, None, make_task(0, 64), epochs=1)

    twin = copy.deepcopy(model)
    fisher = estimate_fisher(anchor, make_task(1, 64))
    loss = -(twin(x)[:, :2].log_softmax(1)[torch.arange(len(y)), y]).mean()
    for name, param in twin.named_parameters():
        change = param - anchor.get_parameter(name).detach()
        loss = loss + 5.0 * (fisher[name] * change**2).sum()
    shares, answers = (old[:, :2] / 2).softmax(1), (twin(x)[:, :2] / 2).log_softmax(1)
    loss = loss - 0.5 * 4 * (shares * answers).sum(1).mean()
    loss.backward()
    with torch.no_grad():
        for param in twin.parameters():
            param -= 0.1 * param.grad

    take_step(model, torch.optim.SGD(model.parameters(), 0.1), (x, y), methods)
    for left, right in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)
