import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from learners import draw
from nestling.core.batches import Batch
from nestling.core.errors import DataError, MismatchedParameters, NotFitted, SettingError
from nestling.protect import Retention, take_step
from nestling.protect.replay import CLSER, ER, EMAReader, MeanER, choose_answers, ramp_decay
from nestling.protect.replay.answering_copy import ModelCopy
from rehearsing import check_resume, distance, make_net, make_stream, run


def read_vector(model: nn.Module | None) -> Tensor:
    assert model is not None
    return nn.utils.parameters_to_vector(model.parameters()).detach().double()


def test_the_mean_starts_as_the_plain_mean_and_goes_on_with_the_decay() -> None:
    model, method = make_net(), EMAReader(0.8)
    path = [read_vector(model)]
    expected = path[0]
    for step, batch in enumerate(make_stream((0, 1), 12), start=1):
        run(method, model, [batch])
        path.append(read_vector(model))
        # 1 - 1/5 = 0.8: up to step 4 all weights count the same.
        expected = torch.stack(path).mean(0) if step <= 4 else 0.8 * expected + 0.2 * path[-1]
        torch.testing.assert_close(
            read_vector(method.find_reader()), expected, rtol=1e-5, atol=1e-6
        )
    assert ramp_decay(3, 0.8) == 0.75
    assert ramp_decay(9, 0.8) == 0.8


def test_the_reader_leaves_the_learning_alone_and_averages_batch_norms() -> None:
    nets = [nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    method = EMAReader(0.9)
    assert method.find_reader() is None
    optimizers = [torch.optim.SGD(net.parameters(), 0.1) for net in nets]
    means = [nets[0][1].running_mean.clone()]
    for x, y in make_stream((0, 1), 3):
        take_step(nets[0], optimizers[0], (x, y), [method])
        take_step(nets[1], optimizers[1], (x, y))
        means.append(nets[0][1].running_mean.clone())
    assert distance(*nets) == 0.0
    reader = method.find_reader()
    assert isinstance(reader, nn.Sequential)
    assert not reader.training
    # The first pass runs before the mean starts, so the start has its statistics.
    start = torch.stack([means[1], *means[1:]]).mean(0)
    torch.testing.assert_close(reader[1].running_mean, start)
    assert int(reader[1].num_batches_tracked) == 3


def test_mean_er_is_er_with_a_reader() -> None:
    plain, model = make_net(), make_net()
    method, reader = MeanER(20, 5, 0.9, seed=2), EMAReader(0.9)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1)
    er = ER(20, 5, seed=2)
    for x, y in make_stream((0, 1, 2)):
        take_step(plain, optimizer, (x, y), [er, reader])
        run(method, model, [(x, y)])
    assert distance(plain, model) == 0.0
    found, expected = method.find_reader(), reader.find_reader()
    assert found is not None
    assert expected is not None
    assert distance(found, expected) == 0.0
    assert method.count_bytes() == er.count_bytes() + reader.count_bytes()


def test_each_example_has_the_better_answer() -> None:
    stable, plastic = draw(20, 3, seed=1), draw(20, 3, seed=2)
    y = torch.arange(20) % 3
    found = choose_answers(stable, plastic, y)
    for k in range(20):
        best = max((stable, plastic), key=lambda one: float(one[k].softmax(0)[y[k]]))
        assert torch.equal(found[k], best[k])
    assert torch.equal(choose_answers(stable, stable, y), stable)


@pytest.mark.parametrize("joint", [True, False])
def test_clser_is_its_papers_step(joint: bool) -> None:
    """Five steps of the published loop, written out; the buffer is larger than the data."""
    model, method = make_net(), CLSER(1000, 1000, 0.7, 1.0, 0.9, 1.0, 0.5, joint=joint)
    twin = make_net()
    plastic, stable = copy.deepcopy(twin), copy.deepcopy(twin)
    optimizer = torch.optim.SGD(twin.parameters(), 0.2)
    kept: list[tuple[Tensor, Tensor]] = []
    chosen = 0
    for step, (x, y) in enumerate(make_stream((0, 2, 1), 8), start=1):
        run(method, model, [(x, y)], 0.2)
        optimizer.zero_grad()
        loss = torch.zeros(())
        if kept:
            old_x, old_y = (torch.cat(parts) for parts in zip(*kept, strict=True))
            s, p = stable(old_x).detach(), plastic(old_x).detach()
            rows = torch.arange(len(old_y))
            better = s.softmax(1)[rows, old_y] > p.softmax(1)[rows, old_y]
            chosen += int(better.sum())
            target = torch.where(better[:, None], s, p)
            loss = 0.5 * (twin(old_x) - target).square().mean()
            if joint:
                x_all, y_all = torch.cat([x, old_x]), torch.cat([y, old_y])
                loss = loss + functional.cross_entropy(twin(x_all), y_all)
            else:
                loss = loss + functional.cross_entropy(twin(old_x), old_y)
        if not kept or not joint:
            loss = loss + functional.cross_entropy(twin(x), y)
        loss.backward()
        optimizer.step()
        kept.append((x, y))
        for mean, decay in ((plastic, 0.7), (stable, 0.9)):
            alpha = min(1 - 1 / (step + 1), decay)
            for old, new in zip(mean.parameters(), twin.parameters(), strict=True):
                old.data.mul_(alpha).add_(new.data, alpha=1 - alpha)
    assert chosen > 0
    assert distance(model, twin) < 1e-5
    reader = method.find_reader()
    assert reader is not None
    assert distance(reader, stable) < 1e-5
    assert distance(reader, plastic) > 1e-3
    assert distance(model, make_net()) > 0.05


