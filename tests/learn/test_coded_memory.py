"""The default's memory in integers, as a learner's user meets it."""

import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import DataError, SettingError, ShapeMismatch
from nestling.memory import RidgeMemory
from nestling.memory.coded.coded_features import CodedFeatures

Pair = tuple[Tensor, Tensor]


def make_net(num_inputs: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(num_inputs, 16), nn.ReLU(), nn.Linear(16, 10))


class TakeFirst(nn.Module):
    """Takes inputs of any size: so it is the memory that has to refuse them."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :16]


def learn_all(learner: nl.Learner, x: Tensor, y: Tensor, size: int = 32) -> None:
    for rows in torch.arange(len(x)).split(size):
        learner.learn(x[rows], y[rows])


def read_memory(learner: nl.Learner) -> RidgeMemory:
    bank = learner.levels["memory"].bank  # type: ignore[attr-defined]
    memory: RidgeMemory = bank.memories[0]
    return memory


@pytest.fixture(scope="module")
def digits() -> Pair:
    x, y, _, _ = nl.data.load("digits")
    return x, y


def test_what_was_found_is_said_once(digits: Pair, caplog: pytest.LogCaptureFixture) -> None:
    x, y = digits
    with caplog.at_level(logging.INFO, logger="nestling"):
        learner = nl.Learner(make_net())
        learn_all(learner, x[:300], y[:300], 100)
    said = [record.getMessage() for record in caplog.records if "sees" in record.getMessage()]
    assert len(said) == 1
    assert "images of 1 x 8 x 8 (found in flat inputs" in said[0]


def test_images_by_their_shape_need_not_be_guessed(digits: Pair) -> None:
    x, y = digits
    learner = nl.Learner(make_net())
    learn_all(learner, x[:64].reshape(-1, 1, 8, 8), y[:64], 1)
    features = learner.levels["memory"].bank.features  # type: ignore[attr-defined]
    assert isinstance(features, CodedFeatures)
    assert features.image is not None
    assert features.image.roughness is None


def test_sums_are_the_same_bits_in_any_order_of_batches(digits: Pair) -> None:
    x, y = digits
    learners = []
    for seed, size in ((None, 64), (1, 7), (2, 300)):
        # The first batch chooses the scale of the inputs; all others in any order.
        order = torch.arange(len(x))
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            order[64:] = 64 + torch.randperm(len(x) - 64, generator=generator)
        learner = nl.Learner(make_net(), num_classes=10)
        learner.learn(x[:64], y[:64])
        learn_all(learner, x[order[64:]], y[order[64:]], size)
        learners.append(learner)
    wanted = read_memory(learners[0]).read_sums()
    for learner in learners[1:]:
        found = read_memory(learner).read_sums()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_answers_include_the_last_example(digits: Pair) -> None:
    x, y = digits
    plan = nl.Plan(
        nl.Memory("memory", on="input", half_lives=(math.inf,), features="auto", block=256),
        nl.Level("network", match=["*"]),
        readout="memory",
    )
    learner = nl.Learner(make_net(), plan, num_classes=10)
    learn_all(learner, x[:700], y[:700])
    learner.predict(x[:1])
    for i in range(700, 706):
        learner.learn(x[i : i + 1], (y[i : i + 1] + 1) % 10)
        fresh = learner.predict_proba(x[i : i + 1])
        alone = nl.Learner(make_net(), plan, num_classes=10)
        learn_all(alone, x[:700], y[:700])
        learn_all(alone, x[700 : i + 1], (y[700 : i + 1] + 1) % 10)
        exact = alone.predict_proba(x[i : i + 1])
        torch.testing.assert_close(fresh, exact, rtol=0.0, atol=1e-5)


def test_inputs_beyond_the_scale_are_clipped_and_said_once(
    digits: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    x, y = digits
    learner = nl.Learner(make_net())
    learner.learn(x[:100], y[:100])
    with caplog.at_level(logging.WARNING, logger="nestling"):
        for start in range(100, 900, 100):
            learner.learn(3.0 * x[start : start + 100], y[start : start + 100])
    said = [one.getMessage() for one in caplog.records if "beyond the scale" in one.getMessage()]
    assert len(said) == 1
    assert "bring all inputs to one scale" in said[0]
    assert learner.predict(x[:3]).shape == (3,)


def test_fractions_among_pixels_change_nothing(digits: Pair) -> None:
    x, y = digits
    pixels = (x / x.max() * 255).round()
    learner = nl.Learner(make_net())
    learn_all(learner, pixels[:300], y[:300])
    before = learner.levels.digests()
    with pytest.raises(DataError, match="whole pixels"):
        learner.learn(x[:10] / x.max(), y[:10])
    assert learner.levels.digests() == before


@pytest.mark.parametrize("shape", [(10, 1, 9, 9), (10, 3, 8, 8), (10, 65)])
def test_another_size_is_refused_in_one_line(digits: Pair, shape: tuple[int, ...]) -> None:
    x, y = digits
    learner = nl.Learner(nn.Sequential(nn.Flatten(), TakeFirst(), nn.Linear(16, 10)))
    learn_all(learner, x[:64], y[:64])
    before = learner.levels.digests()
    with pytest.raises(ShapeMismatch, match="inputs of shape"):
        learner.learn(torch.rand(shape), y[:10])
    assert learner.levels.digests() == before


def test_constant_images_are_learned(digits: Pair) -> None:
    _, y = digits
    learner = nl.Learner(make_net())
    learn_all(learner, torch.zeros(100, 1, 8, 8), y[:100])
    answer = learner.predict_proba(torch.zeros(2, 1, 8, 8))
    assert bool(answer.isfinite().all())


def test_a_flat_input_that_can_be_no_image(digits: Pair) -> None:
    _, y = digits
    plan = nl.Plan(
        nl.Memory("memory", on="input", half_lives=(math.inf,), features="image"),
        nl.Level("network", match=["*"]),
        readout=nl.mix("memory", "live"),
    )
    learner = nl.Learner(make_net(63), plan)
    before = learner.levels.digests()
    with pytest.raises(SettingError, match=r"no square image"):
        learner.learn(torch.rand(20, 63), y[:20])
    assert learner.levels.digests() == before
    numbers = nl.Learner(make_net(63))
    numbers.learn(torch.rand(20, 63), y[:20])  # by default they are numbers
    features = numbers.levels["memory"].bank.features  # type: ignore[attr-defined]
    assert isinstance(features, CodedFeatures)
    assert features.image is None


def test_it_goes_on_bit_for_bit_from_a_snapshot(digits: Pair, tmp_path: Path) -> None:
    x, y = digits
    learners = [nl.Learner(make_net(), num_classes=10) for _ in range(2)]
    learn_all(learners[0], x[:500], y[:500])
    learners[0].predict(x[:5])
    learners[0].snapshot(tmp_path / "half")
    learners[1].restore(tmp_path / "half")
    for learner in learners:
        learn_all(learner, x[500:900], y[500:900])
    one, other = (learner.levels.digests() for learner in learners)
    assert one == other
    answers = [learner.predict_proba(x[:50]) for learner in learners]
    torch.testing.assert_close(*answers, rtol=0.0, atol=1e-9)


def test_half_lives_and_weights_beside_whole_numbers(digits: Pair) -> None:
    x, y = digits
    plan = nl.Plan(
        nl.Memory("memory", on="input", half_lives=(100.0, math.inf), features="auto"),
        nl.Level("network", match=["*"]),
        readout="memory",
    )
    learner = nl.Learner(make_net(), plan, num_classes=10)
    learn_all(learner, x[:400], y[:400])
    fading, endless = learner.levels["memory"].bank.memories  # type: ignore[attr-defined]
    with pytest.raises(SettingError, match="float64"):
        fading.read_sums()
    assert int(endless.read_sums()["counts"].sum()) == 400
    learner.learn(x[400:420], y[400:420], weight=torch.full((20,), 0.5))
    endless = learner.levels["memory"].bank.memories[1]  # type: ignore[attr-defined]
    assert endless.weight == 410.0
    with pytest.raises(SettingError, match="float64"):
        endless.read_sums()  # from the first weight on that is no whole number


def test_the_size_of_a_memory(digits: Pair) -> None:
    x, y = digits
    sizes = {}
    for size in ("default", "large"):
        memory = nl.Memory(
            "memory", on="input", half_lives=(math.inf,), features="image", size=size
        )
        learner = nl.Learner(
            make_net(), nl.Plan(memory, nl.Level("network", match=["*"]), readout="memory")
        )
        learner.learn(x[:64], y[:64])
        sizes[size] = learner.levels["memory"].bank.features.num_outputs  # type: ignore[attr-defined]
    assert sizes == {"default": 1504, "large": 4000}


def test_several_places_cannot_be_read_in_integers() -> None:
    with pytest.raises(SettingError, match="let it read one"):
        nl.Memory("memory", on=("input", "1"), features="auto")
