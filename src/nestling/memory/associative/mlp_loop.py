"""Reference loop of MLP memories: token by token, gradients by autograd, in float64."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from nestling.memory.associative.fast_state import FastState
from nestling.memory.associative.inner_objectives import find_loss
from nestling.memory.associative.mlp_state import DeepFastState, open_deep_state
from nestling.memory.associative.paired_tokens import PairedTokens, check_widths, pair_tokens
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
    num_samples, num_heads, length, width = tokens.keys.shape
    check_widths(tokens)
    axes_BHD = (num_samples, num_heads, width)
    state = open_deep_state(
        rule, state.to(torch.float64), axes_BHD, with_momentum=momenta_BHT is not None
    )
    layers = [state.outer, state.inner]
    outputs = []
    for t in range(length):
        if layers[0].num_in_block == 0:
            layers = [replace(one, in_force=one.weights) for one in layers]
        if rule.read == "before":
            outputs.append(_ask([one.in_force for one in layers], tokens.queries[:, :, t]))
        slopes = _find_slopes(rule, layers, tokens.keys[:, :, t], tokens.values[:, :, t])
        layers = [_step(tokens, t, *pair) for pair in zip(layers, slopes, strict=True)]
        if rule.read == "after":
            outputs.append(_ask([one.weights for one in layers], tokens.queries[:, :, t]))
        num_in_block = (layers[0].num_in_block + 1) % rule.block
        layers = [replace(one, num_in_block=num_in_block) for one in layers]
    if layers[0].num_in_block == 0:
        layers = [replace(one, in_force=None) for one in layers]
    outputs_BHTD = torch.stack(outputs, 2) if outputs else torch.zeros_like(tokens.values)
    return outputs_BHTD.to(values_BHTD.dtype), DeepFastState(*layers)


def _ask(weights: list[Tensor | None], query_BHD: Tensor) -> Tensor:
    outer_BHDM, inner_BHMD = weights
    assert outer_BHDM is not None
    assert inner_BHMD is not None
    hidden_BHM1 = functional.gelu(inner_BHMD @ query_BHD[..., None])
    answer_BHD: Tensor = query_BHD + (outer_BHDM @ hidden_BHM1)[..., 0]
    return answer_BHD


def _find_slopes(
    rule: WriteRule, layers: list[FastState], key_BHD: Tensor, value_BHD: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of the inner loss at one pair by W_1 and W_2 in force."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        # Their own leaves, even where they are one tensor or need no gradient outside.
        weights: list[Tensor | None] = []
        for one in layers:
            assert one.in_force is not None
            kept = one.in_force.clone()
            weights.append(kept if kept.requires_grad else kept.requires_grad_())
        loss = find_loss(rule.objective, _ask(weights, key_BHD), value_BHD).sum()
        found = [one for one in weights if one is not None]
        return torch.autograd.grad(loss, found, create_graph=differentiable)


def _step(tokens: PairedTokens, t: int, layer: FastState, slope: Tensor) -> FastState:
    """W <- alpha W + S, S <- theta S - eta slope; as in `WriteRule`."""
    write = -tokens.rates[:, :, t, None, None] * slope
    weights, momentum = layer.weights, layer.momentum
    if tokens.decays is not None:
        weights = tokens.decays[:, :, t, None, None] * weights
    if tokens.momenta is None:
        return replace(layer, weights=weights + write)
    assert momentum is not None
    momentum = tokens.momenta[:, :, t, None, None] * momentum + write
    step = 1 if tokens.steps is None else tokens.steps[:, :, t, None, None]
    return replace(layer, weights=weights + step * momentum, momentum=momentum)
