"""Outer rules write back as their equations say, and never into what stands still."""

import copy as copying
import io
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nestling as nl
from governed_nets import Clock, Net, copy_weights, make_optimizer, measure, take_step
from nestling.core.errors import MismatchedParameters, NestlingError, SettingError
from nestling.levels import Bounded, Braked, ChangeBounds, NestedOptimizer, Refusal
from nestling.levels.copies import CopyLevel
from nestling.levels.outer_rules import AnyRule, measure_charge

RULES: dict[str, AnyRule] = {
    "lookahead": nl.lookahead(rate=0.5),
    "reset": nl.lookahead(rate=0.8, reset_inner=True),
    "nesterov": nl.outer_nesterov(lr=0.7, momentum=0.9),
    "beakers": nl.beakers(3, shortest=10, longest=200),
}
INNER: dict[str, tuple[object, Callable[..., torch.optim.Optimizer]]] = {
    "sgd": (
        nl.sgd(lr=0.1, momentum=0.9),
        lambda params: torch.optim.SGD(params, 0.1, momentum=0.9, fused=True),
    ),
    "adamw": (nl.adamw(lr=0.05), lambda params: torch.optim.AdamW(params, 0.05, fused=True)),
}
every_rule = pytest.mark.parametrize("rule", RULES)


def make_net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def find_loss(model: nn.Module, step: int) -> Tensor:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
    x = x.to(next(model.parameters()).dtype)
    return torch.as_tensor((model(x) - x[:, :2].square()).square().mean())


def take(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    optimizer.zero_grad()
    find_loss(model, step).backward()
    optimizer.step()


def nest(
    model: nn.Module,
    rule: AnyRule | None,
    inner: object = None,
    period: int = 3,
    *more: nl.Copy,
    **level: object,
) -> NestedOptimizer:
    """One level "all" and a copy "slow" of it."""
    inner = nl.sgd(lr=0.1) if inner is None else inner
    one = nl.Level("all", match=["*"], optimizer=inner, band=(0.0, 1e9), **level)  # type: ignore[arg-type]
    slow = () if rule is None else (nl.Copy("slow", of="all", period=period, rule=rule),)
    return NestedOptimizer(model, nl.Plan(one, *slow, *more))


def read_slow(nested: NestedOptimizer) -> CopyLevel:
    return nested.levels.copies["slow"]


def is_equal(left: nn.Module, right: nn.Module) -> bool:
    return all(map(torch.equal, left.parameters(), right.parameters()))


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("rate", [0.3, 0.5, 0.8])
def test_lookahead_is_the_plain_loop_bit_for_bit(inner: str, rate: float) -> None:
    model, twin = make_net(), make_net()
    nested = nest(model, nl.lookahead(rate), INNER[inner][0], period=5)
    optimizer = INNER[inner][1](twin.parameters())
    slow = [param.detach().clone() for param in twin.parameters()]
    for step in range(1, 24):
        take(model, nested, step)
        take(twin, optimizer, step)
        if step % 5 == 0:
            for phi, theta in zip(slow, twin.parameters(), strict=True):
                phi += rate * (theta.detach() - phi)
                theta.data.copy_(phi)
        assert is_equal(model, twin)
    found = nested.copy_values("slow").values()
    assert all(map(torch.equal, found, slow))
    assert not is_equal(model, make_net())


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (1.0, 0.5), (0.3, 0.1)])
def test_outer_nesterov_is_the_plain_loop_bit_for_bit(
    inner: str, lr: float, momentum: float
) -> None:
    model, twin = make_net(), make_net()
    nested = nest(model, nl.outer_nesterov(lr, momentum), INNER[inner][0], period=4)
    optimizer = INNER[inner][1](twin.parameters())
    slow = [param.detach().clone() for param in twin.parameters()]
    velocity = [torch.zeros_like(param) for param in slow]
    for step in range(1, 24):
        take(model, nested, step)
        take(twin, optimizer, step)
        if step % 4 == 0:
            for w, b, fast in zip(slow, velocity, twin.parameters(), strict=True):
                s = w - fast.detach()
                b.copy_(momentum * b + s)
                w -= lr * (momentum * b + s)
                fast.data.copy_(w)
        assert is_equal(model, twin)
    hidden = read_slow(nested).hidden["velocity"].values()
    assert all(map(torch.equal, hidden, velocity))


