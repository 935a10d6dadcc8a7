"""Measurements with known answers, and plans that follow from them."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import DataError, NonFiniteInput, SettingError, ShapeMismatch
from nestling.jobs.suggest import (
    GroupMeasurement,
    Linearity,
    Measurements,
    measure_model,
    suggest_plan,
)
from nestling.jobs.suggest.grouping import list_groups
from nestling.jobs.suggest.rates import choose_period, choose_rate
from nestling.levels import assign_levels
from nestling.models import mlp


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_net(num_inputs: int = 6, num_outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return mlp([num_inputs, 16, 16, num_outputs])


def make_data(num: int = 200, num_inputs: int = 6) -> tuple[Tensor, Tensor]:
    x = draw(num, num_inputs)
    return x, x[:, :3].argmax(dim=1)


def make_block(name: str = "trunk", **changed: float) -> GroupMeasurement:
    block = GroupMeasurement(name, f"{name}.*", 100, 1.0, 0.5, 0.5, 1.0, 0.5)
    return replace(block, **changed)


def make_measurements(
    *blocks: GroupMeasurement, features: float | None = 0.9, input_random: float | None = 0.8
) -> Measurements:
    read = Linearity(0.7, input_random, features, features, 0.0, 0.0, 800, 90)
    blocks = blocks or (make_block(), make_block("head"))
    return Measurements(300, 3, 32, "head", blocks, read)


# --- measuring


def test_halves_with_opposite_targets_conflict_and_equal_ones_agree() -> None:
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    x = draw(100, 4).repeat(2, 1)
    value = x[:100, :1]
    for sign, cosine in ((-1.0, -1.0), (1.0, 1.0)):
        # One batch per example leaves no noise: the halves' gradients are minus each other.
        measured = measure_model(model, x, torch.cat([value, sign * value]), batch_size=1)
        assert measured.groups[0].conflict == pytest.approx(cosine, abs=0.25)


def test_signal_and_noise_of_a_known_gradient() -> None:
    # loss = (w - y)^2 at w = 0: the gradient of one example is -2 y, of mean -2 and deviation 2.
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight.expand(len(x), 1)

    y = 1.0 + draw(4000, seed=3)
    measured = measure_model(
        Constant(), draw(4000, 2), y, batch_size=16, num_batches=200, max_examples=4000
    )
    block = measured.groups[0]
    assert block.signal == pytest.approx(2.0, rel=0.1)
    assert block.noise == pytest.approx(2.0 / math.sqrt(16), rel=0.15)
    assert block.snr == pytest.approx(4.0, rel=0.2)
    assert (measured.head, measured.linearity.features) == (None, None)


def test_noise_is_stated_for_the_planned_batch_though_examples_are_few() -> None:
    x, y = make_data(2000)
    large = measure_model(make_net(), x, y, batch_size=100)
    few = measure_model(make_net(), x[:200], y[:200], batch_size=100)  # batches of 25
    for one, other in zip(large.groups, few.groups, strict=True):
        assert other.noise == pytest.approx(one.noise, rel=0.35)


def test_a_block_without_gradient_has_no_signal_and_no_importance() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.net = nn.Linear(3, 3), make_net()

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.net(x)
            return answer

    idle, *others = measure_model(Idle(), *make_data()).groups
    assert (idle.name, idle.snr, idle.conflict, idle.fisher_share) == ("idle", 0.0, 0.0, 0.0)
    assert all(one.snr > 0.0 and one.fisher > 0.0 for one in others)
    assert sum(one.fisher_share for one in others) == pytest.approx(1.0)


def test_linear_data_are_linear_and_products_need_random_features() -> None:
    x = draw(600, 4)
    linear = measure_model(make_net(4, 1), x, x @ draw(4, 1, seed=1)).linearity
    assert linear.input is not None
    assert linear.input > 0.999
    product = measure_model(make_net(4, 1), x, x[:, 0] * x[:, 1]).linearity
    assert product.input is not None
    assert product.input_random is not None
    assert product.input < 0.1
    assert product.input_random > 0.8


def test_features_that_hold_the_answer_score_above_the_input() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.head((x[:, 0] * x[:, 1])[:, None])
            return answer

    x = draw(300, 20)
    measured = measure_model(Product(), x, x[:, 0] * x[:, 1])
    assert measured.linearity.features == pytest.approx(1.0, abs=1e-6)
    assert suggest_plan(measured).plan.memories[0].on is None


def test_the_model_is_left_bitwise_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    model[1].eval()
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    before = copy.deepcopy(model.state_dict())
    drawn = torch.get_rng_state()
    x, y = make_data()  # three classes: the head grows, on the copy
    measured = measure_model(model, x, y)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(bool((param.grad == 1).all()) for param in model.parameters())
    assert [part.training for part in model] == [True, False, True, True]
    assert not any(part._forward_hooks for part in model.modules())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert measured.groups[-1].num_weights == 8 * 3 + 3


def test_the_same_seed_measures_the_same() -> None:
    x, y = make_data()
    assert measure_model(make_net(), x, y, seed=1) == measure_model(make_net(), x, y, seed=1)


def test_a_long_stream_is_measured_from_end_to_end() -> None:
    # A new class from the middle on: measuring the first rows alone would not see it.
    x = draw(400, 6)
    y = torch.cat([(x[:200, 0] > 0).long(), torch.full((200,), 2)])
    head = measure_model(make_net(), x, y, max_examples=100).groups[-1]
    assert head.conflict < 0.0
    assert measure_model(make_net(), x, y, max_examples=100).num_examples == 400


def test_outputs_in_a_dict_and_frozen_parameters() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()
            self.net.trunk.requires_grad_(False)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(x)}

    measured = measure_model(Wrapped(), *make_data())
    assert [block.name for block in measured.groups] == ["net.head"]
    assert measured.groups[0].fisher_share == pytest.approx(1.0)


def test_blocks_are_opened_from_the_largest_and_the_head_stands_alone() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.ModuleDict(
        {
            "embed": nn.Linear(4, 8),
            "blocks": nn.TransformerEncoder(layer, 12, enable_nested_tensor=False),
            "out": nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)),
        }
    )
    names = [group.name for group in list_groups(model, "out.2")]
    inside = [f"blocks.layers.{index}" for index in range(12)]
    assert names == ["embed", *inside, "out.0", "out.2"]
    few = list_groups(model, "out.2", max_groups=4)
    assert [group.name for group in few] == ["embed", "blocks.layers", "out.0", "out.2"]
    assert sum(group.num_weights for group in few) == sum(p.numel() for p in model.parameters())


# --- choosing


@given(st.floats(0.0, 1e6), st.floats(0.0, 1e6))
def test_a_weaker_signal_never_has_a_shorter_period(snr: float, other: float) -> None:
    low, high = sorted((snr, other))
    assert 1 <= choose_period(high) <= choose_period(low) <= 64
    assert math.log2(choose_period(snr)).is_integer()


@given(st.floats(0.0, 10.0), st.integers(1, 64), st.floats(-1.0, 1.0))
def test_rates_stay_between_a_quarter_and_the_base(snr: float, period: int, cos: float) -> None:
    assert 2.5e-4 <= choose_rate(1e-3, snr, period, cos) <= 1e-3


def test_features_worth_keeping_get_a_fast_head_and_a_slow_spine() -> None:
    plan = suggest_plan(make_measurements()).plan
    memory, (head, spine) = plan.memories[0], plan.gradient_levels
    assert (memory.on, memory.include_read, memory.num_features) == (None, True, 800)
    assert (head.match, spine.match) == (("head.*",), ("trunk.*",))
    assert spine.optimizer.lr < head.optimizer.lr


def test_features_that_are_worse_leave_the_memory_on_the_input() -> None:
    plan = suggest_plan(make_measurements(features=0.7)).plan
    assert (plan.memories[0].on, plan.memories[0].include_read) == ("input", False)
    assert [level.match for level in plan.gradient_levels] == [("*",)]
    # Within the margin they are kept.
    assert suggest_plan(make_measurements(features=0.796)).plan.memories[0].on is None


def test_what_a_memory_still_gains_counts() -> None:
    measured = make_measurements(features=0.8)
    assert suggest_plan(measured).plan.memories[0].on is None
    gaining = replace(measured.linearity, input_trend=0.1)
    assert suggest_plan(replace(measured, linearity=gaining)).plan.memories[0].on == "input"


def test_random_features_that_harm_are_left_out() -> None:
    measured = make_measurements()
    harmed = replace(measured, linearity=replace(measured.linearity, features_random=0.85))
    suggestion = suggest_plan(harmed)
    assert suggestion.plan.memories[0].num_features == 0
    assert "-0.050" in suggestion.reasons[1].reason


def test_noise_conflict_and_fisher_slow_a_block_down() -> None:
    noisy = make_block("a", signal=0.125, noise=0.5)
    fighting = make_block("b", conflict=-0.5)
    vital = make_block("c", fisher=50.0, fisher_share=0.9)
    suggestion = suggest_plan(make_measurements(noisy, fighting, vital, make_block("head")))
    levels = {level.match: level for level in suggestion.plan.gradient_levels}
    assert [levels[(f"{name}.*",)].period for name in "abc"] == [16, 1, 4]
    assert levels[("b.*",)].optimizer.lr == pytest.approx(5e-5)
    said = {(one.level, one.choice): one.reason for one in suggestion.reasons}
    assert "0.25" in said["spine-16", "period"]
    assert "-0.50" in said["spine-1", "lr"]
    assert "0.90" in said["spine-4", "period"]
    assert "block b" in said["learner", "replay"]


def test_without_conflict_nothing_beyond_the_plan_is_advised() -> None:
    assert "learner" not in [one.level for one in suggest_plan(make_measurements()).reasons]


def test_where_nothing_can_be_read_the_plan_is_refused() -> None:
    measured = replace(make_measurements(features=None, input_random=None), head=None)
    with pytest.raises(SettingError, match="no memory can read"):
        suggest_plan(measured)


@pytest.mark.parametrize("values", [False, True])
def test_a_suggested_plan_survives_toml_and_learns(values: bool) -> None:
    x, y = make_data(240)
    y = x[:, :1] * 2 if values else y
    model = make_net(num_outputs=1 if values else 3)
    measured = measure_model(model, x, y)
    suggestion = suggest_plan(measured)
    plan = nl.Plan.from_toml(suggestion.plan.to_toml())
    assert plan == suggestion.plan
    claimed = assign_levels(model, plan)
    assert sum(map(len, claimed.values())) == len(list(model.parameters()))
    learner = nl.Learner(model, plan)
    learner.fit(list(zip(x[:200].split(20), y[:200].split(20), strict=True)), epochs=3)
    assert learner.evaluate(x[200:], y[200:]) > 0.7
    named = {one.level for one in suggestion.reasons} - {"learner"}
    assert named == {level.name for level in plan.levels}
    score = measured.linearity.input_random
    assert f"{score:.3f}" in suggestion.reasons[0].reason


def test_a_model_of_words_keeps_its_features() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(32, 16), nn.Linear(16, 2))
    x = torch.randint(0, 20, (120, 4), generator=torch.Generator().manual_seed(0))
    suggestion = suggest_plan(measure_model(model, x, (x[:, 0] > 9).long()))
    assert suggestion.plan.memories[0].on is None
    assert "no numbers" in suggestion.reasons[0].reason


# --- what cannot be measured


def test_bad_input_is_named() -> None:
    x, y = make_data()
    wrong = x.clone()
    wrong[3, 1] = math.nan
    cases: list[tuple[Tensor, Tensor, type[Exception], str]] = [
        (x[:19], y[:19], DataError, "19 examples"),
        (x, torch.zeros_like(y), DataError, "class 0"),
        (x, torch.ones(200), DataError, "nothing to learn"),
        (x, y - 1, DataError, "-1"),
        (wrong, y, NonFiniteInput, "NaN"),
        (x, x[:, 0] / 0.0, NonFiniteInput, "targets"),
        (x[:50], y, ShapeMismatch, "length"),
        (x, torch.stack([y, y], 1), ShapeMismatch, "classes of shape"),
        (x[:, :5], y, DataError, "cannot take"),
        (x, x[:, :2], ShapeMismatch, "targets"),
    ]
    for inputs, targets, kind, said in cases:
        with pytest.raises(kind, match=said):
            measure_model(make_net(), inputs, targets)


def test_models_that_cannot_be_measured_are_named() -> None:
    x, y = make_data()
    with pytest.raises(SettingError, match="no trainable parameter"):
        measure_model(make_net().requires_grad_(False), x, y)
    broken = make_net()
    with torch.no_grad():
        broken.head.bias.fill_(math.nan)
    with pytest.raises(NonFiniteInput, match="answers"):
        measure_model(broken, x, y)
