"""The optimizer against torch, against a slow twin written from the equation, and its refusals."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import SettingError
from nestling.levels import Freeze, Level, LevelAlarm, NestedOptimizer, Plan
from nestling.optim import OptimizerSpec
from nestling.optim.inner_state import export_inner

Named = dict[str, Tensor]
TORCH: dict[str, tuple[OptimizerSpec, Callable[..., torch.optim.Optimizer]]] = {
    "adamw": (
        nl.adamw(lr=0.05, weight_decay=0.1),
        lambda p, **k: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1, **k),
    ),
    "adam": (
        nl.adam(lr=0.05, betas=(0.8, 0.9), weight_decay=0.1),
        lambda p, **k: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.9), weight_decay=0.1, **k),
    ),
    "sgd": (
        nl.sgd(lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
        lambda p, **k: torch.optim.SGD(
            p, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True, **k
        ),
    ),
}


def make_model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def make_loss(model: nn.Module, step: int) -> Tensor:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
    return torch.as_tensor((model(x) - x[:, :2].square()).square().mean())


def values(model: nn.Module) -> Named:
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def same(left: Named, right: Named) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    optimizer.zero_grad()
    make_loss(model, step).backward()
    optimizer.step()


def two_levels(slow: Level, optimizer: OptimizerSpec | None = None) -> Plan:
    return Plan(Level("head", match=["2.*"], optimizer=optimizer or nl.sgd(lr=0.1)), slow)


def spine(**knobs: object) -> Level:
    return Level(**{"name": "spine", "match": ["*"], "optimizer": nl.sgd(lr=0.1)} | knobs)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", TORCH)
@pytest.mark.parametrize("accumulate", ["separate", "in_place"])
@pytest.mark.parametrize("fused", [True, False])
def test_one_level_of_period_1_is_torch_bit_for_bit(
    rule: str, accumulate: str, fused: bool
) -> None:
    spec, build = TORCH[rule]
    ours, theirs = make_model(), make_model()
    spec = type(spec)(**{**vars_of(spec), "fused": fused})
    nested = NestedOptimizer(
        ours, Plan(Level("all", match=["*"], optimizer=spec)), accumulate=accumulate
    )  # type: ignore[arg-type]
    plain = build(theirs.parameters(), fused=fused)
    for step in range(12):
        take_step(ours, nested, step)
        take_step(theirs, plain, step)
        assert same(values(ours), values(theirs))


def vars_of(spec: OptimizerSpec) -> dict[str, object]:
    return {key: getattr(spec, key) for key in spec.__dataclass_fields__}


@pytest.mark.parametrize("rule", TORCH)
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_slow_level_equals_the_equation(rule: str, reduce: str) -> None:
    """theta changes only every C steps, by the update of the period's mean or sum [eq. 71]."""
    spec, build = TORCH[rule]
    model, twin = make_model(), make_model()
    plan = two_levels(spine(period=3, reduce=reduce, optimizer=spec), spec)
    nested = NestedOptimizer(model, plan)
    head, slow = list(twin[2].parameters()), list(twin[0].parameters())
    fast_rule, slow_rule = build(head, fused=True), build(slow, fused=True)
    history: list[tuple[Tensor, ...]] = []
    for step in range(1, 13):
        before = values(model)
        take_step(model, nested, step)
        fast_grads = torch.autograd.grad(make_loss(twin, step), head + slow)
        history.append(fast_grads[2:])
        for param, grad in zip(head, fast_grads[:2], strict=True):
            param.grad = grad
        fast_rule.step()
        if step % 3 == 0:
            for index, param in enumerate(slow):
                total = torch.stack([grads[index] for grads in history]).sum(dim=0)
                param.grad = total / 3 if reduce == "mean" else total
            slow_rule.step()
            history.clear()
        else:
            assert torch.equal(model[0].weight, before["0.weight"])
            assert not torch.equal(model[2].weight, before["2.weight"])
        torch.testing.assert_close(values(model), values(twin), rtol=1e-5, atol=1e-6)