def test_it_follows_torch_nesterov_on_the_pseudo_gradient() -> None:
    model, twin = make_net(), make_net()
    nested = nest(model, nl.outer_nesterov(0.6, 0.8), period=2)
    outer = torch.optim.SGD(twin.parameters(), 0.6, momentum=0.8, nesterov=True)
    for step in range(1, 11, 2):
        fast = copying.deepcopy(twin)
        for one in (step, step + 1):
            take(model, nested, one)
            take(fast, torch.optim.SGD(fast.parameters(), 0.1), one)
        for slow, moved in zip(twin.parameters(), fast.parameters(), strict=True):
            slow.grad = (slow - moved).detach()
        outer.step()
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)


@settings(deadline=None, max_examples=15)
@given(st.floats(0.01, 1.0), st.integers(1, 6))
def test_without_momentum_it_is_lookahead(rate: float, period: int) -> None:
    both = make_net(torch.float32), make_net(torch.float32)
    rules = nl.lookahead(rate), nl.outer_nesterov(lr=rate, momentum=0.0)
    nests = [nest(m, rule, period=period) for m, rule in zip(both, rules, strict=True)]
    for step in range(1, 13):
        for model, nested in zip(both, nests, strict=True):
            take(model, nested, step)
        assert is_equal(*both)


@pytest.mark.parametrize("inner", INNER)
def test_at_rate_1_training_is_what_it_is_without(inner: str) -> None:
    model, twin = make_net(torch.float32), make_net(torch.float32)
    nested, plain = (
        nest(model, nl.lookahead(1.0), INNER[inner][0]),
        nest(twin, None, INNER[inner][0]),
    )
    for step in range(1, 13):
        take(model, nested, step)
        take(twin, plain, step)
    assert is_equal(model, twin)


def test_moments_are_kept_unless_they_are_reset() -> None:
    for rule, kept in (("lookahead", True), ("reset", False), ("nesterov", True)):
        model = make_net()
        nested = nest(model, RULES[rule], INNER["sgd"][0], period=4)
        for step in range(1, 5):
            take(model, nested, step)
        assert bool(nested.levels.gradient["all"].inner.state) == kept


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 5), st.integers(1, 4), st.floats(8, 20))
def test_only_the_optimizer_changes_the_charge_of_beakers(
    num: int, period: int, shortest: float
) -> None:
    rule = nl.beakers(num, shortest=shortest, longest=300)
    model = make_net(torch.float32)
    nested = nest(model, rule, period=period)
    slow = read_slow(nested)
    charge = measure_charge(slow.parts, rule.chain)
    for step in range(1, 4 * period + 1):
        before = {name: value.double() for name, value in copy_weights(model).items()}
        # Where the optimizer alone has gone, without what is written back.
        twin = copying.deepcopy(model)
        take(twin, torch.optim.SGD(twin.parameters(), 0.1, fused=True), step)
        take(model, nested, step)
        for name, value in copy_weights(twin).items():
            charge[name] = charge[name] + value.double() - before[name]
    for name, value in measure_charge(slow.parts, rule.chain).items():
        torch.testing.assert_close(value, charge[name], rtol=1e-12, atol=1e-12)
    assert not is_equal(model, make_net(torch.float32))


def test_beakers_pull_in_both_directions_and_a_leak_empties() -> None:
    model = nn.Linear(1, 1, bias=False)
    rule = nl.beakers(3, shortest=4, longest=64)
    nn.init.zeros_(model.weight)
    nested = nest(model, rule, nl.sgd(lr=0.0), period=1)
    model.weight.data.fill_(1.0)  # one large write, then nothing more
    for step in range(400):
        nested.zero_grad()
        model(torch.ones(1, 1)).sum().backward()
        nested.step()
        if step == 0:
            assert model.weight.item() == pytest.approx(0.75)  # C = 1, g = 1/4
    share = 1.0 / sum(rule.chain.capacities)  # all beakers equally full
    assert model.weight.item() == pytest.approx(share, rel=1e-3)
    assert nested.copy_values("slow")["weight"].item() == pytest.approx(share, rel=1e-3)
    leaking = nest(model, nl.beakers(3, shortest=4, longest=64, leak=True), nl.sgd(lr=0.0), 1)
    for _ in range(3000):
        leaking.zero_grad()
        model(torch.ones(1, 1)).sum().backward()
        leaking.step()
    assert abs(model.weight.item()) < 1e-3


