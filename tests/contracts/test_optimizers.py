"""What every update rule promises, under every gate and beside every copy; one row for each."""

import copy as copying
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.seeds import make_generator
from nestling.levels import Copy, Gate, Level, NestedOptimizer, Plan
from nestling.optim import OptimizerSpec

NUM_STEPS = 20
PERIOD = 2
NUM_CUTS = 20

Factor = float | list[Tensor]
Build = Callable[[Sequence[Tensor]], torch.optim.Optimizer]


@dataclass
class SlowGate:
    """A gate as its docstring says it, without running sums that could be cut short."""

    losses: list[float] = field(default_factory=list)
    gradients: list[list[Tensor]] = field(default_factory=list)

    def find_factor(self, kind: str, step: int) -> Factor:
        if kind in ("schedule", "parent"):
            return min(1.0, 0.25 + 0.75 * step / 10)
        if kind == "surprise":
            return self.find_surprise()
        if kind == "agreement":
            *_, now = self.gradients
            slow = self.average(2.0, self.gradients[:-1], self.gradients[0])
            dot = sum(float((a * b).sum()) for a, b in zip(now, slow, strict=True))
            size = math.sqrt(sum(float(g.square().sum()) for g in now))
            size *= math.sqrt(sum(float(g.square().sum()) for g in slow))
            return 0.1 + 0.9 * max(0.0, dot / size)
        if kind == "importance":
            zero = [torch.zeros_like(g) for g in self.gradients[0]]
            squares = [[g.square() for g in grads] for grads in self.gradients[:-1]]
            fisher = self.average(3.0, squares, zero)
            num = sum(f.numel() for f in fisher)
            mean = sum(float(f.sum()) for f in fisher) / num
            return [1 / (1 + 2.0 * f / mean) if mean else torch.ones_like(f) for f in fisher]
        return 1.0

    def average(
        self, half_life: float, rows: Sequence[list[Tensor]], start: list[Tensor]
    ) -> list[Tensor]:
        """start * k^n + sum over rows i of (1 - k) k^(n - 1 - i) * row_i, k = 2^(-1/half_life)."""
        keep, num = 2.0 ** (-1.0 / half_life), len(rows)
        total = [s.double() * keep**num for s in start]
        for index, row in enumerate(rows):
            weight = (1 - keep) * keep ** (num - 1 - index)
            total = [t + weight * r.double() for t, r in zip(total, row, strict=True)]
        return [t.to(s.dtype) for t, s in zip(total, start, strict=True)]

    def find_surprise(self) -> float:
        *before, loss = self.losses
        if len(before) < 10:
            return 1.0
        mean = variance = 0.0
        for num, value in enumerate(before, start=1):
            keep = min(1 - 1 / num, 2.0 ** (-1.0 / 5.0))
            variance = keep * variance + keep * (1 - keep) * (value - mean) ** 2
            mean = keep * mean + (1 - keep) * value
        surprise = (loss - mean) / math.sqrt(variance)
        return 0.2 + 0.8 / (1 + math.exp(0.5 - surprise))


