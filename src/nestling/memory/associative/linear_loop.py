"""Reference loop of linear associative memories: token by token in float64, the definition."""

from dataclasses import replace

import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.memory.associative.fast_state import FastState, check_state
from nestling.memory.associative.inner_objectives import find_push, find_weights
from nestling.memory.associative.paired_tokens import (
    PairedTokens,
    bound_rates,
    pair_tokens,
    write_by_rows,
)
from nestling.memory.associative.write_rule import WriteRule

# Axes: B samples, H heads, T tokens, D width of a key, V width of a value, W window less one.


def loop_pairs(
    rule: WriteRule,
    keys_BHTD: Tensor,
    values_BHTV: Tensor,
    rates_BHT: Tensor,
    decays_BHT: Tensor | None,
    state: FastState,
    *,
    queries_BHTD: Tensor | None = None,
    momenta_BHT: Tensor | None = None,
    valid_BT: Tensor | None = None,
) -> tuple[Tensor, FastState]:
    """Write a sequence into a linear associative memory one token at a time, in float64.

    Slow and plain: what `write_pairs` computes is defined here. Arguments, results and errors are
    those of `write_pairs`, but the state that is returned is in float64.

    >>> one = torch.ones(1, 1, 2, 1)
    >>> half = torch.full((1, 1, 2), 0.5)
    >>> loop_pairs(WriteRule(), one, one, half, None, FastState.zeros(1, 1, 1, 1))[0].flatten()
    tensor([0.5000, 0.7500])
    """
    tokens = pair_tokens(
        queries_BHTD,
        keys_BHTD,
        values_BHTV,
        rates_BHT,
        decays_BHT,
        momenta_BHT,
        valid_BT,
        torch.float64,
    )
    num_samples, num_heads, _, key_width = tokens.keys.shape
    value_width = tokens.values.shape[-1]
    check_state(state, (num_samples, num_heads, value_width, key_width))
    check_linear(rule)
    state = open_state(rule, state.to(torch.float64), tokens.momenta is not None)

    def write(tokens: PairedTokens, state: FastState) -> tuple[Tensor, FastState]:
        return _loop_tokens(rule, tokens, state)

    if rule.block > 1 or rule.window > 1:
        outputs_BHTV, state = write_by_rows(tokens, state, valid_BT, write)
    else:
        outputs_BHTV, state = write(tokens, state)
    return outputs_BHTV.to(values_BHTV.dtype), state


def _loop_tokens(
    rule: WriteRule, tokens: PairedTokens, state: FastState
) -> tuple[Tensor, FastState]:
    """Tokens of samples that stand at the same place of a block."""
    weights, momentum, anchor = state.weights, state.momentum, state.anchor
    in_force = state.in_force_now
    num_in_block = max(state.counts_in_block, default=0)
    window: list[tuple[Tensor, Tensor, Tensor]] = []
    if state.recent_keys is not None:
        assert state.recent_values is not None
        assert state.recent_rates is not None
        window = list(
            zip(
                state.recent_keys.unbind(2),
                state.recent_values.unbind(2),
                state.recent_rates.unbind(2),
                strict=True,
            )
        )
    outputs = []
    for t in range(tokens.length):
        query_BHD = tokens.queries[:, :, t]
        new = (tokens.keys[:, :, t], tokens.values[:, :, t], tokens.rates[:, :, t])
        if rule.proximal:
            new = (*new[:2], bound_rates(new[2], new[1 if rule.swapped else 0]))
        window = [*window, new][-rule.window :]
        if num_in_block == 0:
            in_force = weights
        force = find_weights(rule.retention, in_force)
        if rule.read == "before":
            outputs.append(_apply(force, query_BHD))
        write = torch.zeros_like(weights)
        for key_BHD, value_BHV, rate_BH in window:
            if rule.swapped:
                push = find_push(rule.objective, _apply(force.mT, value_BHV), key_BHD)
                write = write + rate_BH[..., None, None] * _outer(value_BHV, push)
            else:
                push = find_push(rule.objective, _apply(force, key_BHD), value_BHV)
                write = write + rate_BH[..., None, None] * _outer(push, key_BHD)
        step = None if tokens.steps is None else tokens.steps[:, :, t, None, None]
        if step is not None:
            write = step * write
        if tokens.decays is not None:
            decay = tokens.decays[:, :, t, None, None]
            weights = decay * weights if anchor is None else anchor + decay * (weights - anchor)
        if tokens.momenta is None:
            weights = weights + write
        else:
            assert momentum is not None
            momentum = tokens.momenta[:, :, t, None, None] * momentum + write
            weights = weights + (momentum if step is None else step * momentum)
        if rule.read == "after":
            outputs.append(_apply(find_weights(rule.retention, weights), query_BHD))
        num_in_block = (num_in_block + 1) % rule.block
    outputs_BHTV = torch.stack(outputs, 2) if outputs else torch.zeros_like(tokens.values)
    state = replace(
        state,
        weights=weights,
        momentum=momentum,
        in_force=in_force if num_in_block else None,
        num_in_block=num_in_block,
    )
    if rule.window > 1:
        past = window[-(rule.window - 1) :]
        state = replace(
            state,
            recent_keys=torch.stack([one[0] for one in past], 2),
            recent_values=torch.stack([one[1] for one in past], 2),
            recent_rates=torch.stack([one[2] for one in past], 2),
        )
    return outputs_BHTV, state


