"""Whether an optimizer does what it claims: descent, orthogonal steps, decay, a trained memory."""

import copy
import math
import re
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from nestling.core.errors import NestlingError, SettingError
from nestling.core.seeds import make_generator
from nestling.doctor.check_results import Check, failed, list_names, passed, skipped
from nestling.doctor.hidden_state import keep_values, list_changed, list_held
from nestling.doctor.level_run import NEVER, PERIOD, RESUMES
from nestling.doctor.period_checks import is_period
from nestling.optim import DGD, M3, CustomOptimizer, OptimizerFactory, OptimizerSpec, record_layers

DESCENDS, ORTHOGONAL = "optimizer descends", "steps are orthogonal"
TRAINED, DECAYS, SHAPES = "inner memory is trained", "buffers decay", "wide as fast as tall"
_ORTHOGONAL_NAMES = ("muon", "m3", "orthogon", "newton", "polar")
_DECAYING_NAMES = (*_ORTHOGONAL_NAMES, "momentum", "adam", "rms", "lion", "ema")
# Of the singular values of a step: five quintic Newton-Schulz steps give 0.7 to 1.2.
LEAST_RATIO = 0.3
NUM_STEPS, MOST_STEPS, LONG_PERIOD = 60, 200, 32
NARROW, WIDE, MOST_SLOWER = 48, 1024, 4.0
MOST_TURNS, MOST_SECONDS = 30, 2.0


def check_optimizer(optimizer: OptimizerSpec | OptimizerFactory, subject: str) -> list[Check]:
    """All checks of an optimizer, on problems of its own.

    Args:
        optimizer: one of nestling's, or any function from parameters to a torch optimizer.
        subject: whom the checks are about.

    Raises:
        SettingError: neither, or it makes no optimizer.
    """
    if not callable(optimizer) and not hasattr(optimizer, "build"):
        raise SettingError(
            f"optimizer={optimizer!r}; nl.adamw() works, or a function from parameters to a torch "
            "optimizer, not the optimizer itself"
        )
    spec = CustomOptimizer.wrap(optimizer) if callable(optimizer) else optimizer
    make: OptimizerFactory = spec.build
    weight = nn.Parameter(torch.zeros(2, 2, device="cpu", dtype=torch.float32))
    name = f"{_name(spec)} {type(make([weight])).__name__}".lower()
    reads_inputs = isinstance(spec, DGD)
    orthogonal = any(word in name for word in _ORTHOGONAL_NAMES)
    if isinstance(spec, M3) and spec.mode != "normalized":
        orthogonal = False  # its steps are divided by the root of the squares, as it says
    checks: list[Callable[[], list[Check]]] = [
        lambda: [_check_descent(make, subject, reads_inputs=reads_inputs)],
        lambda: [_check_training(make, subject, reads_inputs=reads_inputs)],
        lambda: [_check_resume(make, subject, reads_inputs=reads_inputs)],
        lambda: _check_periods(make, subject, reads_inputs=reads_inputs),
    ]
    found: list[Check] = []
    for check in checks:
        found += check()
    if orthogonal:
        found += [_check_orthogonal(make, subject), _check_shapes(make, subject)]
    else:
        found.append(skipped(ORTHOGONAL, subject, f"{_name(spec)!r} claims no orthogonal steps"))
    decays = any(word in name for word in _DECAYING_NAMES) or "sgd" in re.split(r"\W+", name)
    if decays and not reads_inputs:
        found.append(_check_decay(make, subject))
    else:
        found.append(skipped(DECAYS, subject, f"{_name(spec)!r} claims no decaying momentum"))
    return found


def _name(spec: object) -> str:
    name = getattr(spec, "name", type(spec).__name__)
    return str(name)


