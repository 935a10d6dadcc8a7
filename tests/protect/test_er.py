import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from learners import draw
from nestling.core.batches import Batch
from nestling.core.errors import (
    DataError,
    ForeignSnapshot,
    SettingError,
    ShapeMismatch,
    UnknownLabel,
)
from nestling.protect import Retention, take_step
from nestling.protect.replay import ER, ERACE
from rehearsing import check_resume, distance, make_net, make_stream, run


def cross_entropy(logits: Tensor, y: Tensor, classes: list[int]) -> float:
    """Mean over examples of -log of the class's share among `classes`, with plain numbers."""
    shares = [row[classes].softmax(0) for row in logits.detach().double()]
    total = sum(-share[classes.index(int(k))].log() for share, k in zip(shares, y, strict=True))
    return float(total) / len(y)


def find_loss(method: Retention, model: torch.nn.Module, x: Tensor, y: Tensor) -> float | None:
    loss = method.compute_loss(model, Batch((x,), target=y), model(x))
    return None if loss is None else loss.item()


def test_replay_is_the_mean_loss_of_all_that_is_kept_when_the_buffer_is_larger_than_the_data() -> (
    None
):
    model, method = make_net(), ER(1000, batch_size=1000)
    batches = make_stream((0, 2))
    assert find_loss(method, model, *batches[0]) is None
    run(method, model, batches)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert method.count_bytes() == 30 * (4 * 4 + 8)
    expected = cross_entropy(model(x), y, [0, 1, 2, 3])
    assert find_loss(method, model, *batches[0]) == pytest.approx(expected, rel=1e-5)


def test_joint_is_one_mean_over_new_and_replayed_examples() -> None:
    model, method = make_net(), ER(12, batch_size=12, joint=True)
    run(method, model, make_stream((0, 1), 4))
    x, y = make_stream((2, 3), 1, seed=5)[0]
    twin = copy.deepcopy(model)
    run(method, model, [(x, y)])
    kept = ER(12, batch_size=12, joint=True)
    run(kept, make_net(), make_stream((0, 1), 4))
    # The very buffer, by the same seed: a step on the concatenated batch, as Mammoth takes it.
    columns = kept.store.read_all()
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    take_step(twin, optimizer, (torch.cat([x, columns["input 0"]]), torch.cat([y, columns["y"]])))
    assert distance(model, twin) < 1e-6


def test_er_replays_values_with_the_squared_error() -> None:
    model, method = make_net(2), ER(100, batch_size=100)
    x, y = draw(6, 4, seed=1), draw(6, 2, seed=2)
    run(method, model, [(x, y)])
    expected = float((model(x) - y).detach().square().mean())
    assert find_loss(method, model, x, y) == pytest.approx(expected, rel=1e-5)


def test_er_moves_the_weights_and_keeps_the_old_class() -> None:
    scores = []
    for methods in ([], [ER(40, seed=1)]):
        model = make_net()
        optimizer = torch.optim.SGD(model.parameters(), 0.2)
        for label in (0, 1):
            for step in range(80):
                x = draw(10, 4, seed=step) * 0.2 + 0.5 * label
                take_step(model, optimizer, (x, torch.full((10,), label)), methods)
        old = draw(50, 4, seed=999) * 0.2
        scores.append(float((model(old).argmax(1) == 0).float().mean()))
    assert scores[0] < 0.2
    assert scores[1] > 0.9


def test_a_balanced_buffer_holds_the_rare_class() -> None:
    method = ER(10, balanced=True)
    model = make_net()
    for step in range(20):
        y = torch.zeros(5, dtype=torch.int64)
        y[0] = 3 if step == 4 else 0  # a class that is seen once
        method.observe(model, Batch((draw(5, 4, seed=step),), target=y), draw(5, 4))
    assert method.store.read_all()["y"].bincount().tolist() == [9, 0, 0, 1]


