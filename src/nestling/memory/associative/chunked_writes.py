"""Writes of linear associative memories, parallel within chunks (WY form): the fast way."""

from dataclasses import replace

import torch
from torch import Tensor

from nestling.core.arguments import check_whole
from nestling.memory.associative.chunk_scan import (
    ChunkPushes,
    cut_tokens,
    scan_chunks,
    write_known,
)
from nestling.memory.associative.fast_state import FastState, check_state
from nestling.memory.associative.inner_objectives import DECAY, find_push, find_weights
from nestling.memory.associative.linear_loop import check_linear, open_state
from nestling.memory.associative.paired_tokens import (
    PairedTokens,
    bound_rates,
    pair_tokens,
    write_by_rows,
)
from nestling.memory.associative.write_coefficients import find_coefficients
from nestling.memory.associative.write_rule import WriteRule

# Axes: B samples, H heads, X = B H memories, T tokens, N chunks, C writes of a chunk, Q reads of a
# chunk, D width of a key, V width of a value. A memory is the matrix M of R rows and A columns
# that maps an address to an answer: W itself (R = V, A = D), or W^T where the rule is swapped.


def write_pairs(
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
    chunk: int = 64,
) -> tuple[Tensor, FastState]:
    """Write a sequence of key-value pairs into a linear associative memory and read it out.

    o_t = W_t q_t with W_t of `WriteRule`; equal to the reference loop `loop_pairs`. With the L2
    objective the errors of a chunk are one triangular solve: push_t + eta_t sum over s of
    share_ts (k_s . k_t) push_s = eta_t (v_t - W_0 k_t), whose matrix is strictly lower triangular
    by blocks of tokens that share the weights in force. With Huber's and the Lp loss, which are
    not linear, only such a block is parallel; under the retentions "kl" and "lq" only if it is read
    before its writes, else it is as sequential as the loop.

    Args:
        rule: what is written.
        keys_BHTD: (B, H, T, D); of length 1 or near it, for the delta rule to be stable.
        values_BHTV: (B, H, T, V).
        rates_BHT: (B, H, T) eta; stable for keys of length 1 within [0, 2] over block and window.
        decays_BHT: (B, H, T) alpha in [0, 1]; None for 1.
        state: before the first token; it is not changed.
        queries_BHTD: (B, H, T, D); None for the keys.
        momenta_BHT: (B, H, T) theta in [0, 1); None for no momentum.
        valid_BT: (B, T) truth values, False for padding, which changes nothing; None if all are.
        chunk: tokens computed at once; any number gives the same result.

    Returns: (B, H, T, V) answers in the dtype of the values; the state after the last token.
        Inside, float32 or more.

    Raises:
        ShapeMismatch: shapes that do not fit, a state of another batch.
        NonFiniteInput: NaN or infinity at a valid token.
        SettingError: a chunk below 1, a state that another rule left.

    >>> k, v = torch.eye(4).expand(2, 1, 4, 4), torch.arange(32.0).reshape(2, 1, 4, 4)
    >>> _, state = write_pairs(WriteRule(), k, v, torch.ones(2, 1, 4), None,
    ...                        FastState.zeros(2, 1, 4, 4))
    >>> torch.equal(state.weights @ k.mT, v.mT)
    True
    """
    chunk = check_whole("chunk", chunk, 1, "a number of tokens of 1 or more works")
    tokens = pair_tokens(
        queries_BHTD, keys_BHTD, values_BHTV, rates_BHT, decays_BHT, momenta_BHT, valid_BT
    )
    num_samples, num_heads, _, key_width = tokens.keys.shape
    check_state(state, (num_samples, num_heads, tokens.values.shape[-1], key_width))
    check_linear(rule)
    state = open_state(rule, state.to(tokens.keys.dtype), momenta_BHT is not None)
    if rule.proximal:
        inputs_BHTA = tokens.values if rule.swapped else tokens.keys
        tokens = replace(tokens, rates=bound_rates(tokens.rates, inputs_BHTA))

    def write(tokens: PairedTokens, state: FastState) -> tuple[Tensor, FastState]:
        if rule.retention.kind == "initial":
            return _write_from_anchor(rule, tokens, state, chunk)
        return _write_tokens(rule, tokens, state, chunk)

    if rule.block > 1 or rule.window > 1:
        outputs_BHTV, state = write_by_rows(tokens, state, valid_BT, write)
    else:
        outputs_BHTV, state = write(tokens, state)
    return outputs_BHTV.to(values_BHTV.dtype), state