class _Problem:
    """A linear layer that learns a linear map; W x for x of length about 1.

    Args:
        make: of the optimizer.
        num_samples: examples, the same at every step.
        reads_inputs: whether layers are recorded.
        seed: of what the optimizer draws when it is made.
    """

    def __init__(
        self, make: OptimizerFactory, num_samples: int, *, reads_inputs: bool, seed: int = 0
    ) -> None:
        generator = make_generator(0, "doctor", "optimizer")
        self.layer = nn.Linear(8, 6, bias=False, device="cpu", dtype=torch.float32)
        self.x = _draw(generator, num_samples, 8) / 8**0.5
        self.y = self.x @ _draw(generator, 8, 6)
        with torch.no_grad():
            self.layer.weight.copy_(0.1 * _draw(generator, 6, 8))
        self.reads_inputs = reads_inputs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.optimizer = make(list(self.layer.parameters()))

    def loss(self) -> float:
        """Half the squared error, a mean over examples."""
        with torch.no_grad():
            return float(0.5 * (self.layer(self.x) - self.y).square().sum(1).mean())

    def step(self, scale: float = 1.0) -> None:
        """One step; the gradient is multiplied by `scale`."""
        with record_layers(self.layer) if self.reads_inputs else nullcontext():
            self.optimizer.zero_grad()
            loss = 0.5 * (self.layer(self.x) - self.y).square().sum(1).mean()
            (scale * loss).backward()
            self.optimizer.step()


def _draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)


def _check_descent(make: OptimizerFactory, subject: str, *, reads_inputs: bool) -> Check:
    """On a quadratic of 16 examples, and of one, where rules that project their input away rest."""
    said = []
    for number in (16, 1):
        problem = _Problem(make, number, reads_inputs=reads_inputs)
        start = problem.loss()
        for _ in range(NUM_STEPS):
            problem.step()
        end = problem.loss()
        said.append(f"{start:.3g} to {end:.3g} on {number} example{'s' * (number > 1)}")
        if end < start * (1 - 1e-6):
            continue
        told = f"loss {said[-1]} in {NUM_STEPS} steps"
        if abs(end - start) <= 1e-3 * start:
            why = (
                "the step is gone; lr may not be 0, and since the gradient of a linear layer is "
                "parallel to its input, nothing may be projected off it"
            )
        else:
            why = "it climbs: subtract the gradient, or lower lr"
        return failed(DESCENDS, subject, f"{told}: {why}")
    return passed(DESCENDS, subject, f"loss {', '.join(said)} in {NUM_STEPS} steps")


def _check_training(make: OptimizerFactory, subject: str, *, reads_inputs: bool) -> Check:
    """Whether the tensors that an optimizer keeps, and modules in it, ever move."""
    problem = _Problem(make, 16, reads_inputs=reads_inputs)
    period = _longest_period(problem.optimizer)
    problem.step()
    before = keep_values(_list_inner(problem.optimizer))
    for step in range(min(2 * period + 6, MOST_STEPS)):
        problem.step(scale=1.0 + 0.5 * (step % 3))
    after = _list_inner(problem.optimizer)
    tensors = {
        name
        for name, value in after.items()
        if isinstance(value, Tensor) and value.numel() > 1 and bool(value.any())
    }
    if not tensors:
        return skipped(TRAINED, subject, "it keeps no tensors")
    moved = set(list_changed(before, after))
    still = sorted(tensors - moved)
    if still:
        return failed(
            TRAINED,
            subject,
            f"{list_names(still)} never moved while gradients came: a memory that is not trained "
            "is a random function; take a step on its own loss at every update",
        )
    return passed(TRAINED, subject, f"all {len(tensors)} tensors that it keeps move")


def _check_resume(make: OptimizerFactory, subject: str, *, reads_inputs: bool) -> Check:
    """Whether weights and `state_dict()` say all that the next step depends on."""
    whole = _Problem(make, 16, reads_inputs=reads_inputs)
    cut = 7
    for _ in range(cut):
        whole.step()
    again = _Problem(make, 16, reads_inputs=reads_inputs, seed=1)  # as in another process
    again.layer.load_state_dict(copy.deepcopy(whole.layer.state_dict()))
    again.optimizer.load_state_dict(copy.deepcopy(whole.optimizer.state_dict()))
    lost = list_changed(
        keep_values(_list_inner(whole.optimizer)), keep_values(_list_inner(again.optimizer))
    )
    rest = min(2 * _longest_period(whole.optimizer) + 8, MOST_STEPS)
    differing: list[str] = []
    step = 0
    while step < rest and not differing:  # a clock that is late may be right again at the end
        step += 1
        whole.step()
        again.step()
        differing = list_changed(
            dict(whole.layer.named_parameters()), dict(again.layer.named_parameters())
        )
    if differing:
        missing = list_names(lost) if lost else "what the step depends on"
        return failed(
            RESUMES,
            subject,
            f"restored at step {cut}, other weights {step} steps on; state_dict() lacks {missing}: "
            "keep it in optimizer.state or param_groups",
        )
    return passed(RESUMES, subject, f"restored at step {cut}, the same bits {rest} steps on")


