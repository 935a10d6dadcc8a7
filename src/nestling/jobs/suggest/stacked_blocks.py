"""Which blocks of a pre-trained language model pay as levels that learn at test time, measured.

Axes: S sequences, T tokens, K logits.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.errors import NestlingError
from nestling.core.modes import copy_module, eval_mode
from nestling.jobs.suggest.choosing import Reason
from nestling.models import stack_levels

CHUNKS = (8, 32, 128)
# Sequences that are measured on: one half chooses chunks and rates, the other tells their gain.
NUM_SEQUENCES = 16
MAX_LENGTH = 256
MIN_SEQUENCES = 4
# A write of the first chunk moves a weight by this share of its norm.
SHARES = (0.003, 0.01, 0.03)
# Only the last blocks are tried: what is written there costs the shortest way back.
MAX_BLOCKS = 6
# Standard errors that a cosine and a gain must lie above zero.
NUM_ERRORS = 2.0
LEVEL = "stacking"


@dataclass(frozen=True)
class StackedBlock:
    """What one block does as a level that writes at test time.

    Attributes:
        pattern: the glob of its parameters: the output layer of an MLP.
        chunk: tokens between two writes.
        rate: per token.
        alignment: mean cosine of the gradients of a chunk and of the next one.
        alignment_error: its standard error.
        gain: by how much the next-token loss falls on other sequences, in nats per token.
        gain_error: its standard error, over sequences.
    """

    pattern: str
    chunk: int
    rate: float = 0.0
    alignment: float = 0.0
    alignment_error: float = math.inf
    gain: float = 0.0
    gain_error: float = math.inf


@dataclass(frozen=True)
class StackingAdvice:
    """Which blocks to stack with `nl.stack_levels`, and why, or why not.

    Attributes:
        blocks: that pay, together; empty where stacking does not.
        tried: the best chunk of every block that was looked at.
        reasons: in words, with the measured numbers.
        is_token_model: whether the model foretells the next token, so that stacking applies.
    """

    blocks: tuple[StackedBlock, ...]
    tried: tuple[StackedBlock, ...]
    reasons: tuple[Reason, ...]
    is_token_model: bool

    @property
    def call(self) -> str:
        """The call that stacks them; empty where none pays."""
        if not self.blocks:
            return ""
        levels = ", ".join(f'"{block.pattern}": {block.chunk}' for block in self.blocks)
        rates = ", ".join(f"{block.rate:g}" for block in self.blocks)
        return f"nl.models.stack_levels(model, {{{levels}}}, rate=[{rates}])"


def find_mlp_outputs(model: nn.Module) -> list[str]:
    """Names of the output layers of the MLP blocks of a model, in order, without its head.

    An MLP is two linear layers in a row within one module, the first of which widens; in an
    `nn.Sequential` also one with a module without weights between them. The last linear layer of
    the model is its head.

    >>> from nestling.models import gpt_blocks
    >>> find_mlp_outputs(nn.Sequential(gpt_blocks(2, 8, 2), nn.Linear(8, 5)))
    ['0.0.out', '0.1.out']
    >>> layers = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2)]
    >>> find_mlp_outputs(nn.Sequential(*layers))
    ['2']
    """
    layers = [name for name, one in model.named_modules() if isinstance(one, nn.Linear)]
    found = []
    for name, parent in model.named_modules():
        children = list(parent.named_children())
        for index, (_, first) in enumerate(children):
            if not isinstance(first, nn.Linear):
                continue
            rest = children[index + 1 :]
            between = 0
            while between < len(rest) and not list(rest[between][1].parameters()):
                between += 1
            if between == len(rest) or not isinstance(second := rest[between][1], nn.Linear):
                continue
            widens = first.out_features > first.in_features
            in_row = isinstance(parent, nn.Sequential) and between > 0
            if second.in_features == first.out_features and (widens or in_row):
                found.append(f"{name}.{rest[between][0]}" if name else rest[between][0])
    return [name for name in layers if name in found and name != layers[-1]]


def suggest_stacking(
    model: nn.Module,
    tokens_ST: Tensor,
    *,
    chunks: Sequence[int] = CHUNKS,
    seed: int = 0,
) -> StackingAdvice:
    """Measure which MLP blocks of a language model pay as stacked levels, and at which periods.

    A write pays at first order if the gradient of a chunk points the way of the next one's. So for
    each block and chunk the cosine of the two is measured; where it is clearly above zero, three
    rates are tried on one half of the sequences, and what they gain is measured on the other.
    Blocks stay together only if they gain more than the best of them alone.

    Args:
        model: (B, T) tokens -> (B, T, K) logits; not changed.
        tokens_ST: integers; what the model has not seen.
        chunks: tokens between two writes that are tried.
        seed: draws the sequences.

    Returns: the advice; without blocks where stacking does not apply or does not pay.
    """
    twin = copy_module(model)
    with eval_mode(twin):
        why = _find_obstacle(twin, tokens_ST, min(chunks))
        if why:
            said = f"{why}; nl.stack_levels learns from the next token of a causal model"
            return StackingAdvice((), (), (Reason(LEVEL, "blocks", "none", said),), False)
        names = find_mlp_outputs(twin)[-MAX_BLOCKS:]
        if not names:
            said = "the model has no MLP block: two linear layers in a row, the first one wider"
            return StackingAdvice((), (), (Reason(LEVEL, "blocks", "none", said),), True)
        generator = torch.Generator(device="cpu").manual_seed(seed)
        order = torch.randperm(len(tokens_ST), generator=generator, device="cpu")[:NUM_SEQUENCES]
        chosen_ST = tokens_ST[order.to(tokens_ST.device), :MAX_LENGTH]
        fit_ST, held_ST = chosen_ST[::2], chosen_ST[1::2]
        tried = [_try_block(twin, name, fit_ST, held_ST, chunks) for name in names]
        paying = [block for block in tried if _pays(block.gain, block.gain_error)]
        joint = _measure_gains(twin, paying, held_ST) if len(paying) > 1 else []
    best = max(paying, key=lambda block: block.gain, default=None)
    together = statistics.fmean(joint) if joint else 0.0
    blocks = tuple(paying) if best and together > best.gain else (best,) if best else ()
    reasons = [_explain(block, block in blocks, len(held_ST)) for block in tried]
    if joint and best is not None:
        verdict = "more than" if len(blocks) > 1 else "no more than"
        said = f"together they gain {together:+.4f} nats per token, {verdict} the best one alone"
        reasons.append(Reason(LEVEL, "blocks", str(len(blocks)), said))
    elif not blocks:
        said = "no block gains clearly on sequences that did not choose its rate; do not stack"
        reasons.append(Reason(LEVEL, "blocks", "none", said))
    return StackingAdvice(blocks, tuple(tried), tuple(reasons), True)


def _find_obstacle(model: nn.Module, tokens_ST: Tensor, chunk: int) -> str:
    """Why stacking does not apply; empty if it does."""
    if tokens_ST.dim() != 2 or tokens_ST.is_floating_point() or tokens_ST.dtype == torch.bool:
        return f"the inputs are {tokens_ST.dtype} of shape {tuple(tokens_ST.shape)}, no tokens"
    if len(tokens_ST) < MIN_SEQUENCES or tokens_ST.shape[1] < 2 * chunk:
        return (
            f"{len(tokens_ST)} sequences of {tokens_ST.shape[1]} tokens are too few; "
            f"{MIN_SEQUENCES} of {2 * chunk} work"
        )
    one_1T = tokens_ST[:1, :MAX_LENGTH]
    try:
        with torch.no_grad():
            logits = model(one_1T)
            other = model(torch.cat([one_1T[:, :-1], tokens_ST[1:2, :1]], 1))
    except (IndexError, RuntimeError, TypeError, ValueError, NestlingError) as error:
        shown = (str(error).splitlines() or [type(error).__name__])[0]
        return f"the model cannot read whole numbers ({shown})"
    if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[:2] != one_1T.shape:
        return "the model gives no logits (B, T, K) of the next tokens"
    if logits.shape[2] <= int(tokens_ST.max()):
        return f"{logits.shape[2]} logits for tokens up to {int(tokens_ST.max())}"
    if not torch.allclose(logits[:, :-1], other[:, :-1], atol=1e-5):
        return "the model is not causal: a token changes what is said before it"
    return ""


def _try_block(
    model: nn.Module, name: str, fit_ST: Tensor, held_ST: Tensor, chunks: Sequence[int]
) -> StackedBlock:
    """The best chunk and rate of one block by one half, and its gain on the other."""
    pattern = f"{name}.*"
    best, best_gain = StackedBlock(pattern, min(chunks)), -math.inf
    for chunk in chunks:
        if fit_ST.shape[1] < 2 * chunk:
            continue
        alignment, error, size = _measure_alignment(model, name, fit_ST, chunk)
        block = StackedBlock(pattern, chunk, 0.0, alignment, error)
        if not _pays(alignment, error):
            if best_gain == -math.inf and alignment > best.alignment:
                best = block
            continue
        weight = dict(model.named_parameters())[f"{name}.weight"]
        for share in SHARES:
            rate = float(f"{share * float(weight.detach().norm()) / size:.2g}")
            gains = _measure_gains(model, [replace(block, rate=rate)], fit_ST)
            if (gain := statistics.fmean(gains)) > best_gain:
                best, best_gain = replace(block, rate=rate), gain
    if best_gain <= 0.0:
        return best
    gains = _measure_gains(model, [best], held_ST)
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    return replace(best, gain=statistics.fmean(gains), gain_error=error)


def _measure_alignment(
    model: nn.Module, name: str, tokens_ST: Tensor, chunk: int
) -> tuple[float, float, float]:
    """Mean cosine of a chunk's gradient and the next one's, its error, a gradient's mean norm."""
    weights = [one for key, one in model.named_parameters() if key.startswith(f"{name}.")]
    cosines, norms = [], []
    for tokens_T in tokens_ST:
        with torch.enable_grad():
            logits_TK = model(tokens_T[None])[0]
            losses_T = functional.cross_entropy(
                logits_TK[:-1], tokens_T[1:].long(), reduction="none"
            )
        before: Tensor | None = None
        own = []
        for begin in range(0, len(tokens_T) - chunk + 1, chunk):
            part_T = losses_T[max(begin - 1, 0) : begin + chunk - 1]
            if not len(part_T):  # nothing foretells the first token
                continue
            grads = torch.autograd.grad(part_T.sum(), weights, retain_graph=True)
            now = torch.cat([grad.flatten() for grad in grads])
            norms.append(float(now.norm()))
            if before is not None:
                own.append(float(functional.cosine_similarity(before, now, dim=0)))
            before = now
        cosines.append(statistics.fmean(own))
    error = statistics.stdev(cosines) / math.sqrt(len(cosines))
    return statistics.fmean(cosines), error, max(statistics.fmean(norms), 1e-12)


