"""Scan of a linear associative memory over the chunks of a sequence."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from nestling.memory.associative.fast_state import FastState
from nestling.memory.associative.paired_tokens import PairedTokens
from nestling.memory.associative.write_coefficients import WriteCoefficients, find_coefficients
from nestling.memory.associative.write_rule import WriteRule

# Axes: B samples, H heads, X = B H memories, T tokens, N chunks, C writes of a chunk, Q reads of a
# chunk, D width of a key, V width of a value. A memory is the matrix M of R rows and A columns
# that maps an address to an answer: W itself (R = V, A = D), or W^T where the rule is swapped.


@dataclass(frozen=True)
class TokenChunks:
    """A sequence cut into chunks.

    Args:
        queries: (X, N, Q, D).
        addresses: (X, N, C, A).
        targets: (X, N, C, R).
        rates: (X, N, C).
        decays: (X, N, C) or None for 1.
        momenta: (X, N, C) or None for no momentum.
        steps: (X, N, C) or None for 1; with momentum only.
    """

    queries: Tensor
    addresses: Tensor
    targets: Tensor
    rates: Tensor
    decays: Tensor | None
    momenta: Tensor | None
    steps: Tensor | None


@dataclass(frozen=True)
class ChunkPushes:
    """Rate times push of each write: known - by_weights M_0^T - by_momentum S_0^T.

    M_0 and S_0 are weights and momentum before the chunk.

    Args:
        known: (X, N, C, R).
        by_weights: (X, N, C, A) or None for 0.
        by_momentum: (X, N, C, A) or None for 0.
    """

    known: Tensor
    by_weights: Tensor | None
    by_momentum: Tensor | None


def scan_chunks(
    rule: WriteRule,
    chunks: TokenChunks,
    pushes: ChunkPushes,
    weights: WriteCoefficients,
    momentum: WriteCoefficients | None,
    state: FastState,
    num_queries: int,
) -> tuple[Tensor, FastState]:
    """Go through the chunks: only two products of each depend on the chunk before."""
    num_samples, num_heads = state.weights.shape[:2]
    addresses, queries = chunks.addresses, chunks.queries
    num_chunks, num_writes = addresses.shape[1:3]
    memory_XRA = _fold(rule, state.weights)
    slope_XRA = None if state.momentum is None else _fold(rule, state.momentum)
    # What of each write is left after the chunk, folded into its address beforehand.
    decayed = chunks.decays is not None
    left = weights.share[..., -1, :, None] * addresses if decayed or momentum else addresses
    lefts = left.unbind(1)
    knowns = pushes.known.unbind(1)
    by_weights = None if pushes.by_weights is None else pushes.by_weights.unbind(1)
    by_slope = None if pushes.by_momentum is None else pushes.by_momentum.unbind(1)
    runs = None if momentum is None else (momentum.share[..., -1, :, None] * addresses).unbind(1)
    memories, slopes, written = [], [], []
    for n in range(num_chunks):
        memories.append(memory_XRA)
        push_XCR = knowns[n]
        if by_weights is not None:
            push_XCR = torch.baddbmm(push_XCR, by_weights[n], memory_XRA.mT, alpha=-1)
        if by_slope is not None:
            assert slope_XRA is not None
            push_XCR = torch.baddbmm(push_XCR, by_slope[n], slope_XRA.mT, alpha=-1)
        written.append(push_XCR)
        if weights.stay is not None:
            memory_XRA = weights.stay[:, n, -1, None, None] * memory_XRA
        if slope_XRA is not None:
            assert weights.drift is not None
            assert momentum is not None
            assert momentum.stay is not None
            assert runs is not None
            slopes.append(slope_XRA)
            memory_XRA = memory_XRA + weights.drift[:, n, -1, None, None] * slope_XRA
            slope_XRA = momentum.stay[:, n, -1, None, None] * slope_XRA
            slope_XRA = torch.baddbmm(slope_XRA, push_XCR.mT, runs[n])
        memory_XRA = torch.baddbmm(memory_XRA, push_XCR.mT, lefts[n])
    pushes_XNCR, memories_XNRA = torch.stack(written, 1), torch.stack(memories, 1)
    reads = weights.at(_read_places(rule, num_writes // rule.window, queries.device))
    asked = queries if reads.stay is None else reads.stay[..., None] * queries
    outputs_XNQV = asked @ (memories_XNRA if rule.swapped else memories_XNRA.mT)
    if reads.drift is not None:
        slopes_XNRA = torch.stack(slopes, 1)
        drifted = reads.drift[..., None] * queries
        outputs_XNQV = outputs_XNQV + drifted @ (slopes_XNRA if rule.swapped else slopes_XNRA.mT)
    left_side, right_side = (pushes_XNCR, addresses) if rule.swapped else (addresses, pushes_XNCR)
    outputs_XNQV = outputs_XNQV + ((queries @ left_side.mT) * reads.share) @ right_side
    outputs_XTV = outputs_XNQV.flatten(1, 2)[:, :num_queries]
    state = replace(
        state,
        weights=_unfold(rule, memory_XRA, num_samples, num_heads),
        momentum=None if slope_XRA is None else _unfold(rule, slope_XRA, num_samples, num_heads),
    )
    return outputs_XTV.unflatten(0, (num_samples, num_heads)), state


def write_known(
    rule: WriteRule, tokens: PairedTokens, state: FastState, num_queries: int, chunk: int
) -> tuple[Tensor, FastState]:
    """Write pushes that are known beforehand, and read after each token's own.

    Args:
        rule: of its parts only `window` and `swapped` matter here.
        tokens: with the push in place of the value, or where swapped of the key; T x window writes.
        state: before the first token.
        num_queries: T.
        chunk: tokens computed at once.

    Returns: (B, H, T, V) answers to the queries; the state after the last token.
    """
    rule = replace(rule, block=1, read="after")
    size = min(max(1, chunk // rule.window), num_queries)
    chunks = cut_tokens(rule, tokens, size, num_queries)
    weights, momentum = find_coefficients(chunks.decays, chunks.momenta, chunks.steps, chunks.rates)
    pushes = ChunkPushes(chunks.rates[..., None] * chunks.targets, None, None)
    return scan_chunks(rule, chunks, pushes, weights, momentum, state, num_queries)


def _read_places(rule: WriteRule, num_queries: int, device: torch.device) -> Tensor:
    """Last write of the chunk that each read sees, -1 for none: (Q,)."""
    reads_Q = torch.arange(num_queries, device=device)
    if rule.read == "after":
        return (reads_Q + 1) * rule.window - 1
    return reads_Q // rule.block * rule.block * rule.window - 1


def cut_tokens(rule: WriteRule, tokens: PairedTokens, size: int, num_queries: int) -> TokenChunks:
    """Chunks of `size` reads; the last is filled up with padding."""
    missing = -num_queries % size
    num_chunks = (num_queries + missing) // size
    writes, steps = rule.window, tokens.steps
    if missing and tokens.momenta is not None and steps is None:
        steps = torch.ones_like(tokens.rates)

    def cut(one_BHT: Tensor, each: int, padding: float) -> Tensor:
        one_XT = one_BHT.flatten(0, 1)
        if missing:
            edge = (0, missing * each)
            one_XT = functional.pad(
                one_XT, (0, 0, *edge) if one_XT.dim() == 3 else edge, value=padding
            )
        cut_XN: Tensor = one_XT.unflatten(1, (num_chunks, size * each))
        return cut_XN

    keys, values = cut(tokens.keys, writes, 0.0), cut(tokens.values, writes, 0.0)
    with_momentum = tokens.momenta is not None
    return TokenChunks(
        cut(tokens.queries, 1, 0.0),
        values if rule.swapped else keys,
        keys if rule.swapped else values,
        cut(tokens.rates, writes, 0.0),
        None if tokens.decays is None else cut(tokens.decays, writes, 1.0),
        None if tokens.momenta is None else cut(tokens.momenta, writes, 1.0),
        cut(steps, writes, 0.0) if steps is not None and with_momentum else None,
    )


def _fold(rule: WriteRule, weights_BHVD: Tensor) -> Tensor:
    """(B, H, V, D) -> (X, R, A)."""
    weights_XVD = weights_BHVD.flatten(0, 1)
    return weights_XVD.mT if rule.swapped else weights_XVD


def _unfold(rule: WriteRule, memory_XRA: Tensor, num_samples: int, num_heads: int) -> Tensor:
    """(X, R, A) -> (B, H, V, D)."""
    weights_XVD = memory_XRA.mT if rule.swapped else memory_XRA
    weights_BHVD: Tensor = weights_XVD.unflatten(0, (num_samples, num_heads))
    return weights_BHVD