PRECONDITIONED = nl.optim.MemoryMomentum(
    lr=0.005, preconditioner="matrix", objective="l2", readout="tanh"
)
RULES: dict[str, tuple[OptimizerSpec | Build, Build]] = {
    "adamw": (
        nl.adamw(lr=0.02, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1, fused=True),
    ),
    "adam": (
        nl.adam(lr=0.02, betas=(0.8, 0.95), weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.8, 0.95), weight_decay=0.1, fused=True),
    ),
    "sgd": (nl.sgd(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1, fused=True)),
    "nesterov": (
        nl.sgd(lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
        lambda p: torch.optim.SGD(
            p, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True, fused=True
        ),
    ),
    # Deep ones; the biases of the net go to their other rule.
    "muon": (
        nl.optim.Muon(lr=0.02, weight_decay=0.1),
        nl.optim.Muon(lr=0.02, weight_decay=0.1).build,
    ),
    "m3": (nl.optim.M3(lr=0.02, period=3), nl.optim.M3(lr=0.02, period=3).build),
    "delta momentum": (nl.optim.delta_momentum(), nl.optim.delta_momentum().build),
    "preconditioned": (PRECONDITIONED, PRECONDITIONED.build),
    "dmgd": (nl.optim.DMGD(lr=0.1), nl.optim.DMGD(lr=0.1).build),
    "dgd": (nl.optim.dgd(lr=0.1), nl.optim.dgd(lr=0.1).build),
    # The user's own: a class with its arguments, and a function whose moments have other shapes
    # than the weights.
    "rmsprop": (
        partial(torch.optim.RMSprop, lr=0.01, momentum=0.5, centered=True),
        lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    ),
    "adafactor": (
        lambda p: torch.optim.Adafactor(p, lr=0.05),
        lambda p: torch.optim.Adafactor(p, lr=0.05),
    ),
}
RAMP = nl.ScheduleGate(start=0, stop=10, low=0.25)
GATES: dict[str, list[Gate]] = {
    "open": [],
    "schedule": [RAMP],
    "surprise": [nl.SurpriseGate(threshold=0.5, half_life=5.0, floor=0.2)],
    "importance": [nl.ImportanceGate(strength=2.0, half_life=3.0)],
    "agreement": [nl.AgreementGate(half_life=2.0, floor=0.1)],
    "parent": [nl.ParentGate(of="head")],
}
COPIES: dict[str, list[Copy]] = {
    "alone": [],
    "mean": [Copy("copy", of=["head", "spine"], decay=0.8, period=3)],
    "chance": [Copy("copy", of=["spine"], decay=0.7, probability=0.5, warmup=False)],
    "lookahead": [Copy("copy", of=["head", "spine"], period=3, rule=nl.lookahead(0.6))],
    "outer nesterov": [Copy("copy", of=["spine"], period=5, rule=nl.outer_nesterov(0.5, 0.8))],
    "beakers": [
        Copy("copy", of=["head", "spine"], period=2, rule=nl.beakers(3, shortest=5, longest=90))
    ],
}
# Every rule under every gate: both decide about one update. A copy reads the weights after the
# update, and may write them, and knows nothing else, so that it can meet a rule or a gate in one
# way only; the copies take turns, and each still stands beside every rule and beside every gate. So
# do the data types.
ROWS = [
    (rule, gate, list(COPIES)[(i + j) % len(COPIES)])
    for i, rule in enumerate(RULES)
    for j, gate in enumerate(GATES)
]
DTYPES = [torch.bfloat16, torch.float64]
DTYPE_ROWS = [
    (rule, gate, DTYPES[(i + j) % len(DTYPES)])
    for i, rule in enumerate(RULES)
    for j, gate in enumerate(GATES)
]
every_row = pytest.mark.parametrize(("rule", "gate", "copy"), ROWS)


def make_plan(rule: str, gate: str, copy: str) -> Plan:
    spec = RULES[rule][0]
    head = [RAMP] if gate == "parent" else []
    return Plan(
        Level("spine", match=["0.*"], period=PERIOD, optimizer=spec, gate=GATES[gate]),
        Level("head", match=["2.*"], optimizer=spec, gate=head),
        *COPIES[copy],
    )


RECORDS = ExitStack()


@pytest.fixture(autouse=True)
def close_records() -> Iterator[None]:
    with RECORDS:
        yield


def make_model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A net whose inputs are recorded, which DGD needs and no other rule reads."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)
    RECORDS.enter_context(nl.optim.record_layers(net))
    return net


def find_loss(model: nn.Sequential, step: int) -> Tensor:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
    x = x.to(model[0].weight.dtype)
    return torch.as_tensor((model(x) - x[:, :2].square()).square().mean())


def write_back(spec: Copy, kept: list[dict[str, Tensor]], model: nn.Sequential) -> None:
    """The equations of the outer rules, weight by weight; `kept`: slow weights, then the rest."""
    rule, slow = spec.rule, kept[0]
    for name, param in model.named_parameters():
        if name.startswith("2") and "head" not in spec.of:
            continue
        moved = slow[name] - param.detach()
        if isinstance(rule, nl.levels.LookaheadRule):
            slow[name] = slow[name] - rule.rate * moved
        elif isinstance(rule, nl.levels.OuterNesterovRule):
            kept[1][name] = rule.momentum * kept[1][name] + moved
            slow[name] = slow[name] - rule.lr * (rule.momentum * kept[1][name] + moved)
        elif isinstance(rule, nl.levels.BeakersRule):
            ratio = (rule.longest / rule.shortest) ** (1 / (2 * rule.num - 2))
            levels = [param.detach(), *(beaker[name] for beaker in kept[1:])]
            for k in range(rule.num):
                left = levels[k - 1] - levels[k] if k else 0.0
                right = levels[k + 1] - levels[k] if k + 1 < rule.num else 0.0
                flow = ratio ** (1 - k) * left + ratio**-k * right
                kept[k][name] = levels[k] + spec.period * flow / (rule.shortest * ratio**k)
        with torch.no_grad():
            param.copy_(slow[name])