def _check_periods(make: OptimizerFactory, subject: str, *, reads_inputs: bool) -> list[Check]:
    """Whether periods among the settings of an optimizer are read."""
    group = _Problem(make, 16, reads_inputs=reads_inputs).optimizer.param_groups[0]
    held = vars(_Problem(make, 16, reads_inputs=reads_inputs).optimizer)
    names = [
        name
        for name, value in [*group.items(), *held.items()]
        if is_period(name) and isinstance(value, int) and not isinstance(value, bool)
    ]
    checks = []
    for name in dict.fromkeys(names):
        ends = []
        for value in (1, NEVER):
            problem = _Problem(make, 16, reads_inputs=reads_inputs)
            for one in problem.optimizer.param_groups:
                if name in one:
                    one[name] = value
            if name in vars(problem.optimizer):
                setattr(problem.optimizer, name, value)
            for _ in range(8):
                problem.step()
            ends.append(keep_values(dict(problem.layer.named_parameters())))
        moved = list_changed(*ends)
        text = f"{name} = 1 and {NEVER:,} "
        if moved:
            checks.append(passed(PERIOD, f"{subject}: {name}", text + "give other weights"))
        else:
            text += "give the same bits: no code reads it"
            checks.append(failed(PERIOD, f"{subject}: {name}", text))
    return checks


def _check_orthogonal(make: OptimizerFactory, subject: str) -> Check:
    """Singular values of a first step from a gradient whose own go from 1 to 0.05."""
    generator = make_generator(0, "doctor", "orthogonal")
    worst, said = 1.0, []
    for shape in ((12, 24), (24, 12)):
        left, _, right = torch.linalg.svd(_draw(generator, *shape), full_matrices=False)
        values = torch.logspace(0, -1.3, min(shape), device="cpu", dtype=torch.float32)
        weight = nn.Parameter(torch.zeros(shape, device="cpu", dtype=torch.float32))
        optimizer = make([weight])
        weight.grad = left @ torch.diag(values) @ right
        optimizer.step()
        found = torch.linalg.svdvals(weight.detach())
        most = float(found[0])
        ratio = float(found[-1]) / most if most > 0 else 0.0
        worst = min(worst, ratio)
        said.append(f"{ratio:.2g} of the largest ({shape[0]} x {shape[1]})")
    text = f"smallest singular value of a step: {', '.join(said)}"
    if worst < LEAST_RATIO:
        return failed(
            ORTHOGONAL,
            subject,
            f"{text}; five quintic Newton-Schulz steps give 0.6 and more, tanh or three cubic "
            "steps do not",
        )
    return passed(ORTHOGONAL, subject, text)


def _check_shapes(make: OptimizerFactory, subject: str) -> Check:
    """Least time of a step on a wide matrix and on its transpose."""
    shapes = ((NARROW, WIDE), (WIDE, NARROW))
    optimizers = []
    for shape in shapes:
        weight = nn.Parameter(torch.zeros(shape, device="cpu", dtype=torch.float32))
        weight.grad = _draw(make_generator(0, "doctor", "shapes"), *shape)
        optimizers.append(make([weight]))
        optimizers[-1].step()
    best = [math.inf, math.inf]
    ratio = math.inf
    first = time.perf_counter()
    for turn in range(MOST_TURNS):
        for index, optimizer in enumerate(optimizers):
            begun = time.perf_counter()
            optimizer.step()
            best[index] = min(best[index], time.perf_counter() - begun)
        ratio = max(best) / max(min(best), 1e-6)
        # A busy machine makes one of them slow by chance, hardly all of them.
        if turn >= 2 and (ratio <= MOST_SLOWER or begun - first > MOST_SECONDS):
            break
    wide, tall = best
    slow = "wide" if wide > tall else "tall"
    text = (
        f"a step on {NARROW} x {WIDE} takes {1e3 * wide:.2g} ms, on {WIDE} x {NARROW} "
        f"{1e3 * tall:.2g} ms"
    )
    if ratio > MOST_SLOWER:
        return failed(
            SHAPES, subject, f"{text}: transpose {slow} matrices, their products are small then"
        )
    return passed(SHAPES, subject, text)


