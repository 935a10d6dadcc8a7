"""Chunked writes, token by token: the definition that the fast form is tested against."""

import torch
from torch import Tensor

from nestling.models.continuum.chunk_windows import WriteClock
from nestling.models.continuum.chunk_writes import GradientMode


def write_chunks_slowly(
    keys_TH: Tensor,
    targets_TD: Tensor,
    rates_T: Tensor,
    initial_DH: Tensor,
    clock: WriteClock,
    *,
    consolidation: Tensor | None = None,
    gradient: GradientMode = "full",
) -> tuple[Tensor, Tensor]:
    """Read and write a linear memory in chunks, one sequence, one token at a time.

    o_t = W k_t;  G <- G + eta_t (o_t - v_t) k_t^T;  at the end of a chunk W <- W - G, G <- 0
    [NL, eq. 71];  at the end of a context S <- S + c (W - S), W <- S
    [NL, eq. 72; the start S moves in context by Reptile's rule, c = 0 for plain resets]

    Args: as of `write_chunks`, without the axis of samples.

    Returns: (T, D) o, and (D, H) the weights that the next token would read.
    """
    weight_DH = start_DH = initial_DH
    gathered_DH = torch.zeros_like(initial_DH)
    outputs = []
    for t in range(len(keys_TH)):
        key_H, output_D = keys_TH[t], weight_DH @ keys_TH[t]
        outputs.append(output_D)
        error_D = (output_D if gradient == "full" else output_D.detach()) - targets_TD[t]
        written_key_H = key_H if gradient == "full" else key_H.detach()
        gathered_DH = gathered_DH + rates_T[t] * torch.outer(error_D, written_key_H)
        inside = t % clock.context + 1 if clock.context else t + 1  # tokens of this context
        if inside % clock.chunk == 0 or inside == clock.context:
            weight_DH = weight_DH - gathered_DH
            gathered_DH = torch.zeros_like(gathered_DH)
        if clock.cut and inside % clock.cut == 0:
            # The initial weights themselves stay in reach; only what was written is cut off.
            weight_DH = initial_DH + (weight_DH - initial_DH).detach()
            start_DH = initial_DH + (start_DH - initial_DH).detach()
        if inside == clock.context:
            if consolidation is not None:
                start_DH = start_DH + consolidation * (weight_DH - start_DH)
            weight_DH = start_DH
    if not outputs:
        return targets_TD, weight_DH
    return torch.stack(outputs), weight_DH
