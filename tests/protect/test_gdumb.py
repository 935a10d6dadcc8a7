import copy
import math

import pytest
import torch
from torch import nn

from learners import draw
from nestling.core.batches import Batch
from nestling.core.errors import DataError, NotFitted, SettingError
from nestling.protect import take_step
from nestling.protect.replay import GDumb
from rehearsing import Pair, check_resume, distance, make_net, make_stream, run


def make_classes(label: int, num: int = 8, seed: int = 0) -> list[Pair]:
    x = [draw(5, 4, seed=seed + step) * 0.3 for step in range(num)]
    shift = 2.0 * torch.eye(4)[label]
    return [(values + shift, torch.full((5,), label)) for values in x]


def score(model: nn.Module, label: int) -> float:
    x = draw(50, 4, seed=999) * 0.3 + 2.0 * torch.eye(4)[label]
    return float((model(x).argmax(1) == label).float().mean())


def test_the_live_weights_stay_and_the_reader_knows_every_class() -> None:
    model, method = make_net(), GDumb(20, 40, rate=0.1)
    assert method.find_reader() is None
    before = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.5)
    for label in range(4):
        for x, y in make_classes(label):
            take_step(model, optimizer, (x, y), [method])
        method.end_experience(model)
        reader = method.find_reader()
        assert reader is not None
        assert reader is method.find_reader()
        assert not any(module.training for module in reader.modules())
        assert min(score(reader, seen) for seen in range(label + 1)) > 0.9
    assert distance(before, model) == 0.0
    assert method.store.read_all()["y"].bincount().tolist() == [5, 5, 5, 5]


def test_the_training_is_sgd_from_the_first_weights_at_a_cosine_rate() -> None:
    model = make_net()
    method = GDumb(100, 3, 1000, rate=0.4, min_rate=0.1, weight_decay=0.01, clip_norm=0.3)
    batches = make_stream((0, 1, 3))
    run(method, model, batches)
    reader = method.find_reader()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    weights = [param.detach().clone() for param in make_net().parameters()]
    speed = [torch.zeros_like(value) for value in weights]
    for epoch in range(3):
        first, first_bias, second, second_bias = (value.requires_grad_() for value in weights)
        logits = (x @ first.T + first_bias).tanh() @ second.T + second_bias
        loss = -logits.log_softmax(1)[torch.arange(len(y)), y].mean()
        grads = torch.autograd.grad(loss, weights)
        length = math.sqrt(sum(float(grad.square().sum()) for grad in grads))
        assert length > 0.3
        rate = 0.1 + 0.3 * (1 + math.cos(math.pi * epoch / 3)) / 2
        for k, grad in enumerate(grads):
            speed[k] = 0.9 * speed[k] + grad * 0.3 / length + 0.01 * weights[k].detach()
            weights[k] = weights[k].detach() - rate * speed[k]
    assert reader is not None
    for found, expected in zip(reader.parameters(), weights, strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-5)


def test_an_answer_in_between_changes_no_later_one() -> None:
    asked, silent = GDumb(10, 5), GDumb(10, 5)
    for method in (asked, silent):
        model = make_net()
        for batch in make_stream((0, 1)):
            run(method, model, [batch])
            if method is asked:
                method.find_reader()
    left, right = asked.find_reader(), silent.find_reader()
    assert left is not None
    assert right is not None
    assert distance(left, right) == 0.0


def test_a_class_seen_once_frozen_weights_and_a_batch_norm_work() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    model[0].requires_grad_(False)
    method = GDumb(1000, 30, 15, rate=0.1)
    batches = [*make_classes(0, 3), *make_classes(1, 3)]
    batches += [(x[:1], y[:1]) for x, y in make_classes(2, 1)]
    for x, y in batches:  # 31 in all, which leaves one alone; a batch norm refuses that
        run(method, model.eval() if len(x) == 1 else model.train(), [(x, y)])
    frozen, moved = model[0].weight.clone(), model[3].weight.clone()
    reader = method.find_reader()
    assert isinstance(reader, nn.Sequential)
    assert torch.equal(reader[0].weight, frozen)
    assert not torch.equal(reader[3].weight, moved)
    assert min(score(reader, label) for label in (0, 1, 2)) > 0.8
    assert all(param.grad is None and not param.requires_grad for param in reader.parameters())
    num_tensors = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert method.count_bytes() == 31 * (4 * 4 + 8) + 2 * num_tensors


def test_resume_loses_no_bit() -> None:
    check_resume(lambda: GDumb(12, 3))


def test_a_loaded_reader_answers_when_it_has_a_model() -> None:
    model, method = make_net(), GDumb(12, 3)
    run(method, model, make_stream())
    method.end_experience(model)
    for trained in (True, False):
        loaded = GDumb(12, 3)
        loaded.load_state_dict(method.state_dict())
        with pytest.raises(NotFitted, match="build_reader"):
            loaded.find_reader()
        loaded.build_reader(make_net())
        readers = [one.find_reader() for one in (method, loaded)]
        assert readers[0] is not None
        assert readers[1] is not None
        assert distance(readers[0], readers[1]) == 0.0
        if trained:
            run(method, model, make_stream(seed=5))


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"buffer_size": 0}, "buffer_size=0"),
        ({"num_epochs": 0}, "num_epochs=0"),
        ({"rate": 0.0, "min_rate": 0.0}, "rate=0.0"),
        ({"min_rate": 0.2}, "min_rate=0.2"),
        ({"momentum": 1.5}, "momentum=1.5"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], what: str) -> None:
    with pytest.raises(SettingError, match=what):
        GDumb(**{"buffer_size": 5, **settings})  # type: ignore[arg-type]


def test_values_are_refused_before_the_step() -> None:
    with pytest.raises(DataError, match="GDumb"):
        GDumb(5).compute_loss(make_net(), Batch((draw(2, 4),), target=draw(2, 4)), draw(2, 4))


def test_a_reader_that_was_loaded_is_trained_on_the_loss_that_it_is_told() -> None:
    """A function is not part of a saved state: `build_reader` gives it again."""

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output, target, label_smoothing=0.5)

    model, method = make_net(), GDumb(5, num_epochs=3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for pair in make_stream():
        take_step(model, optimizer, pair, [method], loss=loss)
    state = copy.deepcopy(method.state_dict())  # before anybody asked: it is to be trained yet
    told, untold = GDumb(5, num_epochs=3), GDumb(5, num_epochs=3)
    told.load_state_dict(state)
    told.build_reader(model, loss)
    untold.load_state_dict(state)
    untold.build_reader(model)
    readers = [one.find_reader() for one in (method, told, untold)]
    first, second, third = (reader for reader in readers if reader is not None)
    assert distance(first, second) == 0.0
    assert distance(first, third) > 0.0