def test_ignored_targets_are_not_kept() -> None:
    method, model = ER(10), make_net()
    method.observe(model, Batch((draw(3, 4),), target=torch.tensor([0, -100, 2])), draw(3, 4))
    assert sorted(method.store.read_all()["y"].tolist()) == [0, 2]


def test_erace_masks_old_classes_for_the_new_and_unseen_ones_for_the_replayed() -> None:
    model, method = make_net(5), ERACE(100, batch_size=100)
    batches = make_stream((0, 1))
    run(method, model, batches)
    x, y = make_stream((1, 3), 1, seed=2)[0]
    output = model(x)
    new = functional.cross_entropy(method.restrict(output, Batch((output,), target=y)), y).item()
    # 0 is old, 1 and 3 are in the batch, 2 and 4 were never seen.
    assert new == pytest.approx(cross_entropy(output, y, [1, 2, 3, 4]), rel=1e-5)
    old_x, old_y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    expected = cross_entropy(model(old_x), old_y, [0, 1, 3])
    assert find_loss(method, model, x, y) == pytest.approx(expected, rel=1e-5)
    model.zero_grad()
    functional.cross_entropy(method.restrict(output, Batch((output,), target=y)), y).backward()
    head = model[-1].weight.grad
    assert isinstance(head, Tensor)
    assert float(head[0].abs().max()) == 0.0
    assert float(head[2].abs().max()) > 0.0
    before = copy.deepcopy(model)
    run(method, model, [(x, y)])
    assert distance(before, model) > 1e-4


def test_a_batch_of_the_only_class_steps() -> None:
    model, method = make_net(1), ERACE(10)
    run(method, model, [(draw(3, 4), torch.zeros(3, dtype=torch.int64))] * 2)
    assert all(bool(param.isfinite().all()) for param in model.parameters())


@pytest.mark.parametrize(
    "make",
    [
        lambda: ER(12, 4, seed=3),
        lambda: ER(12, 4, balanced=True, joint=True),
        lambda: ERACE(12, 4, balanced=True),
        lambda: ERACE(1000),
    ],
)
def test_resume_loses_no_bit(make: type[Retention]) -> None:
    check_resume(make)


def test_a_refused_step_is_undone_with_the_generators() -> None:
    model, method = make_net(), ER(20, 3)
    run(method, model, make_stream())
    saved = [generator.get_state() for generator in method.list_generators()]
    x, y = make_stream()[0]
    first = find_loss(method, model, x, y)
    for generator, state in zip(method.list_generators(), saved, strict=True):
        generator.set_state(state)
    assert find_loss(method, model, x, y) == first


@pytest.mark.parametrize("kind", [ER, ERACE])
def test_settings_out_of_range_are_refused(kind: type[ER] | type[ERACE]) -> None:
    for settings in ({"buffer_size": 0}, {"buffer_size": 2.5}, {"buffer_size": 5, "batch_size": 0}):
        with pytest.raises(SettingError, match="whole number of 1 or more works"):
            kind(**settings)


def test_what_does_not_fit_is_refused_before_the_step() -> None:
    model, method = make_net(), ER(10)
    run(method, model, make_stream())
    state = method.state_dict()
    with pytest.raises(ShapeMismatch, match="stores rows"):
        method.compute_loss(
            model, Batch((draw(2, 4).long(),), target=torch.tensor([0, 1])), draw(2, 4)
        )
    with pytest.raises(DataError, match="integers"):
        ER(10, balanced=True).compute_loss(
            model, Batch((draw(2, 4),), target=draw(2, 4)), draw(2, 4)
        )
    with pytest.raises(DataError, match="ERACE"):
        ERACE(10).restrict(draw(2, 4), Batch((draw(2, 4),), target=draw(2, 4)))
    with pytest.raises(UnknownLabel, match="label 4"):
        ERACE(10).restrict(draw(1, 4), Batch((draw(1, 4),), target=torch.tensor([4])))
    with pytest.raises(ForeignSnapshot, match="buffer_size"):
        ER(11).load_state_dict(state)
    with pytest.raises(ForeignSnapshot, match="kind"):
        ERACE(10).load_state_dict(state)
