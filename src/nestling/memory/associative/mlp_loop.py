"""Reference loop of MLP memories: token by token, gradients by autograd, in float64."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from nestling.memory.associative.fast_state import FastState
from nestling.memory.associative.inner_objectives import find_loss, find_weights
from nestling.memory.associative.mlp_state import (
    DeepFastState,
    check_deep_state,
    open_deep_state,
)
from nestling.memory.associative.paired_tokens import (
    PairedTokens,
    bound_rates,
    check_widths,
    pair_tokens,
    write_by_rows,
)
from nestling.memory.associative.write_rule import WriteRule

# Axes: B samples, H heads, T tokens, D width of keys and values, M hidden width.


def loop_mlp(
    rule: WriteRule,
    keys_BHTD: Tensor,
    values_BHTD: Tensor,
    rates_BHT: Tensor,
    decays_BHT: Tensor | None,
    state: DeepFastState,
    *,
    queries_BHTD: Tensor | None = None,
    momenta_BHT: Tensor | None = None,
    valid_BT: Tensor | None = None,
) -> tuple[Tensor, DeepFastState]:
    """Write a sequence into an MLP memory one token at a time, in float64: what `write_mlp` does.

    Arguments, results and errors are those of `write_mlp`, but the state that is returned is in
    float64. The gradient of the inner loss is taken by autograd, so it shares nothing with the
    fast form.

    >>> state = DeepFastState.draw(1, 1, 4, 8, torch.Generator().manual_seed(0))
    >>> k, v = torch.ones(1, 1, 3, 4) / 2, torch.zeros(1, 1, 3, 4)
    >>> loop_mlp(WriteRule(), k, v, torch.ones(1, 1, 3), None, state)[0].shape
    torch.Size([1, 1, 3, 4])
    """
    tokens = pair_tokens(
        queries_BHTD,
        keys_BHTD,
        values_BHTD,
        rates_BHT,
        decays_BHT,
        momenta_BHT,
        valid_BT,
        torch.float64,
    )
    num_samples, num_heads, _, width = tokens.keys.shape
    check_widths(tokens)
    check_deep_state(state)
    axes_BHD = (num_samples, num_heads, width)
    state = open_deep_state(
        rule, state.to(torch.float64), axes_BHD, with_momentum=momenta_BHT is not None
    )

    def write(tokens: PairedTokens, state: DeepFastState) -> tuple[Tensor, DeepFastState]:
        return _loop_tokens(rule, tokens, state)

    if rule.block > 1:
        outputs_BHTD, state = write_by_rows(tokens, state, valid_BT, write)
    else:
        outputs_BHTD, state = write(tokens, state)
    return outputs_BHTD.to(values_BHTD.dtype), state


def _loop_tokens(
    rule: WriteRule, tokens: PairedTokens, state: DeepFastState
) -> tuple[Tensor, DeepFastState]:
    """Tokens of samples that stand at the same place of a block."""
    layers = [state.outer, state.inner]
    num_in_block = max(state.counts_in_block, default=0)
    outputs = []
    for t in range(tokens.length):
        key_BHD, query_BHD = tokens.keys[:, :, t], tokens.queries[:, :, t]
        if num_in_block == 0:
            layers = [replace(one, in_force=one.weights) for one in layers]
        force = [find_weights(rule.retention, one.in_force_now) for one in layers]
        if rule.read == "before":
            outputs.append(_ask(force, query_BHD))
        slopes = _find_slopes(rule, force, key_BHD, tokens.values[:, :, t])
        hidden_BHM = functional.gelu((force[1] @ key_BHD[..., None])[..., 0])
        steps = zip(layers, slopes, (hidden_BHM, key_BHD), strict=True)
        layers = [_step(rule, tokens, t, *one) for one in steps]
        if rule.read == "after":
            now = [find_weights(rule.retention, one.weights) for one in layers]
            outputs.append(_ask(now, query_BHD))
        num_in_block = (num_in_block + 1) % rule.block
        layers = [replace(one, num_in_block=num_in_block) for one in layers]
    if num_in_block == 0:
        layers = [replace(one, in_force=None) for one in layers]
    outputs_BHTD = torch.stack(outputs, 2) if outputs else torch.zeros_like(tokens.values)
    return outputs_BHTD, DeepFastState(*layers)


def _ask(weights: list[Tensor], query_BHD: Tensor) -> Tensor:
    outer_BHDM, inner_BHMD = weights
    hidden_BHM1 = functional.gelu(inner_BHMD @ query_BHD[..., None])
    answer_BHD: Tensor = query_BHD + (outer_BHDM @ hidden_BHM1)[..., 0]
    return answer_BHD


def _find_slopes(
    rule: WriteRule, force: list[Tensor], key_BHD: Tensor, value_BHD: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of the inner loss at one pair by W_1 and W_2 in force."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        # Their own leaves, even where they are one tensor or need no gradient outside.
        weights: list[Tensor] = []
        for one in force:
            kept = one.clone()
            weights.append(kept if kept.requires_grad else kept.requires_grad_())
        loss = find_loss(rule.objective, _ask(weights, key_BHD), value_BHD).sum()
        return torch.autograd.grad(loss, weights, create_graph=differentiable)


def _step(
    rule: WriteRule,
    tokens: PairedTokens,
    t: int,
    layer: FastState,
    slope: Tensor,
    input_BHZ: Tensor,
) -> FastState:
    """W <- alpha W + S, S <- theta S - eta slope; as in `WriteRule`."""
    weights, momentum, anchor = layer.weights, layer.momentum, layer.anchor
    if rule.double_erase:
        slope = slope + weights @ input_BHZ[..., None] * input_BHZ[..., None, :]
    rates_BH = tokens.rates[:, :, t]
    if rule.proximal:
        rates_BH = bound_rates(rates_BH, input_BHZ)
    write = -rates_BH[..., None, None] * slope
    if tokens.decays is not None:
        decay = tokens.decays[:, :, t, None, None]
        weights = decay * weights if anchor is None else anchor + decay * (weights - anchor)
    if tokens.momenta is None:
        return replace(layer, weights=weights + write)
    assert momentum is not None
    momentum = tokens.momenta[:, :, t, None, None] * momentum + write
    step = 1 if tokens.steps is None else tokens.steps[:, :, t, None, None]
    return replace(layer, weights=weights + step * momentum, momentum=momentum)