# --- what stands still


@every_rule
@pytest.mark.parametrize("until", [None, "later"])
def test_a_frozen_level_is_never_written(rule: str, until: str | None) -> None:
    model = Net()
    rules = nl.sgd(lr=0.1)
    windows = () if until else ((7, 12),)
    plan = nl.Plan(
        nl.Level("head", match=["5.*"], optimizer=rules),
        nl.Level(
            "rest", match=["*"], optimizer=rules, freeze=nl.Freeze(windows=windows, until=until)
        ),
        nl.Copy("slow", of=["head", "rest"], period=3, rule=RULES[rule]),
    )
    nested = NestedOptimizer(model, plan)
    still: dict[str, Tensor] = {}
    for step in range(1, 19):
        if step == 7:
            still = copy_weights(model)
            parts = copying.deepcopy(read_slow(nested).parts)
        take_step(model, nested, step)
        if 7 <= step <= 12:
            now = copy_weights(model)
            rest = [name for name in now if not name.startswith("5")]
            assert all(torch.equal(now[name], still[name]) for name in rest)
            assert not torch.equal(now["5.weight"], still["5.weight"])
            for part, before in zip(read_slow(nested).parts, parts, strict=True):
                assert all(torch.equal(part[name], before[name]) for name in rest)
        if step == 12 and until:
            nested.release(until)
    assert not torch.equal(model[0].weight, still["0.weight"])


@every_rule
def test_what_is_held_is_never_written(rule: str) -> None:
    model = make_net()
    nested = nest(model, RULES[rule])
    for step in range(1, 8):
        take(model, nested, step)
    before = copy_weights(model)
    nested.levels.hold(["0.weight"])
    for step in range(8, 20):
        take(model, nested, step)
    after = copy_weights(model)
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["0.bias"], after["0.bias"])
    nested.levels.hold(list(before))
    for step in range(20, 30):
        take(model, nested, step)
    assert all(torch.equal(after[name], value) for name, value in copy_weights(model).items())


@every_rule
def test_a_closed_gate_lets_nothing_in(rule: str) -> None:
    model = make_net()
    gate = nl.DriftGate(steps=5, on="drift", floor=0.0)
    nested = nest(model, RULES[rule], gate=[gate])
    nested.release("drift")
    for step in range(1, 8):
        take(model, nested, step)
    assert nested.levels.gradient["all"].factor == 0.0
    before = copy_weights(model)
    for step in range(8, 20):
        take(model, nested, step)
    assert all(torch.equal(before[name], value) for name, value in copy_weights(model).items())


@pytest.mark.parametrize("rule", ["nesterov", "lookahead", "beakers"])
@pytest.mark.parametrize("bound", [0.5, 0.004, 1e-4])
@pytest.mark.parametrize("by", ["contract", "trust"])
def test_optimizer_and_rule_together_hold_the_bound_of_a_step(
    rule: str, bound: float, by: str
) -> None:
    model = make_net(torch.float32)
    trust = bound if by == "trust" else None
    nested = nest(model, RULES[rule], nl.sgd(lr=0.1), trust=trust)
    if by == "contract":
        nested.levels.bind("all", ChangeBounds(per_update=bound), Clock())
    largest = 0.0
    for step in range(1, 31):
        before = copy_weights(model)
        take(model, nested, step)
        moved = measure(model, before, "")
        assert moved <= bound + 1e-6
        largest = max(largest, moved)
    assert largest >= min(bound, 0.004) * 0.99
    if bound == 1e-4 and by == "contract":
        assert any(isinstance(event, Bounded) for event in nested.take_events())
        assert read_slow(nested).clock.num_updates == 10
    for name, value in nested.copy_values("slow").items():  # the slow weights are where it is
        if rule != "beakers":
            torch.testing.assert_close(value, copy_weights(model)[name])


