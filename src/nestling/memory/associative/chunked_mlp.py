"""Writes of two-layer residual MLP memories, parallel within blocks of tokens: the fast way."""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from nestling.core.arguments import check_whole
from nestling.memory.associative.chunk_scan import write_known
from nestling.memory.associative.chunked_writes import write_linear
from nestling.memory.associative.fast_state import FastState
from nestling.memory.associative.inner_objectives import find_push, find_weights
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
from nestling.memory.associative.write_rule import DELTA, HEBBIAN, WriteRule

# Axes: B samples, H heads, T tokens, D width of keys and values, M hidden width.


def write_mlp(
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
    chunk: int = 64,
) -> tuple[Tensor, DeepFastState]:
    """Write a sequence of key-value pairs into a two-layer residual MLP memory and read it out.

    M(z) = z + W_1 gelu(W_2 z);  for W in (W_1, W_2):  W_t = alpha_t W_(t-1) + S_t,
    S_t = theta_t S_(t-1) - eta_t grad_W L(M_f; k_t, v_t);  o_t = M_t(q_t)
    [Behrouz et al., Nested Learning, equations 71, 89 and 90; Titans, equations 9 to 14]

    M_f is the memory in force: that before the block of `rule.block` tokens. Within a block all
    gradients are known beforehand, so all is parallel; block after block is not. Equal to the
    reference loop `loop_mlp`. With `rule.double_erase` each layer's recurrence
    W_t = W_(t-1) (alpha I - eta z z^T) - eta grad (equation 88) is a delta rule of its inputs z
    with targets -grad, by one triangular solve. Under the retentions "kl" and "lq" a block is
    parallel if it is read before its writes.

    Args:
        rule: objective, block and read; a window or Oja's rule do not work here.
        keys_BHTD: (B, H, T, D).
        values_BHTD: (B, H, T, D), as wide as the keys, for the skip connection.
        rates_BHT: (B, H, T) eta.
        decays_BHT: (B, H, T) alpha in [0, 1], of both layers; None for 1.
        state: before the first token; it is not changed.
        queries_BHTD: (B, H, T, D); None for the keys.
        momenta_BHT: (B, H, T) theta in [0, 1); None for no momentum.
        valid_BT: (B, T) truth values, False for padding, which changes nothing; None if all are.
        chunk: tokens computed at once within a block; any number gives the same result.

    Returns: (B, H, T, D) answers in the dtype of the values; the state after the last token.
        Inside, float32 or more.

    Raises:
        ShapeMismatch: shapes that do not fit, a state of another batch.
        NonFiniteInput: NaN or infinity at a valid token.
        SettingError: a rule that an MLP cannot follow, a state that another rule left.

    >>> state = DeepFastState.draw(2, 1, 4, 8, torch.Generator().manual_seed(0))
    >>> k, rates = torch.eye(4).expand(2, 1, 4, 4), torch.ones(2, 1, 4)
    >>> write_mlp(WriteRule(block=2), k, 2 * k, rates, None, state)[0].shape
    torch.Size([2, 1, 4, 4])
    """
    chunk = check_whole("chunk", chunk, 1, "a number of tokens of 1 or more works")
    tokens = pair_tokens(
        queries_BHTD, keys_BHTD, values_BHTD, rates_BHT, decays_BHT, momenta_BHT, valid_BT
    )
    num_samples, num_heads, _, width = tokens.keys.shape
    check_widths(tokens)
    check_deep_state(state)
    state = open_deep_state(
        rule,
        state.to(tokens.keys.dtype),
        (num_samples, num_heads, width),
        with_momentum=momenta_BHT is not None,
    )

    def write(tokens: PairedTokens, state: DeepFastState) -> tuple[Tensor, DeepFastState]:
        return _write_tokens(rule, tokens, state, chunk)

    if rule.block > 1:
        outputs_BHTD, state = write_by_rows(tokens, state, valid_BT, write)
    else:
        outputs_BHTD, state = write(tokens, state)
    return outputs_BHTD.to(values_BHTD.dtype), state