def take_step(model: nn.Sequential, nested: NestedOptimizer, step: int) -> None:
    nested.zero_grad()
    loss = find_loss(model, step)
    loss.backward()
    nested.observe(loss)
    nested.step()


def flatten(state: object, path: str = "") -> dict[str, object]:
    """Every leaf of a state but the wall clock; tensors as numbers."""
    if isinstance(state, dict):
        parts = [flatten(value, f"{path}/{key}") for key, value in state.items()]
    elif isinstance(state, list | tuple):
        parts = [flatten(value, f"{path}/{index}") for index, value in enumerate(state)]
    else:
        leaf = state.tolist() if isinstance(state, Tensor) else state
        return {} if path.endswith("/seconds") else {path: leaf}
    return {key: value for part in parts for key, value in part.items()}


def move(rule: torch.optim.Optimizer, grads: Sequence[Tensor], factor: Factor) -> None:
    """One update of a plain torch optimizer, multiplied by a factor."""
    params = rule.param_groups[0]["params"]
    before = [param.detach().clone() for param in params]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    rule.step()
    factors = factor if isinstance(factor, list) else [torch.tensor(factor)] * len(params)
    with torch.no_grad():
        for param, old, share in zip(params, before, factors, strict=True):
            param.copy_(old + share * (param - old))


@every_row
def test_slow_twin_agrees(rule: str, gate: str, copy: str) -> None:
    """The equation of a level, step by step: torch's rule, a mean, a factor, an average."""
    model, twin = make_model(), make_model()
    nested = NestedOptimizer(model, make_plan(rule, gate, copy), seed=5)
    build = RULES[rule][1]
    spine, head = build(list(twin[0].parameters())), build(list(twin[2].parameters()))
    slow_gate, gathered = SlowGate(), list[list[Tensor]]()
    spec = next(iter(COPIES[copy]), None)
    generator = make_generator(5, "copy", "copy")
    copied, num_copied = {n: p.detach().clone() for n, p in twin.named_parameters()}, 0
    kept = [copied, *(copying.deepcopy(copied) for _ in range(2))]
    if copy == "outer nesterov":
        kept[1] = {name: torch.zeros_like(value) for name, value in copied.items()}
    for step in range(1, NUM_STEPS + 1):
        take_step(model, nested, step)
        loss = find_loss(twin, step)
        *first, weight, bias = torch.autograd.grad(loss, list(twin.parameters()))
        slow_gate.losses.append(loss.item())
        gathered.append(first)
        head_factor = slow_gate.find_factor("parent", step) if gate == "parent" else 1.0
        move(head, [weight, bias], head_factor)
        if step % PERIOD == 0:
            slow_gate.gradients.append([sum(parts) / PERIOD for parts in zip(*gathered)])  # type: ignore[misc,unused-ignore]  # noqa: B905
            move(spine, slow_gate.gradients[-1], slow_gate.find_factor(gate, step))
            gathered.clear()
        if spec is None or step % spec.period:
            happens = False
        else:
            chance = torch.rand((), generator=generator) if spec.probability else 0.0
            happens = bool(chance < (spec.probability or 1.0))
        if spec is not None and happens and spec.rule is not None:
            num_copied += 1
            write_back(spec, kept, twin)
        elif spec is not None and happens:
            num_copied += 1
            cap = 1 - 1 / (num_copied + 1) if spec.warmup else 1.0
            decay = min(spec.decay, cap)
            for name, param in twin.named_parameters():
                copied[name] = decay * copied[name] + (1 - decay) * param.detach()
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5)
    if spec is not None:
        assert 0 < num_copied == nested.read_levels()[-1].num_updates
        for name, value in nested.copy_values("copy").items():
            answer = kept[-1 if copy == "beakers" else 0][name]
            torch.testing.assert_close(value, answer, rtol=2e-4, atol=2e-5)