@pytest.mark.filterwarnings("ignore::nestling.levels.LevelAlarm")  # the budget is used up
@every_rule
def test_days_and_validations_bound_what_is_written(rule: str) -> None:
    model, clock = make_net(torch.float32), Clock()
    nested = nest(model, RULES[rule], nl.sgd(lr=0.3))
    nested.levels.bind("all", ChangeBounds(per_day=0.05, since_validation=0.08), clock)
    start = day = copy_weights(model)
    for step in range(1, 41):
        day = copy_weights(model) if step % 10 == 1 else day
        take(model, nested, step)
        assert measure(model, day, "") <= 0.05 + 1e-6
        assert measure(model, start, "") <= 0.08 + 1e-6
        if step % 10 == 0:
            clock.at += 86_400.0
    assert measure(model, start, "") > 0.07


@every_rule
def test_a_wide_bound_changes_no_bit(rule: str) -> None:
    plain, bound = make_net(torch.float32), make_net(torch.float32)
    nests = [nest(plain, RULES[rule]), nest(bound, RULES[rule])]
    wide = ChangeBounds(per_update=50.0, per_day=50.0, since_validation=50.0)
    nests[1].levels.bind("all", wide, Clock())
    for step in range(1, 40):
        take(plain, nests[0], step)
        take(bound, nests[1], step)
    assert is_equal(plain, bound)


def test_a_rule_that_explodes_is_braked_and_begins_anew() -> None:
    model = make_net(torch.float32)
    nested = nest(model, nl.outer_nesterov(lr=1e4, momentum=0.0), nl.sgd(lr=1e-3), period=25)
    nested.levels.keep_good("all", every=10, explode=0.5)
    for step in range(1, 25):
        take(model, nested, step)
    take(model, nested, 25)
    events = nested.take_events()
    assert [event.level for event in events if isinstance(event, Braked)] == ["all"]
    good = nested.levels.gradient["all"].budget.good["weights"]  # type: ignore[union-attr]
    for name, value in copy_weights(model).items():
        assert torch.equal(value, good[name])
        assert torch.equal(nested.copy_values("slow")[name], value)
    assert read_slow(nested).clock.num_updates == 0


def test_a_brake_in_the_middle_of_a_period_is_not_undone_by_the_slow_weights() -> None:
    model = make_net(torch.float32)
    nested = nest(model, nl.outer_nesterov(), nl.sgd(lr=0.05), period=30)
    nested.levels.keep_good("all", every=10, explode=0.5)
    for step in range(1, 41):
        take(model, nested, step)
    nested.levels.gradient["all"].group["lr"] = 1e5
    take(model, nested, 41)
    nested.levels.gradient["all"].group["lr"] = 0.0
    assert any(isinstance(event, Braked) for event in nested.take_events())
    good = copy_weights(model)
    for step in range(42, 91):
        take(model, nested, step)
    assert all(torch.equal(good[name], value) for name, value in copy_weights(model).items())


def test_a_protected_level_asks_its_judge_about_what_is_written() -> None:
    model = make_net()
    asked: list[str] = []
    allowed = True

    def judge(level: str) -> bool:
        asked.append(level)
        return allowed

    one = nl.Level("all", match=["*"], optimizer=nl.sgd(lr=0.1), protect=True, period=2)
    slow = nl.Copy("slow", of="all", period=3, rule=nl.outer_nesterov())
    nested = NestedOptimizer(model, nl.Plan(one, slow), judge=judge)
    for step in range(1, 7):
        take(model, nested, step)
    assert asked == ["all"] * 5  # at 2, 3, 4, 6, 6
    take(model, nested, 7)
    take(model, nested, 8)
    allowed = False
    before, parts = copy_weights(model), copying.deepcopy(read_slow(nested).parts)
    take(model, nested, 9)
    assert all(torch.equal(before[name], value) for name, value in copy_weights(model).items())
    for part, was in zip(read_slow(nested).parts, parts, strict=True):
        assert all(torch.equal(part[name], was[name]) for name in was)
    (event,) = nested.take_events()
    assert isinstance(event, Refusal)
    assert "rule" in event.reason
    assert nested.read_levels()[0].num_refused == 1


@every_rule
def test_weights_that_are_not_finite_reach_no_slow_weight(rule: str) -> None:
    model = make_net()
    nested = nest(model, RULES[rule])
    for step in range(1, 6):
        take(model, nested, step)
    parts = copying.deepcopy(read_slow(nested).parts)
    model[0].weight.data[0, 0] = torch.nan
    take(model, nested, 6)
    assert [event.level for event in nested.take_events() if isinstance(event, Refusal)] == ["slow"]
    for part, was in zip(read_slow(nested).parts, parts, strict=True):
        assert all(torch.equal(part[name], was[name]) for name in was)