def _write_tokens(
    rule: WriteRule, tokens: PairedTokens, state: DeepFastState, chunk: int
) -> tuple[Tensor, DeepFastState]:
    """Tokens of samples that stand at the same place of a block."""
    outputs, start = [torch.zeros_like(tokens.values[:, :, :0])], 0
    is_parallel = rule.retention.is_linear or rule.read == "before"
    while start < tokens.length:
        size = rule.block - max(state.counts_in_block, default=0) if is_parallel else 1
        end = min(start + size, tokens.length)
        piece, state = _write_block(rule, tokens.part(start, end), state, chunk)
        outputs.append(piece)
        start = end
    return torch.cat(outputs, 2), state


def _write_block(
    rule: WriteRule, tokens: PairedTokens, state: DeepFastState, chunk: int
) -> tuple[Tensor, DeepFastState]:
    """A block of tokens, or a part of one."""
    outer, inner = state.outer, state.inner
    outer_held, inner_held = outer.in_force_now, inner.in_force_now
    outer_force = find_weights(rule.retention, outer_held)
    inner_force = find_weights(rule.retention, inner_held)
    before_BHTM = tokens.keys @ inner_force.mT
    hidden_BHTM = functional.gelu(before_BHTM)
    answers_BHTD = tokens.keys + hidden_BHTM @ outer_force.mT
    push_BHTD = find_push(rule.objective, answers_BHTD, tokens.values)
    push_BHTM = find_gelu_slope(before_BHTM) * (push_BHTD @ outer_force)
    count = tokens.length
    asked_BHTM, inner = _write_layer(rule, replace(tokens, values=push_BHTM), inner, chunk)
    by_outer = replace(
        tokens, queries=functional.gelu(asked_BHTM), keys=hidden_BHTM, values=push_BHTD
    )
    changed_BHTD, outer = _write_layer(rule, by_outer, outer, chunk)
    if rule.read == "before":
        changed_BHTD = functional.gelu(tokens.queries @ inner_force.mT) @ outer_force.mT
    num_in_block = (max(state.counts_in_block, default=0) + count) % rule.block
    outer = replace(outer, num_in_block=num_in_block, in_force=outer_held if num_in_block else None)
    inner = replace(inner, num_in_block=num_in_block, in_force=inner_held if num_in_block else None)
    return tokens.queries + changed_BHTD, DeepFastState(outer, inner)


def _write_layer(
    rule: WriteRule, tokens: PairedTokens, state: FastState, chunk: int
) -> tuple[Tensor, FastState]:
    """One layer of a block: its inputs are the keys, what is pushed into its outputs the values."""
    if rule.proximal:
        tokens = replace(tokens, rates=bound_rates(tokens.rates, tokens.keys))
    anchor, queries = state.anchor, tokens.queries
    if anchor is not None:  # as a plain one, of what was added to the initial state
        state = replace(state, weights=state.weights - anchor, anchor=None)
        if rule.double_erase:
            tokens = replace(tokens, values=tokens.values - tokens.keys @ anchor.mT)
    if rule.double_erase:
        asked, state = write_linear(DELTA, tokens, state, chunk)
    else:
        asked, state = write_known(HEBBIAN, tokens, state, tokens.length, chunk)
    if anchor is not None:
        asked = asked + queries @ anchor.mT
        state = replace(state, weights=state.weights + anchor, anchor=anchor)
    if not rule.retention.is_linear:  # a single token, or nobody looks at it
        asked = queries @ find_weights(rule.retention, state.weights).mT
    return asked, state


def find_gelu_slope(x: Tensor) -> Tensor:
    """Derivative of GELU, x Phi(x): Phi(x) + x phi(x), itself differentiable.

    Args:
        x: any shape.

    >>> find_gelu_slope(torch.tensor([0.0, 9.0]))
    tensor([0.5000, 1.0000])
    """
    normal = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    slope: Tensor = torch.special.ndtr(x) + x * normal
    return slope