def _write_from_anchor(
    rule: WriteRule, tokens: PairedTokens, state: FastState, chunk: int
) -> tuple[Tensor, FastState]:
    """Retention to the initial state W_0: the plain rule, for W - W_0 and what W_0 gets wrong."""
    anchor = state.anchor
    assert anchor is not None
    known = rule.objective.kind != "dot"  # the push of the dot product knows no answer

    def shift(keys: Tensor, values: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        if not known:
            return keys, values
        share = sign * rule.objective.erase
        if rule.swapped:
            return keys + share * (values @ anchor), values
        return keys, values + share * (keys @ anchor.mT)

    keys, values = shift(tokens.keys, tokens.values, -1.0)
    recent = (state.recent_keys, state.recent_values)
    if recent[0] is not None and recent[1] is not None:
        recent = shift(recent[0], recent[1], -1.0)
    changes = replace(
        state,
        weights=state.weights - anchor,
        in_force=None if state.in_force is None else state.in_force - anchor,
        recent_keys=recent[0],
        recent_values=recent[1],
        anchor=None,
    )
    plain = replace(rule, retention=DECAY)
    outputs, changes = _write_tokens(
        plain, replace(tokens, keys=keys, values=values), changes, chunk
    )
    recent = (changes.recent_keys, changes.recent_values)
    if recent[0] is not None and recent[1] is not None:
        recent = shift(recent[0], recent[1], 1.0)
    state = replace(
        changes,
        weights=changes.weights + anchor,
        in_force=None if changes.in_force is None else changes.in_force + anchor,
        recent_keys=recent[0],
        recent_values=recent[1],
        anchor=anchor,
    )
    return outputs + tokens.queries @ anchor.mT, state


def _write_tokens(
    rule: WriteRule, tokens: PairedTokens, state: FastState, chunk: int
) -> tuple[Tensor, FastState]:
    """Tokens of samples that stand at the same place of a block."""
    length = tokens.length
    if length == 0:
        return torch.zeros_like(tokens.values), state
    outputs, start = list[Tensor](), 0
    if not rule.retention.is_linear and rule.read == "after":
        for at in range(length):  # what a token reads is no sum of what came before
            piece, state = _write_block(rule, tokens.part(at, at + 1), state, chunk)
            outputs.append(piece)
        return torch.cat(outputs, 2), state
    num_in_block = max(state.counts_in_block, default=0)
    if num_in_block:
        start = min(rule.block - num_in_block, length)
        piece, state = _write_block(rule, tokens.part(0, start), state, chunk)
        outputs.append(piece)
    whole = start + (length - start) // rule.block * rule.block
    if whole > start:
        middle = tokens.part(start, whole) if (start, whole) != (0, length) else tokens
        is_linear = rule.objective.kind in ("dot", "l2") and rule.retention.is_linear
        if is_linear and rule.block <= chunk:
            piece, state = write_linear(rule, middle, state, chunk)
            outputs.append(piece)
        else:
            for at in range(start, whole, rule.block):
                piece, state = _write_block(rule, tokens.part(at, at + rule.block), state, chunk)
                outputs.append(piece)
    if whole < length:
        piece, state = _write_block(rule, tokens.part(max(start, whole), length), state, chunk)
        outputs.append(piece)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2), state