def test_weights_that_were_replaced_are_not_pulled_back() -> None:
    model = make_net()
    nested = nest(model, nl.lookahead(0.5), nl.sgd(lr=0.0))
    fresh = {name: value + 1.0 for name, value in copy_weights(model).items()}
    nested.levels.gradient["all"].load_weights(fresh)
    state = nested.state_dict()
    model_again = make_net()
    model_again.load_state_dict(model.state_dict())
    again = nest(model_again, nl.lookahead(0.5), nl.sgd(lr=0.0))
    again.load_state_dict(state)  # it is remembered
    for one, optimizer in ((model, nested), (model_again, again)):
        for step in range(1, 10):
            take(one, optimizer, step)
        assert all(torch.equal(fresh[name], value) for name, value in copy_weights(one).items())


# --- state


@every_rule
@pytest.mark.parametrize("inner", INNER)
def test_goes_on_bit_for_bit_from_any_step(rule: str, inner: str) -> None:
    model, other = make_net(torch.float32), make_net(torch.float32)
    nested, again = (nest(m, RULES[rule], INNER[inner][0]) for m in (model, other))
    saved = []
    for step in range(1, 12):
        file = io.BytesIO()
        torch.save((model.state_dict(), nested.state_dict()), file)
        saved.append(file)
        take(model, nested, step)
    for begin, file in enumerate(saved, 1):
        file.seek(0)
        weights, state = torch.load(file, weights_only=True)
        other.load_state_dict(weights)
        again.load_state_dict(state)
        for step in range(begin, 12):
            take(other, again, step)
        assert is_equal(model, other)
        for ours, theirs in zip(read_slow(nested).parts, read_slow(again).parts, strict=True):
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert nested.levels.digests() == again.levels.digests()


@every_rule
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes(rule: str, dtype: torch.dtype) -> None:
    model = make_net(dtype)
    nested = nest(model, RULES[rule])
    for step in range(1, 8):
        take(model, nested, step)
    assert {param.dtype for param in model.parameters()} == {dtype}
    assert {value.dtype for value in nested.copy_values("slow").values()} == {dtype}
    kept = torch.float64 if rule == "beakers" else torch.float32
    assert {v.dtype for part in read_slow(nested).parts for v in part.values()} == {kept}


def test_slow_weights_of_half_precision_move_by_less_than_it_resolves() -> None:
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = nn.Linear(1, 1, bias=False).to(dtype)
        nn.init.ones_(model.weight)
        nested = nest(model, nl.lookahead(1 / 64), nl.sgd(lr=2.0**-6), period=1)
        for _ in range(100):
            nested.zero_grad()
            (-model(torch.ones(1, 1, dtype=dtype))).sum().backward()
            nested.step()
        found[dtype] = float(read_slow(nested).values["weight"])
    assert found[torch.bfloat16] == pytest.approx(found[torch.float32], rel=1e-3)
    assert found[torch.float32] > 1.02


@every_rule
def test_grown_rows_start_at_their_live_values(rule: str) -> None:
    model = make_net()
    nested = nest(model, RULES[rule], nl.sgd(lr=0.1, momentum=0.9))
    for step in range(1, 5):
        take(model, nested, step)
    parts = copying.deepcopy(read_slow(nested).parts)
    grown = nn.Parameter(torch.cat([model[2].weight.detach(), torch.ones(1, 4).double()]))
    model[2].weight = grown
    nested.swap_parameter("2.weight", grown)
    for part, before in zip(read_slow(nested).parts, parts, strict=True):
        assert torch.equal(part["2.weight"][:2], before["2.weight"])
    assert bool((read_slow(nested).values["2.weight"][2] == 1.0).all())
    if rule == "nesterov":
        assert bool((read_slow(nested).hidden["velocity"]["2.weight"][2] == 0.0).all())
    bias = nn.Parameter(torch.cat([model[2].bias.detach(), torch.zeros(1).double()]))
    model[2].bias = bias
    nested.swap_parameter("2.bias", bias)
    x = torch.randn(5, 3, dtype=torch.float64)
    for _ in range(6):
        nested.zero_grad()
        model(x).square().mean().backward()
        nested.step()
    assert bool(model[2].weight.isfinite().all())


