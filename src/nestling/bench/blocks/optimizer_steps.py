"""Time of a Muon and an M3 step over torch's Muon, on the matrices of six GPT layers."""

import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nestling.bench.timing import Side, time_rounds
from nestling.core.seeds import make_generator
from nestling.optim.deep.m3 import M3, M3Optimizer
from nestling.optim.deep.muon import Muon, MuonOptimizer, Precision
from nestling.optim.deep.newton_schulz import QUINTIC

WIDTH = 384
# The 24 matrices of the 10.65 M parameters of six GPT layers.
SHAPES = 6 * [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
LR, MOMENTUM, WEIGHT_DECAY, STEPS = 0.02, 0.95, 0.1, 5
PERIOD = 32  # of M3, its default
# Steps of a round: one chunk of M3, so that each round has one of its boundaries.
NUM_STEPS = PERIOD


def measure_optimizer_steps(num_rounds: int = 5) -> dict[str, float]:
    """Measure Muon and M3 steps over `torch.optim.Muon`'s, one thread, same steps and dtype.

    The dtype is that of Newton-Schulz. torch's is bfloat16 and nothing else, so that its side in
    float32 is torch's own step with that one conversion left out. Rounds of `NUM_STEPS` steps in
    turns; seconds of this thread, which other processes on the machine do not lengthen.

    Args:
        num_rounds: rounds that count, after one of warm-up.

    Returns: medians over rounds of ratios: "muon_over_torch_muon", "m3_over_torch_muon" in
        float32; "muon_bfloat16_over_torch_muon", "m3_bfloat16_over_torch_muon" in bfloat16 against
        `torch.optim.Muon` as it is; and "torch_muon_float32_seconds", "torch_muon_seconds" a step.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        makers: dict[str, Callable[[list[nn.Parameter]], Callable[[], object]]] = {
            "torch float32": _make_loop,
            "torch bfloat16": _make_torch,
        }
        precisions: tuple[Precision, ...] = ("float32", "bfloat16")
        for precision in precisions:
            makers[f"muon {precision}"] = functools.partial(_make_muon, precision)
            makers[f"m3 {precision}"] = functools.partial(_make_m3, precision)
        sides: dict[str, Side] = {name: _StepSide(make) for name, make in makers.items()}
        seconds = time_rounds(sides, num_rounds)
    finally:
        torch.set_num_threads(before)

    def compare(side: str, base: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[side], seconds[base], strict=True))

    return {
        "muon_over_torch_muon": compare("muon float32", "torch float32"),
        "m3_over_torch_muon": compare("m3 float32", "torch float32"),
        "muon_bfloat16_over_torch_muon": compare("muon bfloat16", "torch bfloat16"),
        "m3_bfloat16_over_torch_muon": compare("m3 bfloat16", "torch bfloat16"),
        "torch_muon_float32_seconds": statistics.median(seconds["torch float32"]) / NUM_STEPS,
        "torch_muon_seconds": statistics.median(seconds["torch bfloat16"]) / NUM_STEPS,
    }


class _StepSide:
    """The matrices and one optimizer over them; a round is `NUM_STEPS` steps."""

    def __init__(self, make: Callable[[list[nn.Parameter]], Callable[[], object]]) -> None:
        generator = make_generator(0, "optimizer steps")
        draw = functools.partial(
            torch.randn, generator=generator, dtype=torch.float32, device="cpu"
        )
        params = [nn.Parameter(0.02 * draw(shape)) for shape in SHAPES]
        for param in params:
            param.grad = draw(param.shape)
        self.advance = make(params)

    def __call__(self) -> float:
        start = time.thread_time()
        for _ in range(NUM_STEPS):
            self.advance()
        return time.thread_time() - start


def _make_muon(precision: Precision, params: list[nn.Parameter]) -> Callable[[], object]:
    spec = Muon(lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, precision=precision)
    return MuonOptimizer(params, spec).step


def _make_m3(precision: Precision, params: list[nn.Parameter]) -> Callable[[], object]:
    spec = M3(lr=LR, weight_decay=WEIGHT_DECAY, period=PERIOD, precision=precision)
    return M3Optimizer(params, spec).step


def _make_torch(params: list[nn.Parameter]) -> Callable[[], object]:
    return torch.optim.Muon(
        params, lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, ns_steps=STEPS
    ).step


def _make_loop(params: list[nn.Parameter]) -> Callable[[], object]:
    """torch's Muon, operation by operation, but for its conversion to bfloat16."""
    buffers = [torch.zeros_like(param) for param in params]

    @torch.no_grad()
    def step() -> None:
        for param, buffer in zip(params, buffers, strict=True):
            assert param.grad is not None
            buffer.lerp_(param.grad, 1 - MOMENTUM)
            update = _orthogonalize_one(param.grad.lerp(buffer, MOMENTUM))
            ratio = max(1.0, param.shape[0] / param.shape[1]) ** 0.5
            param.mul_(1 - LR * WEIGHT_DECAY)
            param.add_(update, alpha=-LR * ratio)

    return step


def _orthogonalize_one(update: Tensor) -> Tensor:
    a, b, c = QUINTIC
    is_tall = update.size(0) > update.size(1)
    x_mn = update.T if is_tall else update
    x_mn.div_(x_mn.norm().clamp(min=1e-7))
    for _ in range(STEPS):
        gram = x_mn @ x_mn.T
        x_mn = torch.addmm(x_mn, torch.addmm(gram, gram, gram, beta=b, alpha=c), x_mn, beta=a)
    return x_mn.T if is_tall else x_mn
