"""Leaks: what an output knows of later tokens, or of other samples of the batch."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nestling.core.seeds import make_generator
from nestling.doctor.check_results import Check, failed, passed, skipped
from nestling.doctor.examined_model import ExaminedModel, Mode
from nestling.doctor.hidden_state import list_held, list_module_state
from nestling.doctor.period_checks import find_periods

CAUSAL, SAMPLES, SETTLE = "causal", "no leak between samples", "repeated writes settle"
_MODES: tuple[Mode, ...] = ("train", "eval")
NUM_REPEATS, TOKENS_PER_REPEAT, MOST_GROWTH = 16, 8, 3.0


def check_causal(subject: ExaminedModel) -> Check:
    """Whether no output changes when later tokens of its sequence are replaced."""
    if not subject.is_sequence:
        return skipped(CAUSAL, "model", "its outputs have no axis of tokens")
    x = subject.x
    length = x.shape[1]
    other = draw_like(x, "later tokens")
    cuts = sorted({1, length // 4, length // 2 + 1, length - 1} - {0, length})
    worst, where = 0.0, ""
    modes, said = _choose_modes(subject)
    for mode in modes:
        y, _ = subject.copy(mode).call(x, write=True)
        scale = max(float(y.detach().abs().max()), 1e-6)
        for cut in cuts:
            mixed = torch.cat([x[:, :cut], other[:, cut:]], 1)
            y_mixed, _ = subject.copy(mode).call(mixed, write=True)
            moved_T = (y_mixed - y).detach()[:, :cut].abs().flatten(2).amax((0, 2)) / scale
            if float(moved_T.max()) > worst:
                worst = float(moved_T.max())
                where = f"output {int(moved_T.argmax())} when tokens from {cut} on are replaced"
    if worst > _tolerate(x, subject):
        return failed(
            CAUSAL,
            "model",
            f"{where} moves by {worst:.2g} of the largest output; mask what comes later, and let "
            "a write be read by later tokens only",
        )
    text = f"later tokens replaced at {cuts}: outputs move by {worst:.1g}{said}"
    return passed(CAUSAL, "model", text)


def check_samples(subject: ExaminedModel) -> Check:
    """Whether no sample's output changes when the other samples of the batch are replaced.

    Several calls follow one another, each with the state of the last: fast state that is shared
    shows. If the model declares periods, there are more of them than its longest, up to 34.
    """
    x = subject.x
    if len(x) < 2:
        return skipped(SAMPLES, "model", "the inputs are one sample; two or more show it")
    other = draw_like(x, "other samples")
    modes, said = _choose_modes(subject)
    periods = [
        value for path, value in find_periods(subject.module).items() if "chunks" not in path
    ]
    number = min(max(periods, default=1) + 2, 34)
    worst, where = 0.0, ""
    for mode in modes:
        for kept in (0, len(x) - 1):
            mixed = other.clone()
            mixed[kept] = x[kept]
            one, two = (_call_often(subject, each, mode, number) for each in (x, mixed))
            for index, (y, y_mixed) in enumerate(zip(one, two, strict=True)):
                scale = max(float(y.detach().abs().max()), 1e-6)
                moved = float((y_mixed - y).detach()[kept].abs().max()) / scale
                if moved > worst:
                    worst = moved
                    where = f"sample {kept} in call {index + 1} ({mode} mode)"
    if worst > _tolerate(x, subject):
        return failed(
            SAMPLES,
            "model",
            f"{where} moves by {worst:.2g} of the largest output when the other samples are "
            "replaced; give every sample a fast state of its own",
        )
    return passed(SAMPLES, "model", f"others replaced: outputs move by {worst:.1g}{said}")


def check_repeats(subject: ExaminedModel) -> Check:
    """Whether what is written comes to rest when the same token comes again and again.

    A delta rule comes to rest, a Hebbian rule goes on evenly, and neither leaves a state as it was.
    Writes that climb their loss (gradient ascent) grow each time.
    """
    if not subject.is_sequence:
        return skipped(SETTLE, "model", "its outputs have no axis of tokens")
    one = subject.copy()
    token = subject.x[:, :1]
    size = min(TOKENS_PER_REPEAT, subject.x.shape[1])
    x = token.expand(-1, size, *token.shape[2:]).contiguous()
    state: object = None
    kept: list[dict[str, Tensor]] = []
    last: Tensor | None = None
    with one.without_graph():
        for _ in range(NUM_REPEATS + 1):
            last, state = one.call(x, state, write=True)
            kept.append(_read_fast(one.module, state))
        sizes = _list_changes(kept)
        what = "state"
        if subject.has_state and sizes and not any(sizes):
            return failed(
                SETTLE,
                "state",
                f"{NUM_REPEATS * size} tokens left the state as it was, bit for bit: nothing is "
                "written; see that the rate is not 0, and that no inner step projects its own "
                "gradient away",
            )
        if not any(sizes):  # it keeps nothing between calls
            length = subject.x.shape[1]
            whole = token.expand(-1, length, *token.shape[2:]).contiguous()
            last, _ = subject.copy().call(whole, write=True)
            sizes = [float(step) for step in last.diff(dim=1).flatten(2).norm(dim=(0, 2))]
            what = "output"
    if last is not None and not bool(torch.isfinite(last).all()):
        return failed(
            SETTLE,
            "model",
            "outputs become NaN or infinity when one token is repeated; a smaller rate, or keys "
            "of length 1, keep writes bounded",
        )
    if len(sizes) < 4:
        return skipped(SETTLE, "model", f"{len(sizes) + 1} tokens are too few")
    if not any(sizes):
        return skipped(SETTLE, "model", "it writes nothing that lasts beyond a token")
    middle, end = max(sizes[0], sizes[len(sizes) // 2]), sizes[-1]
    if not end <= MOST_GROWTH * middle + 1e-6:
        return failed(
            SETTLE,
            "model",
            f"the change of its {what} per repeat grew from {sizes[0]:.2g} to {end:.2g}: writes "
            "climb their loss; a delta rule subtracts eta (M k - v) k^T",
        )
    return passed(
        SETTLE,
        "model",
        f"change of its {what} per repeat of one token: {sizes[0]:.2g}, at the end {end:.2g}",
    )


def draw_like(x: Tensor, purpose: str) -> Tensor:
    """Other inputs of the same shape, dtype and range, different in every place if that can be."""
    generator = make_generator(0, "doctor", purpose)
    if x.is_floating_point():
        noise = torch.randn(x.shape, generator=generator, device="cpu", dtype=torch.float32)
        spread = float(x.float().std(correction=0)) or 1.0
        drawn: Tensor = noise.to(x) * spread + x.mean()
        return drawn
    seen = x.unique()
    place = torch.searchsorted(seen, x)
    if len(seen) < 2:
        return x.clone()
    shift = torch.randint(1, len(seen), x.shape, generator=generator, device="cpu")
    others: Tensor = seen[(place + shift.to(x.device)) % len(seen)]
    return others


def _choose_modes(subject: ExaminedModel) -> tuple[tuple[Mode, ...], str]:
    """The modes in which outputs are compared, and what is said if it is not both."""
    if any(isinstance(one, _BatchNorm) for one in subject.module.modules()):
        return ("eval",), " (in evaluation mode: batch normalisation mixes samples and tokens)"
    return _MODES, ""


def _tolerate(x: Tensor, subject: ExaminedModel) -> float:
    """What may be rounding, of the largest output: kernels add in other orders by chance."""
    dtypes = {param.dtype for param in subject.module.parameters()} | {x.dtype}
    eps = max(torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point)
    return 100 * eps if eps < 1e-4 else 2 * eps


def _call_often(subject: ExaminedModel, x: Tensor, mode: Mode, number: int) -> list[Tensor]:
    one = subject.copy(mode)
    state: object = None
    outputs = []
    for salt in range(number):
        with one.without_graph():
            y, state = one.call(x, state, write=True, salt=salt)
        outputs.append(y.detach())
    return outputs


def _read_fast(module: nn.Module, state: object) -> dict[str, Tensor]:
    """Copies of the floating-point tensors of a state and of what the module hides."""
    held = list_held(state, "state") | list_module_state(module)
    return {
        name: value.detach().clone()
        for name, value in held.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def _list_changes(kept: list[dict[str, Tensor]]) -> list[float]:
    """Norm of each change of the tensors that keep their shape from first to last; [] if none."""
    shared = [
        name
        for name, value in kept[0].items()
        if all(name in one and one[name].shape == value.shape for one in kept)
    ]
    if not shared:
        return []
    return [
        sum(float((after[name] - before[name]).norm()) ** 2 for name in shared) ** 0.5
        for before, after in pairwise(kept)
    ]