def test_means_move_with_their_probabilities() -> None:
    model, method = make_net(), CLSER(10, plastic_prob=0.0, stable_prob=0.5)
    start = read_vector(model)
    moved, last = 0, start
    for batch in make_stream((0, 1), 60):
        run(method, model, [batch])
        now = read_vector(method.find_reader())
        moved += not torch.equal(now, last)
        last = now
    assert 18 <= moved <= 42
    assert torch.equal(read_vector(method._plastic.read()), start)


def test_a_head_may_grow() -> None:
    model, method = make_net(3), CLSER(20, seed=1)
    run(method, model, make_stream((0, 1), 4))
    before = read_vector(method.find_reader())[-3:]
    head = nn.Linear(12, 5)
    with torch.no_grad():
        head.weight[:3], head.bias[:3] = model[2].weight, model[2].bias
    model[2] = head
    method.build_reader(model)
    reader = method.find_reader()
    assert isinstance(reader, nn.Sequential)
    assert torch.equal(reader[2].bias[:3].double(), before)
    assert torch.equal(reader[2].bias[3:], head.bias.detach()[3:])
    run(method, model, make_stream((3, 4), 4))
    with pytest.raises(MismatchedParameters, match="not shrink"):
        method.build_reader(make_net(3))
    with pytest.raises(MismatchedParameters, match="only one"):
        method.build_reader(nn.Linear(4, 5))


MAKES = [
    lambda: EMAReader(0.9),
    lambda: MeanER(12, 4, 0.9),
    lambda: CLSER(12, 4, 0.8, 0.5, 0.9, 0.5, balanced=True),
    lambda: CLSER(500, joint=False),
]


@pytest.mark.parametrize("make", MAKES)
def test_resume_loses_no_bit(make: type[Retention]) -> None:
    check_resume(make)


@pytest.mark.parametrize("make", MAKES)
def test_a_loaded_reader_answers_when_it_has_a_model(make: type[EMAReader]) -> None:
    model, method, loaded = make_net(), make(), make()
    run(method, model, make_stream((0, 1)))
    loaded.load_state_dict(method.state_dict())
    with pytest.raises(NotFitted, match="build_reader"):
        loaded.find_reader()
    loaded.build_reader(model)
    left, right = read_vector(method.find_reader()), read_vector(loaded.find_reader())
    assert torch.equal(left, right)
    assert not torch.equal(left, read_vector(model))
    # A deep copy of a method has a reader of its own, which moves.
    twin = copy.deepcopy(loaded)
    run(twin, copy.deepcopy(model), make_stream((2, 3), 20))
    assert not torch.equal(left, read_vector(twin.find_reader()))
    assert torch.equal(left, read_vector(loaded.find_reader()))
    # Into a method that has already a reader of its own.
    run(loaded, copy.deepcopy(model), make_stream((2, 3)))
    loaded.load_state_dict(method.state_dict())
    assert torch.equal(left, read_vector(loaded.find_reader()))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: EMAReader(1.5), "decay=1.5"),
        (lambda: MeanER(5, decay=-0.1), "decay=-0.1"),
        (lambda: MeanER(0), "buffer_size=0"),
        (lambda: CLSER(5, plastic_decay=2.0), "plastic_decay=2.0"),
        (lambda: CLSER(5, stable_prob=-1.0), "stable_prob=-1.0"),
        (lambda: CLSER(5, weight=float("inf")), "weight=inf"),
        (lambda: CLSER(-1), "buffer_size=-1"),
    ],
)
def test_settings_out_of_range_are_refused(make: type[Retention], what: str) -> None:
    with pytest.raises(SettingError, match=what):
        make()


def test_clser_refuses_values() -> None:
    with pytest.raises(DataError, match="CLSER"):
        CLSER(5).compute_loss(make_net(), Batch((draw(2, 4),), target=draw(2, 4)), draw(2, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_slow_mean_moves_in_half_precision_and_resumes(dtype: torch.dtype) -> None:
    model = nn.Linear(1, 1, bias=False).to(dtype)
    nn.init.ones_(model.weight)
    mean = ModelCopy()
    mean.follow(model)
    nn.init.constant_(model.weight, 2.0)
    for step in range(2000):
        if step == 1000:
            state = mean.state_dict()
            assert state["weight"].dtype == torch.float32
            mean = ModelCopy()
            mean.load_state_dict(state)
            mean.follow(model)
        mean.average(model, 0.999)
    found = mean.read().weight
    assert found.dtype == dtype
    assert float(found) == pytest.approx(2.0 - 0.999**2000, abs=0.01)
    assert float(mean.state_dict()["weight"]) == pytest.approx(2.0 - 0.999**2000, rel=1e-4)
    assert mean.count_bytes() == 6
    mean.take(model)
    assert mean.state_dict()["weight"].dtype == dtype