def write_linear(
    rule: WriteRule, tokens: PairedTokens, state: FastState, chunk: int
) -> tuple[Tensor, FastState]:
    """Whole blocks, by a push that is linear in the answer.

    Args:
        rule: with the objective "dot" or "l2", and decay.
        tokens: whole blocks of them.
        state: between blocks.
        chunk: tokens computed at once, the rule's block or more.

    Returns: (B, H, T, V) answers; the state after the last token.
    """
    num_queries = tokens.length
    if rule.window > 1:
        tokens, state = _unroll_window(rule, tokens, state)
    size = min(max(rule.block, chunk // (rule.block * rule.window) * rule.block), num_queries)
    chunks = cut_tokens(rule, tokens, size, num_queries)
    addresses, targets, rates = chunks.addresses, chunks.targets, chunks.rates
    weights, momentum = find_coefficients(chunks.decays, chunks.momenta, chunks.steps, rates)
    wanted = rates[..., None] * targets
    if rule.objective.kind == "dot":
        pushes = ChunkPushes(wanted, None, None)
    else:
        # Write p of a chunk sees what came before its block.
        unit = rule.block * rule.window
        writes_C = torch.arange(rates.shape[-1], device=rates.device)
        force = weights.before() if unit == 1 else weights.at(writes_C // unit * unit - 1)
        taken = rates[..., None] * addresses
        if rule.objective.erase != 1:
            taken = rule.objective.erase * taken
        matrix_XNCC = (taken @ addresses.mT) * force.share
        sides = [wanted, taken if force.stay is None else force.stay[..., None] * taken]
        if force.drift is not None:
            sides.append(force.drift[..., None] * taken)
        solved = torch.linalg.solve_triangular(
            matrix_XNCC, torch.cat(sides, -1), upper=False, unitriangular=True
        )
        parts = solved.split([one.shape[-1] for one in sides], -1)
        pushes = ChunkPushes(parts[0], parts[1], parts[2] if len(parts) > 2 else None)
    return scan_chunks(rule, chunks, pushes, weights, momentum, state, num_queries)


def _write_block(
    rule: WriteRule, tokens: PairedTokens, state: FastState, chunk: int
) -> tuple[Tensor, FastState]:
    """A block of tokens or a part of one: the weights in force are known, all is parallel."""
    in_force = state.in_force_now
    force = find_weights(rule.retention, in_force)
    num_queries = tokens.length
    queries_BHTD = tokens.queries
    num_in_block = (max(state.counts_in_block, default=0) + num_queries) % rule.block
    if rule.window > 1:
        tokens, state = _unroll_window(rule, tokens, state)
    keys, values = tokens.keys, tokens.values
    if rule.swapped:
        push = find_push(rule.objective, values @ force, keys)
        tokens = replace(tokens, keys=push)
    else:
        push = find_push(rule.objective, keys @ force.mT, values)
        tokens = replace(tokens, values=push)
    outputs, state = write_known(rule, tokens, state, num_queries, chunk)
    if rule.read == "before":
        outputs = queries_BHTD @ force.mT
    elif not rule.retention.is_linear:  # a single token
        outputs = queries_BHTD @ find_weights(rule.retention, state.weights).mT
    state = replace(state, in_force=in_force if num_in_block else None, num_in_block=num_in_block)
    return outputs, state


def _unroll_window(
    rule: WriteRule, tokens: PairedTokens, state: FastState
) -> tuple[PairedTokens, FastState]:
    """Each token with its whole window as so many writes, oldest first; the next call's window.

    Decay and momentum act before the first of them, momentum moves the memory after the last.
    """
    assert state.recent_keys is not None
    assert state.recent_values is not None
    assert state.recent_rates is not None
    size = rule.window
    all_keys = torch.cat([state.recent_keys, tokens.keys], 2)
    all_values = torch.cat([state.recent_values, tokens.values], 2)
    all_rates = torch.cat([state.recent_rates, tokens.rates], 2)
    state = replace(
        state,
        recent_keys=all_keys[:, :, 1 - size :],
        recent_values=all_values[:, :, 1 - size :],
        recent_rates=all_rates[:, :, 1 - size :],
    )
    keys, values = all_keys.unfold(2, size, 1), all_values.unfold(2, size, 1)
    rates = all_rates.unfold(2, size, 1)
    if tokens.steps is not None:
        rates = rates * tokens.steps[..., None]

    def spread(one_BHT: Tensor, padding: float, *, last: bool = False) -> Tensor:
        others = one_BHT.new_full((*one_BHT.shape, size - 1), padding)
        pair = (others, one_BHT[..., None]) if last else (one_BHT[..., None], others)
        return torch.cat(pair, -1).flatten(2)

    steps = torch.ones_like(tokens.rates) if tokens.steps is None else tokens.steps
    unrolled = PairedTokens(
        tokens.queries,
        keys.movedim(-1, 3).flatten(2, 3),
        values.movedim(-1, 3).flatten(2, 3),
        rates.flatten(2),
        None if tokens.decays is None else spread(tokens.decays, 1.0),
        None if tokens.momenta is None else spread(tokens.momenta, 1.0),
        spread(steps, 0.0, last=True),
    )
    return unrolled, state
