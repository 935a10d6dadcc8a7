"""A level stays within its bounds per update, per day and since its validation."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import nestling as nl
from governed_nets import Clock, Net, copy_weights, digest, draw, make_optimizer, measure, take_step
from nestling.core.errors import ClockError, SettingError, UnknownLevel
from nestling.levels import Bounded, ChangeBounds
from nestling.levels.bounds import measure_distance, measure_norm, pull_within


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("radius", [1e-4, 0.03, 2.0, 1e3])
def test_pulled_into_the_ball_and_no_further(dtype: torch.dtype, radius: float) -> None:
    generator = torch.Generator().manual_seed(1)
    anchor = [torch.randn(s, generator=generator).to(dtype) for s in ((50, 20), (7,))]
    values = [(a + 0.5 * torch.randn(a.shape, generator=generator)).to(dtype) for a in anchor]
    given, before = [v.clone() for v in values], measure_distance(values, anchor)
    found, is_pulled = pull_within(values, anchor, radius)
    assert found == measure_distance(values, anchor) <= radius
    assert is_pulled == (before > radius)
    if not is_pulled:
        assert all(torch.equal(a, b) for a, b in zip(values, given, strict=True))
    elif dtype != torch.bfloat16:
        assert found >= radius * (1.0 - 1e-3), "pulled further than needed"
        direction = [(g - a) * (radius / before) for g, a in zip(given, anchor, strict=True)]
        wanted = [a + d for a, d in zip(anchor, direction, strict=True)]
        assert measure_distance(values, wanted) <= radius * 1e-2


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("period", [1, 3])
@pytest.mark.parametrize("bound", [0.5, 0.004, 1e-4])
def test_an_update_is_scaled(optimizer: str, period: int, bound: float) -> None:
    model = Net()
    nested = make_optimizer(model, lr=0.2, optimizer=optimizer, period=period)
    nested.levels.bind("spine", ChangeBounds(per_update=bound), Clock())
    largest = 0.0
    for step in range(1, 31):
        spine = {n: v for n, v in copy_weights(model).items() if n[0] in "01"}
        take_step(model, nested, step)
        moved = measure(model, spine, "")
        assert moved <= bound + 1e-6
        largest = max(largest, moved)
    assert largest >= min(bound, 0.004) * 0.99, "a bound that bites leaves what it allows"


def test_a_wide_bound_changes_no_bit() -> None:
    plain, bound = Net(), Net()
    nested = [make_optimizer(plain, optimizer="adamw"), make_optimizer(bound, optimizer="adamw")]
    wide = ChangeBounds(per_update=50.0, per_day=50.0, since_validation=50.0)
    nested[1].levels.bind("spine", wide, Clock())
    for step in range(1, 40):
        take_step(plain, nested[0], step)
        take_step(bound, nested[1], step)
    assert digest(plain) == digest(bound)


def test_the_first_scaled_update_points_where_the_plain_one_does() -> None:
    plain, bound = Net(), Net()
    before = {n: v for n, v in copy_weights(plain).items() if n[0] in "01"}
    nested = [make_optimizer(plain), make_optimizer(bound)]
    nested[1].levels.bind("spine", ChangeBounds(per_update=1e-3), Clock())
    for model, one in zip((plain, bound), nested, strict=True):
        take_step(model, one, 1)
    moves = [
        torch.cat([(dict(model.named_parameters())[n] - v).flatten() for n, v in before.items()])
        for model in (plain, bound)
    ]
    cosine = nn.functional.cosine_similarity(moves[0], moves[1], dim=0)
    assert cosine > 0.9999


def test_a_day_is_bounded_and_the_next_begins_anew() -> None:
    model, clock = Net(), Clock()
    nested = make_optimizer(model, lr=0.2)
    nested.levels.bind("spine", ChangeBounds(per_day=0.01), clock)
    start = {n: v for n, v in copy_weights(model).items() if n[0] in "01"}
    anchor = start
    for step in range(1, 91):
        clock.at += 86_400.0 / 30.0
        if step % 30 == 1:  # a day of 30 steps from its first update
            anchor = {n: v for n, v in copy_weights(model).items() if n[0] in "01"}
        take_step(model, nested, step)
        assert measure(model, anchor, "") <= 0.01 + 1e-6
    assert measure(model, start, "") > 0.012, "three days may move it further than one"
    events = [e for e in nested.take_events() if isinstance(e, Bounded)]
    assert [e.kind for e in events] == ["per day"] * 3, "an event a day, not one a step"
    assert "0.01" in events[0].message
    assert events[0].level == "spine"
    assert nested.levels.gradient["spine"].budget.counts["per day"] > 30  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore::nestling.levels.LevelAlarm")
@pytest.mark.parametrize("validates_at", [0, 17, 40])
def test_all_three_bounds_hold_at_once(validates_at: int) -> None:
    """Also where the day is older than the validation, and where it is younger."""
    model, clock = Net(), Clock()
    nested = make_optimizer(model, lr=0.3, optimizer="sgd")
    nested.levels.bind("spine", ChangeBounds(0.02, 0.06, 0.1), clock)
    validated = day = {n: v for n, v in copy_weights(model).items() if n[0] in "01"}
    for step in range(1, 81):
        clock.at += 86_400.0 / 25.0
        before = {n: v for n, v in copy_weights(model).items() if n[0] in "01"}
        if step % 25 == 1:
            day = before
        take_step(model, nested, step)
        assert measure(model, before, "") <= 0.02 + 1e-6
        assert measure(model, day, "") <= 0.06 + 1e-6
        assert measure(model, validated, "") <= 0.1 + 1e-6
        if step == validates_at:
            nested.levels.mark_validated(by="anna", at=clock.at)
            validated = {n: v for n, v in copy_weights(model).items() if n[0] in "01"}


def test_weights_moved_from_outside_are_measured_anew() -> None:
    model = Net()
    nested = make_optimizer(model, lr=0.01)
    nested.levels.bind("spine", ChangeBounds(per_day=0.1), Clock())
    take_step(model, nested, 1)
    day = {n: v for n, v in copy_weights(model).items() if n[0] in "01"}
    with torch.no_grad():
        model[0].weight.mul_(3.0)
    take_step(model, nested, 2)
    assert measure(model, day, "") <= 0.1 + 0.02


@pytest.mark.filterwarnings("ignore::nestling.levels.LevelAlarm")
def test_a_clock_that_goes_back_is_refused_before_anything_is_changed() -> None:
    model, clock = Net(), Clock(2e9)
    nested = make_optimizer(model, optimizer="adamw", period=2)
    nested.levels.bind("spine", ChangeBounds(per_day=0.1), clock)
    for step in range(1, 4):
        take_step(model, nested, step)
    before, state = digest(model), repr(nested.state_dict())
    clock.at -= 1.0
    model.eval()  # so that the forward pass moves no statistic
    with pytest.raises(ClockError, match=r"1999999999 after it said 2000000000\.0.*set it right"):
        take_step(model, nested, 4)
    assert (digest(model), repr(nested.state_dict())) == (before, state)
    clock.at += 1.0
    take_step(model, nested, 4)
    assert nested.num_steps == 4


@pytest.mark.filterwarnings("ignore::nestling.levels.LevelAlarm")
def test_resumes_bit_for_bit_in_the_middle_of_a_day(tmp_path: Path) -> None:
    def make(clock: Clock, is_bound: bool) -> nl.Learner:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        plan = nl.Plan(nl.Level("spine", match=["*"], optimizer=nl.adamw(lr=0.05)))
        learner = nl.Learner(model, plan, num_classes=3)
        if is_bound:
            bounds = ChangeBounds(per_update=0.02, per_day=0.1, since_validation=0.2)
            learner.levels.bind("spine", bounds, clock)
        return learner

    clock = Clock()
    whole = make(clock, is_bound=True)
    for step in range(20):
        clock.at += 5000.0
        whole.learn(*draw(step))
    whole.snapshot(tmp_path / "a")
    for is_bound in (True, False):  # bounds come with the snapshot
        other = make(clock, is_bound)
        other.restore(tmp_path / "a")
        assert repr(other.state_dict()) == repr(whole.state_dict())
        other.levels.bind("spine", ChangeBounds(0.02, 0.1, 0.2), clock)
        twin, start = whole.copy(), clock.at
        for step in range(20, 60):
            twin.levels.gradient["spine"].budget.now = clock  # type: ignore[union-attr]
            clock.at += 5000.0
            reports = [one.learn(*draw(step)) for one in (twin, other)]
            assert reports[0].events == reports[1].events
        assert twin.levels.digests() == other.levels.digests()
        clock.at = start


def test_a_state_without_bounds_has_its_old_layout() -> None:
    nested = make_optimizer(Net())
    assert "guard" not in nested.state_dict()["state"]["levels"]["spine"]
    assert "governed" not in nested.state_dict()["state"]


@pytest.mark.parametrize("value", [0.0, -0.1, math.inf, math.nan, "much"])
def test_a_bound_is_a_number_above_zero(value: object) -> None:
    with pytest.raises(SettingError, match="per_day"):
        ChangeBounds(per_day=value)  # type: ignore[arg-type]


def test_only_gradient_levels_with_weights_can_be_bound() -> None:
    model = Net()
    nested = make_optimizer(model)
    with pytest.raises(UnknownLevel, match="did you mean 'spine'"):
        nested.levels.bind("spin", ChangeBounds(), Clock())
    copies = nl.NestedOptimizer(
        Net(), nl.Plan(nl.Level("a", match=["*"]), nl.Copy("b", of=["a"], decay=0.9))
    )
    with pytest.raises(SettingError, match="only gradient levels can be bound"):
        copies.levels.bind("b", ChangeBounds(per_day=0.1), Clock())
    with torch.no_grad():
        for param in model[5].parameters():
            param.zero_()
    with pytest.raises(SettingError, match="all zero"):
        nested.levels.bind("head", ChangeBounds(per_day=0.1), Clock())
    with pytest.raises(ClockError, match="says nan"):
        nested.levels.bind("spine", ChangeBounds(per_day=0.1), lambda: math.nan)
    assert all(level.budget is None for level in nested.levels.gradient.values())


def test_norms_are_added_up_wide() -> None:
    values = [torch.full((1_000_000,), 0.1)]
    assert abs(measure_norm(values) - 100.0) < 2e-6