def test_moments_move_only_at_boundaries() -> None:
    model = make_model()
    nested = NestedOptimizer(model, two_levels(spine(period=3, optimizer=nl.adamw())))
    counts = []
    for step in range(1, 8):
        take_step(model, nested, step)
        state = nested.levels["spine"].inner.state.get(model[0].weight, {})
        counts.append(int(state.get("step", 0)))
    assert counts == [0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_in_place_equals_separate_bit_for_bit(reduce: str) -> None:
    models = [make_model(), make_model()]
    plan = two_levels(spine(period=4, reduce=reduce, optimizer=nl.adam(lr=0.01)))
    nested = [
        NestedOptimizer(models[0], plan, accumulate="separate"),
        NestedOptimizer(models[1], plan, accumulate="in_place"),
    ]
    for step in range(17):
        for model, optimizer in zip(models, nested, strict=True):
            take_step(model, optimizer, step)
        assert same(values(models[0]), values(models[1]))


def test_clipping_and_clearing_see_only_this_steps_gradient() -> None:
    """In separate mode the loop may do with `.grad` what it likes after the step."""
    calm, rough = make_model(), make_model()
    plan = two_levels(spine(period=3))
    optimizers = [NestedOptimizer(model, plan) for model in (calm, rough)]
    for step in range(9):
        for model, optimizer in zip((calm, rough), optimizers, strict=True):
            optimizer.zero_grad(set_to_none=model is calm)
            make_loss(model, step).backward()
            alone = torch.autograd.grad(make_loss(model, step), list(model.parameters()))
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            assert norm.item() == pytest.approx(
                float(torch.stack([g.square().sum() for g in alone]).sum().sqrt()), rel=1e-5
            )
            clipped = [param.grad.clone() for param in model.parameters() if param.grad is not None]
            optimizer.step()
            kept = [param.grad for param in model.parameters() if param.grad is not None]
            assert len(kept) == 4
            assert all(torch.equal(a, b) for a, b in zip(clipped, kept, strict=True))
        rough.zero_grad()
    assert same(values(calm), values(rough))


@pytest.mark.parametrize("prepare", [True, False])
@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("accumulate", ["separate", "in_place"])
def test_skip_equals_a_manual_loop(prepare: bool, window: int, accumulate: str) -> None:
    model, twin = make_model(), make_model()
    plan = two_levels(spine(period=4, between="skip", window=window))
    nested = NestedOptimizer(model, plan, accumulate=accumulate)  # type: ignore[arg-type]
    head = torch.optim.SGD(twin[2].parameters(), lr=0.1, fused=True)
    slow = torch.optim.SGD(twin[0].parameters(), lr=0.1, fused=True)
    for step in range(1, 13):
        phase = (step - 1) % 4
        counts = phase >= 4 - window
        if prepare:
            nested.prepare_step()
            assert model[0].weight.requires_grad == counts
            assert model[2].weight.requires_grad
        take_step(model, nested, step)
        assert model[0].weight.requires_grad
        assert (model[0].weight.grad is not None) == (counts or not prepare)
        head.zero_grad()
        if phase == 4 - window:
            slow.zero_grad()
        first = [None if p.grad is None else p.grad.clone() for p in twin[0].parameters()]
        make_loss(twin, step).backward()
        if not counts:
            for param, grad in zip(twin[0].parameters(), first, strict=True):
                param.grad = grad
        head.step()
        if phase == 3:
            for param in twin[0].parameters():
                assert param.grad is not None
                param.grad /= window
            slow.step()
        assert same(values(model), values(twin))
    share = nested.read_levels()[1].share_backward_skipped
    assert share == ((4 - window) / 4 if prepare else 0.0)


def test_prepare_step_saves_memory_for_backward() -> None:
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(6)), nn.Linear(8, 2))
    plan = Plan(Level("head", match=["6.*"]), Level("spine", match=["*"], period=4, between="skip"))
    nested = NestedOptimizer(model, plan)
    counts, saved = [], []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    for _ in range(4):
        saved.clear()
        nested.prepare_step()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = model(torch.ones(2, 8)).sum()
        loss.backward()
        nested.step()
        counts.append(len(saved))
    assert max(counts[:3]) < counts[3] / 2


@pytest.mark.parametrize("prepare", [True, False])
def test_freezes_hold_the_level(prepare: bool) -> None:
    model = make_model()
    plan = two_levels(spine(freeze=Freeze(windows=((2, 3), (5, 5)), until="spring")))
    nested = NestedOptimizer(model, plan)
    moved = []
    for step in range(1, 9):
        if step == 1:
            with pytest.raises(SettingError, match=r"'springs'.*did you mean 'spring'"):
                nested.release("springs")
        if step == 4:
            nested.release("spring")
        before = model[0].weight.detach().clone()
        if prepare:
            nested.prepare_step()
        take_step(model, nested, step)
        moved.append(not torch.equal(before, model[0].weight))
    assert moved == [False, False, False, True, False, True, True, True]


@given(
    trust=st.floats(1e-4, 2.0), lr=st.floats(1e-3, 1e3), seed=st.integers(0, 9), period=st.just(2)
)
def test_trust_bounds_every_update(trust: float, lr: float, seed: int, period: int) -> None:
    model = make_model()
    level = Level(
        "all", match=["*"], period=period, trust=trust, optimizer=nl.sgd(lr=lr), band=(0.0, 1e9)
    )
    nested = NestedOptimizer(model, Plan(level))
    for step in range(4):
        before = torch.cat([value.flatten() for value in values(model).values()])
        take_step(model, nested, seed + step)
        after = torch.cat([value.flatten() for value in values(model).values()])
        assert (after - before).norm() <= trust * before.norm() * (1 + 1e-4)