def test_a_state_of_another_rule_is_refused() -> None:
    states = {name: nest(make_net(), rule).state_dict() for name, rule in RULES.items()}
    states["average"] = nest(make_net(), None, None, 3, nl.Copy("slow", of="all")).state_dict()
    states["four"] = nest(make_net(), nl.beakers(4)).state_dict()
    nested = nest(make_net(), RULES["beakers"])
    before = nested.levels.digests()
    for name in ("lookahead", "nesterov", "average", "four"):
        with pytest.raises(MismatchedParameters, match="'slow' was saved with the rule"):
            nested.load_state_dict(states[name])
    average = nest(make_net(), None, None, 3, nl.Copy("slow", of="all"))
    with pytest.raises(MismatchedParameters, match="this plan has 'average'"):
        average.load_state_dict(states["lookahead"])
    assert nested.levels.digests() == before
    assert "rule" not in states["average"]["state"]["copies"]["slow"]["spec"]
    assert "hidden" not in states["average"]["state"]["copies"]["slow"]


# --- plans, knobs, other copies


def test_averages_are_of_what_the_rule_has_written() -> None:
    model = make_net()
    ema = nl.Copy("ema", of="all", decay=0.0, warmup=False)
    one = nl.Level("all", match=["*"], optimizer=nl.sgd(lr=0.1))
    plan = nl.Plan(one, ema, nl.Copy("slow", of="all", period=2, rule=nl.lookahead()))
    nested = NestedOptimizer(model, plan)
    for step in range(1, 5):
        take(model, nested, step)
        found = nested.copy_values("ema")
        assert all(torch.equal(found[name], value) for name, value in copy_weights(model).items())
    assert [reading.kind for reading in nested.read_levels()] == ["gradient", "copy", "copy"]


def test_a_level_that_no_rule_is_of_is_left_alone() -> None:
    models = Net(), Net()
    plain = make_optimizer(models[0])
    levels = plain.plan.levels
    slow = nl.Copy("slow", of="head", period=2, rule=nl.lookahead())
    nested = NestedOptimizer(models[1], nl.Plan(*levels, slow))
    take_step(models[0], plain, 1)
    take_step(models[1], nested, 1)
    plain_now, nested_now = copy_weights(models[0]), copy_weights(models[1])
    assert all(torch.equal(plain_now[name], nested_now[name]) for name in plain_now)
    take_step(models[0], plain, 2)
    take_step(models[1], nested, 2)
    plain_now, nested_now = copy_weights(models[0]), copy_weights(models[1])
    same = {name for name in plain_now if torch.equal(plain_now[name], nested_now[name])}
    assert same == {name for name in plain_now if not name.startswith("5")}


def test_two_writers_of_one_level_are_refused_by_name() -> None:
    levels = [nl.Level("head", match=["2.*"]), nl.Level("rest", match=["*"])]
    first = nl.Copy("first", of=["head", "rest"], rule=nl.lookahead())
    second = nl.Copy("second", of=["rest"], rule=nl.outer_nesterov())
    with pytest.raises(SettingError, match=r"'first' and 'second'.*'rest'"):
        nl.Plan(*levels, first, second)
    nl.Plan(*levels, first, nl.Copy("second", of=["rest"]))  # an average writes nowhere


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"decay": 0.9}, "decay=0.9 is for an average"),
        ({"decay": 1.0}, "decay=1.0 is for an average"),
        ({"warmup": False}, "warmup=False is for an average"),
        ({"probability": 0.5}, "probability=0.5 is for an average"),
        ({"rule": "lookahead"}, "rule"),
        ({"rule": {"kind": "lookahed"}}, "lookahead"),
    ],
)
def test_wrong_copies_are_refused(wrong: dict[str, object], said: str) -> None:
    arguments = {"of": "all", "rule": nl.lookahead(), **wrong}
    with pytest.raises(SettingError, match=said):
        nl.Copy("slow", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: nl.lookahead(rate=0.0),
        lambda: nl.lookahead(rate=1.1),
        lambda: nl.lookahead(rate=float("nan")),
        lambda: nl.outer_nesterov(lr=0.0),
        lambda: nl.outer_nesterov(lr=float("inf")),
        lambda: nl.outer_nesterov(momentum=1.0),
        lambda: nl.outer_nesterov(momentum=-0.1),
        lambda: nl.beakers(1),
        lambda: nl.beakers(3, shortest=8, longest=2),
        lambda: nl.beakers(3, shortest=0, longest=2),
        lambda: nl.beakers(3, shortest=0.5, longest=2),
        lambda: nl.Copy("slow", of="all", period=20, rule=nl.beakers(shortest=4, longest=100)),
    ],
)
def test_impossible_rules_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(SettingError) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_parameter_that_is_not_floating_is_refused() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    with pytest.raises(SettingError, match=r"'weight' is torch\.complex64"):
        nest(model, nl.lookahead())