def check_linear(rule: WriteRule) -> None:
    """Raise SettingError for what only an MLP memory can follow."""
    if rule.double_erase:
        raise SettingError(
            "double_erase=True of a linear memory; WriteRule(InnerObjective('l2', erase=2.0)) is it"
        )


def open_state(rule: WriteRule, state: FastState, with_momentum: bool) -> FastState:
    """A state as a rule needs it: with a momentum and a window, empty where there were none yet.

    Raises:
        SettingError: a state that another rule left: in the midst of a longer block, with a
            momentum or an initial state that would be lost, or of another window.
    """
    most_in_block = max(state.counts_in_block, default=0)
    if most_in_block >= rule.block:
        raise SettingError(
            f"the state stands {most_in_block} tokens into a block and block={rule.block}; "
            "the rule that left the state works"
        )
    if state.momentum is not None and not with_momentum:
        raise SettingError(
            "the state has a momentum and momenta=None; give momenta, or a state without"
        )
    if state.anchor is not None and rule.retention.kind != "initial":
        raise SettingError(
            f"the state holds an initial state and the retention is {rule.retention.kind!r}; "
            "WeightRetention('initial') works"
        )
    weights_BHVD = state.weights
    if rule.retention.kind == "initial" and state.anchor is None:
        state = replace(state, anchor=weights_BHVD)
    if state.momentum is None and with_momentum:
        state = replace(state, momentum=torch.zeros_like(weights_BHVD))
    size = rule.window - 1
    found = 0 if state.recent_keys is None else state.recent_keys.shape[2]
    if found not in (0, size):
        raise SettingError(
            f"the state holds a window of {found + 1} tokens and window={rule.window}; "
            "the rule that left the state works"
        )
    if size and not found:
        num_samples, num_heads, value_width, key_width = weights_BHVD.shape
        state = replace(
            state,
            recent_keys=weights_BHVD.new_zeros(num_samples, num_heads, size, key_width),
            recent_values=weights_BHVD.new_zeros(num_samples, num_heads, size, value_width),
            recent_rates=weights_BHVD.new_zeros(num_samples, num_heads, size),
        )
    return state


def _apply(weights_BHVD: Tensor, key_BHD: Tensor) -> Tensor:
    return (weights_BHVD @ key_BHD[..., None])[..., 0]


def _outer(left_BHV: Tensor, right_BHD: Tensor) -> Tensor:
    return left_BHV[..., :, None] * right_BHD[..., None, :]
