"""What the tests of rehearsal share: streams, runs and the resume that must lose no bit."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from learners import differences, draw
from nestling.protect import Retention, take_step

Pair = tuple[Tensor, Tensor]


def make_net(num_outputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, num_outputs))


def make_stream(labels: tuple[int, ...] = (0, 1), num: int = 6, seed: int = 0) -> list[Pair]:
    """Batches of 5 whose classes alternate between the labels."""
    y = torch.tensor([labels[k % len(labels)] for k in range(5)])
    return [(draw(5, 4, seed=100 * seed + step) + y[:, None], y) for step in range(num)]


def run(method: Retention, model: nn.Module, batches: list[Pair], rate: float = 0.1) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), rate)
    return [take_step(model, optimizer, (x, y), [method]).loss for x, y in batches]


def check_resume(make: Callable[[], Retention]) -> None:
    """A method that is saved in the midst of an experience and loaded goes on in the same bits."""
    method, model = make(), make_net()
    run(method, model, make_stream((0, 1)))
    method.end_experience(model, make_stream((0, 1)))
    run(method, model, make_stream((2, 3), 3, seed=1))
    state = copy.deepcopy(method.state_dict())
    other, twin = make(), copy.deepcopy(model)
    other.load_state_dict(method.state_dict())
    assert differences(other.state_dict(), state) == []
    for one, net in ((method, model), (other, twin)):
        run(one, net, make_stream((2, 3), 4, seed=2))
        one.end_experience(net, make_stream((2, 3)))
        run(one, net, make_stream((0, 3), 3, seed=3))
    assert differences(other.state_dict(), method.state_dict()) == []
    assert differences(dict(twin.state_dict()), dict(model.state_dict())) == []
    readers = [one.find_reader() for one in (method, other)]
    if readers[0] is not None and readers[1] is not None:
        left, right = (dict(reader.state_dict()) for reader in readers if reader is not None)
        assert differences(left, right) == []
    # What was saved is not what went on.
    assert differences(method.state_dict(), state) != []


def distance(left: nn.Module, right: nn.Module) -> float:
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)