def test_every_pair_is_in_the_table() -> None:
    assert {(rule, gate) for rule, gate, _ in ROWS} == {(r, g) for r in RULES for g in GATES}
    assert {(rule, copy) for rule, _, copy in ROWS} == {(r, c) for r in RULES for c in COPIES}
    assert {(gate, copy) for _, gate, copy in ROWS} == {(g, c) for g in GATES for c in COPIES}
    assert {(rule, dtype) for rule, _, dtype in DTYPE_ROWS} == {
        (rule, dtype) for rule in RULES for dtype in DTYPES
    }
    assert {(gate, dtype) for _, gate, dtype in DTYPE_ROWS} == {
        (gate, dtype) for gate in GATES for dtype in DTYPES
    }


@pytest.mark.parametrize("rule", RULES)
def test_period_1_is_torch_bit_for_bit(rule: str) -> None:
    model, twin = make_model(), make_model()
    levels = [Level("spine", match=["0.*"], optimizer=RULES[rule][0])]
    levels.append(Level("head", match=["2.*"], optimizer=RULES[rule][0]))
    nested = NestedOptimizer(model, Plan(*levels, *COPIES["mean"]))
    plain = RULES[rule][1](list(twin.parameters()))
    for step in range(NUM_STEPS):
        take_step(model, nested, step)
        plain.zero_grad()
        find_loss(twin, step).backward()
        plain.step()
    assert flatten(model.state_dict()) == flatten(twin.state_dict())


@every_row
def test_goes_on_bit_for_bit_from_random_points(rule: str, gate: str, copy: str) -> None:
    """Twenty points; each is restored over whatever another run left in the optimizer."""
    cuts = random.Random(f"{rule} {gate} {copy}").sample(range(NUM_STEPS), NUM_CUTS)
    model, other = make_model(), make_model()
    nested, again = (NestedOptimizer(m, make_plan(rule, gate, copy)) for m in (model, other))
    saved, finals = [], []
    for step in range(NUM_STEPS + 1):
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        saved.append((weights, nested.state_dict()))
        finals.append(flatten(saved[-1]))
        take_step(model, nested, step)
    for cut in cuts:
        other.load_state_dict(saved[cut][0])
        again.load_state_dict(saved[cut][1])
        stop = min(cut + 2 * PERIOD + 1, NUM_STEPS)
        for step in range(cut, stop):
            take_step(other, again, step)
        assert flatten((other.state_dict(), again.state_dict())) == finals[stop]


@every_row
def test_in_place_equals_separate_and_leaves_separate_gradients_alone(
    rule: str, gate: str, copy: str
) -> None:
    apart, inside = make_model(), make_model()
    plan = make_plan(rule, gate, copy)
    optimizers = NestedOptimizer(apart, plan), NestedOptimizer(inside, plan, accumulate="in_place")
    for step in range(NUM_STEPS):
        take_step(inside, optimizers[1], step)
        optimizers[0].zero_grad()
        loss = find_loss(apart, step)
        loss.backward()
        params = list(apart.parameters())
        handed = [param.grad for param in params]
        kept = [grad.clone() for grad in handed if grad is not None]
        optimizers[0].observe(loss)
        optimizers[0].step()
        assert all(param.grad is grad for param, grad in zip(params, handed, strict=True))
        for grad, before in zip(handed, kept, strict=True):
            assert grad is not None
            assert torch.equal(grad, before)
        assert all(map(torch.equal, apart.parameters(), inside.parameters()))


@pytest.mark.parametrize(("rule", "gate", "dtype"), DTYPE_ROWS)
def test_dtype_is_kept(rule: str, gate: str, dtype: torch.dtype) -> None:
    model = make_model(dtype)
    kind = list(COPIES)[1 + list(RULES).index(rule) % (len(COPIES) - 1)]
    nested = NestedOptimizer(model, make_plan(rule, gate, kind))
    for step in range(5):
        take_step(model, nested, step)
    assert {param.dtype for param in model.parameters()} == {dtype}
    for name, level in nested.levels.gradient.items():
        shapes = {param.shape for param in level.params}
        moments = [v for s in level.inner.state.values() for v in s.values()]
        found = {v.dtype for v in moments if isinstance(v, Tensor) and v.shape in shapes}
        assert found <= {dtype}, name
    assert {value.dtype for value in nested.copy_values("copy").values()} == {dtype}
    assert all(bool(param.isfinite().all()) for param in model.parameters())