def _check_decay(make: OptimizerFactory, subject: str) -> Check:
    """Whether any buffer grows with every gradient and keeps all of it when none comes."""
    weight = nn.Parameter(torch.zeros(6, 8, device="cpu", dtype=torch.float32))
    grad = _draw(make_generator(0, "doctor", "decay"), 6, 8)
    optimizer = make([weight])
    for group in optimizer.param_groups:  # of a long period a short one shows the same
        for name, value in group.items():
            if is_period(name) and isinstance(value, int) and value > LONG_PERIOD:
                group[name] = LONG_PERIOD
    size = max(8, min(2 * _longest_period(optimizer), MOST_STEPS // 2))

    def go_on(scale: float) -> dict[str, float]:
        for _ in range(size):
            weight.grad = scale * grad
            optimizer.step()
        return {
            name: float(value.detach().float().norm())
            for name, value in _list_inner(optimizer).items()
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1
        }

    first, second = go_on(1.0), go_on(1.0)
    begun, rested = go_on(0.0), go_on(0.0)
    sums = [
        name
        for name, value in second.items()
        if "max" not in name  # a running maximum, as it says
        and value >= 1.9 * first.get(name, 0.0) > 0
        and rested.get(name, 0.0) >= 0.9999 * begun.get(name, 0.0) > 0
    ]
    if not second:
        return skipped(DECAYS, subject, "it keeps no tensors")
    if sums:
        one = sums[0]
        return failed(
            DECAYS,
            subject,
            f"{list_names(sums)}: norm {first.get(one, 0.0):.3g} after {size} equal gradients, "
            f"{second[one]:.3g} after {2 * size}, {rested[one]:.3g} after {2 * size} of zero; "
            "M <- b M + (1 - b) g decays",
        )
    return passed(DECAYS, subject, f"{len(second)} buffers: none keeps all of what it gathered")


def _list_inner(optimizer: torch.optim.Optimizer) -> dict[str, Tensor | float]:
    """Tensors and numbers that an optimizer keeps: its state, and its own attributes."""
    held: dict[str, Tensor | float] = {}
    own = {id(param) for group in optimizer.param_groups for param in group["params"]}
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for index, param in enumerate(params):
        if param in optimizer.state:
            held |= list_held(dict(optimizer.state[param]), f"state[{index}]")
    held |= list_held(optimizer)
    return {
        name: value
        for name, value in held.items()
        if not (isinstance(value, Tensor) and id(value) in own)
    }


def _longest_period(optimizer: torch.optim.Optimizer) -> int:
    """Of the periods among an optimizer's settings; 1 if it has none."""
    settings = [*optimizer.param_groups[0].items(), *vars(optimizer).items()]
    found = [
        value
        for name, value in settings
        if is_period(name) and isinstance(value, int) and 1 <= value <= MOST_STEPS
    ]
    return max(found, default=1)


def examine_optimizer(optimizer: OptimizerSpec | OptimizerFactory, subject: str) -> list[Check]:
    """As `check_optimizer`; one that raises is not examined, and that is said.

    Raises:
        NestlingError: it makes no optimizer.
    """
    try:
        with torch.random.fork_rng(devices=[]):  # what they draw is none of the caller's numbers
            return check_optimizer(optimizer, subject)
    except NestlingError:
        raise
    except Exception as error:
        told = " ".join(str(error).split())[:160]
        return [failed(DESCENDS, subject, f"it raises {type(error).__name__}: {told}")]