@every_rule
def test_a_plan_with_it_is_a_file(rule: str) -> None:
    plan = nl.Plan(
        nl.Level("all", match=["*"]),
        nl.Copy("slow", of="all", period=3, rule=RULES[rule]),
        readout="slow",
    )
    text = plan.to_toml()
    assert f'kind = "{RULES[rule].kind}"' in text
    assert nl.Plan.from_toml(text) == plan
    default = nl.Plan(nl.Level("all", match=["*"]), nl.Copy("slow", of="all", rule=nl.lookahead()))
    assert nl.Plan.from_toml(default.to_toml()) == default
    wrong = default.to_toml().replace('kind = "lookahead"', 'kind = "lookahead"\nrate = 3')
    with pytest.raises(SettingError, match="rate: a number of 1 or less works, got 3"):
        nl.Plan.from_toml(wrong)


def test_rates_and_periods_are_turned_while_it_runs() -> None:
    model = make_net()
    nested = nest(model, nl.outer_nesterov(), period=3)
    change = nested.control("slow", lr=0.5, momentum=0.0, period=2, reason="calmer")
    assert change.applied_at == 0
    spec = read_slow(nested).spec
    assert (spec.period, spec.rule) == (2, nl.outer_nesterov(lr=0.5, momentum=0.0))
    assert read_slow(nested).read().lr == 0.5
    take(model, nested, 1)
    waits = nested.control("slow", lr=0.25, reason="calmer still")
    state = nested.state_dict()
    assert waits.applied_at is None
    take(model, nested, 2)
    assert waits.applied_at == 2
    again = nest(make_net(), nl.outer_nesterov(), period=3)
    again.load_state_dict(state)
    take(again.model, again, 2)
    assert read_slow(again).spec == read_slow(nested).spec
    for wrong in ({"decay": 0.9}, {"rate": 0.5}, {"momentum": 1.0}, {"lr": 0.0}):
        with pytest.raises(NestlingError):
            nested.control("slow", reason="wrong", **wrong)  # type: ignore[arg-type]
    looking = nest(make_net(), nl.lookahead())
    looking.control("slow", rate=0.25, reason="slower")
    assert read_slow(looking).spec.rule == nl.lookahead(rate=0.25)
    poured = nest(make_net(), nl.beakers(3, shortest=4, longest=100))
    with pytest.raises(SettingError, match="stable up to"):
        poured.control("slow", period=9, reason="too far at once")
    poured.control("slow", period=2, reason="oftener")
    averaging = nest(make_net(), None, None, 3, nl.Copy("slow", of="all"))
    with pytest.raises(SettingError, match="no knob 'rate'"):
        averaging.control("slow", rate=0.5, reason="it has none")


@every_rule
def test_the_copy_is_the_answer_of_a_learner(rule: str) -> None:
    model = make_net(torch.float32)
    plan = nl.Plan(
        nl.Level("all", match=["*"], optimizer=nl.sgd(lr=0.5)),
        nl.Copy("slow", of="all", period=3, rule=RULES[rule]),
        readout="slow",
    )
    learner = nl.Learner(model, plan)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):  # two steps after a boundary the live model is elsewhere
        x = torch.randn(8, 3, generator=generator)
        learner.learn(x, (x[:, 0] > 0).long())
    slow = learner.levels["slow"].tensors()
    with torch.no_grad():
        answer = torch.func.functional_call(model, slow, (x,))
        assert not torch.equal(answer, model(x))
    torch.testing.assert_close(learner.predict_proba(x), answer.softmax(dim=1))