def _measure_gains(
    model: nn.Module, blocks: Sequence[StackedBlock], tokens_ST: Tensor
) -> list[float]:
    """Fall of the next-token loss of each sequence, in nats per token, by writes."""
    levels: Mapping[str, int] = {block.pattern: block.chunk for block in blocks}
    stacked = stack_levels(model, levels, rate=[block.rate for block in blocks])
    found = []
    for write in (False, True):
        logits_STK, _ = stacked.read(tokens_ST, write=write)
        losses = functional.cross_entropy(
            logits_STK[:, :-1].mT, tokens_ST[:, 1:].long(), reduction="none"
        )
        found.append(losses.mean(1))
    gains: list[float] = (found[0] - found[1]).tolist()
    return gains


def _pays(value: float, error: float) -> bool:
    return value > NUM_ERRORS * error


def _explain(block: StackedBlock, is_chosen: bool, num_held: int) -> Reason:
    said = (
        f"gradients of a chunk of {block.chunk} tokens and of the next have cosine "
        f"{block.alignment:+.3f} +- {block.alignment_error:.3f}"
    )
    if block.rate == 0.0:
        return Reason(LEVEL, block.pattern, "no", f"{said}: writes would not help what follows")
    said += (
        f"; on {num_held} other sequences writes at rate {block.rate:g} lower the loss by "
        f"{block.gain:+.4f} +- {block.gain_error:.4f} nats per token"
    )
    if is_chosen:
        return Reason(LEVEL, block.pattern, f"{block.chunk} tokens", said)
    why = "less than another block" if _pays(block.gain, block.gain_error) else "not clearly"
    return Reason(LEVEL, block.pattern, "no", f"{said}: {why}")