def test_trust_leaves_small_updates_alone_and_zero_weights_free() -> None:
    plain, bound = make_model(), make_model()
    for model, trust in ((plain, None), (bound, 1e6)):
        take_step(model, NestedOptimizer(model, Plan(spine(trust=trust))), 0)
    assert same(values(plain), values(bound))
    zero = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(zero.weight)
    nested = NestedOptimizer(zero, Plan(spine(trust=0.01)))
    zero(torch.ones(1, 2)).sum().backward()
    nested.step()
    assert zero.weight.abs().sum() > 0


def test_parameter_without_gradient_in_a_period_stands_still() -> None:
    """As in torch, None is not zero: no weight decay, no momentum."""
    model = make_model()
    nested = NestedOptimizer(model, Plan(spine(period=2, optimizer=nl.adamw(weight_decay=0.5))))
    for step in range(2):
        take_step(model, nested, step)
    before = values(model)
    for _ in range(2):
        nested.zero_grad()
        model[2](torch.ones(1, 4)).sum().backward()
        nested.step()
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[2].weight, before["2.weight"])


@pytest.mark.parametrize("rule", TORCH)
@pytest.mark.parametrize("cause", ["judge", "infinite"])
def test_refused_update_leaves_no_trace(rule: str, cause: str) -> None:
    model = make_model()
    asked: list[tuple[str, Named]] = []
    verdict = True

    def judge(name: str) -> bool:
        asked.append((name, values(model)))
        return verdict

    level = spine(period=2, protect=True, gate=[nl.AgreementGate()], optimizer=TORCH[rule][0])
    nested = NestedOptimizer(model, two_levels(level), judge=judge)
    for step in range(4):
        take_step(model, nested, step)
    before, inner = values(model), inner_state(nested)
    gates = copy.deepcopy(nested.levels["spine"].gates.state_dict())
    verdict = cause == "infinite"
    num_asked = len(asked)
    for step in range(2):
        nested.zero_grad()
        make_loss(model, step).backward()
        if cause == "infinite":
            assert model[0].weight.grad is not None
            model[0].weight.grad.fill_(float("nan"))
        nested.step()
    assert torch.equal(model[0].weight, before["0.weight"])
    assert torch.equal(model[0].bias, before["0.bias"])
    assert equal_state(inner_state(nested), inner)
    assert equal_state(nested.levels["spine"].gates.state_dict(), gates)
    if cause == "judge":
        assert [name for name, _ in asked[num_asked:]] == ["spine"]
        assert not torch.equal(asked[-1][1]["0.weight"], before["0.weight"])
    assert nested.read_levels()[1].num_refused == 1
    verdict = True
    take_step(model, nested, 7)
    take_step(model, nested, 8)
    assert not torch.equal(model[0].weight, before["0.weight"])
    assert torch.isfinite(model[0].weight).all()


def inner_state(nested: NestedOptimizer) -> object:
    level = nested.levels["spine"]
    return export_inner(level.inner, level.names, level.params)


def equal_state(left: object, right: object) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal_state(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal_state, left, right))
    return bool(left == right)


def test_unused_parameter_sounds_one_dead_alarm_per_episode() -> None:
    model = make_model()
    model.add_module("unused", nn.Linear(1, 1))
    model.forward = lambda x: model[2](model[1](model[0](x)))  # type: ignore[method-assign]
    nested = NestedOptimizer(
        model, Plan(Level("lost", match=["unused.*"], period=2), Level("rest", match=["*"]))
    )
    for step in range(39):
        take_step(model, nested, step)
    with pytest.warns(LevelAlarm, match="'lost' got no gradient in 20 periods"):
        take_step(model, nested, 39)
    for step in range(50):
        take_step(model, nested, step)
    assert [(alarm.level, alarm.kind) for alarm in nested.take_events()] == [("lost", "dead")]


def test_runaway_sounds_once_per_episode() -> None:
    model = make_model()
    nested = NestedOptimizer(model, Plan(spine(optimizer=nl.adam(lr=1e-9), band=(0.0, 0.01))))

    def run(lr: float) -> None:
        nested.param_groups[0]["lr"] = lr
        for step in range(3):
            take_step(model, nested, step)
        nested.read_levels()

    run(1e-9)
    for _ in range(2):
        with pytest.warns(LevelAlarm, match=r"'spine' changes by .* band 0 to 0.01; lower its lr"):
            run(0.5)
        run(0.5)
        run(1e-9)
    assert [alarm.kind for alarm in nested.take_events()] == ["runaway"] * 2
