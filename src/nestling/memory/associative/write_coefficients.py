"""How much of each write is left at each later token, under decay and momentum, within a chunk."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Axes: C tokens of a chunk (those written), Q places in it that are read; any axes before them.


@dataclass(frozen=True)
class WriteCoefficients:
    """A linear memory at some places of a chunk, as a sum of what it was before and what came.

    W_q = stay_q W_0 + drift_q S_0 + sum over s of share_qs write_s

    Args:
        share: (..., Q, C) of each write.
        stay: (..., Q) of the weights before the chunk; None for 1.
        drift: (..., Q) of the momentum before the chunk; None without momentum.
    """

    share: Tensor
    stay: Tensor | None
    drift: Tensor | None

    def at(self, places_Q: Tensor) -> "WriteCoefficients":
        """At other places: indices -1 (before the chunk) to C - 1 into those of all its tokens."""
        rows = places_Q + 1
        share = torch.nn.functional.pad(self.share, (0, 0, 1, 0)).index_select(-2, rows)
        stay = drift = None
        if self.stay is not None:
            stay = torch.nn.functional.pad(self.stay, (1, 0), value=1.0).index_select(-1, rows)
        if self.drift is not None:
            drift = torch.nn.functional.pad(self.drift, (1, 0)).index_select(-1, rows)
        return WriteCoefficients(share, stay, drift)


def multiply_kept(shares_C: Tensor) -> Tensor:
    """Products of the shares kept between two tokens: row t, column s is that of s+1 to t.

    By products and not by logarithms, for a share may be exactly 0 and must get its gradient.

    Args:
        shares_C: (..., C) kept at each token.

    Returns: (..., C, C), lower triangular with ones on the diagonal.

    >>> multiply_kept(torch.tensor([0.5, 0.5, 0.0]))
    tensor([[1.0000, 0.0000, 0.0000],
            [0.5000, 1.0000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    length = shares_C.shape[-1]
    later_CC = torch.ones(length, length, dtype=torch.bool, device=shares_C.device).tril(-1)
    kept_CC = torch.where(
        later_CC, shares_C[..., :, None], torch.ones_like(shares_C[..., :1, None])
    )
    return kept_CC.cumprod(-2).tril()


def find_coefficients(
    decays_C: Tensor | None, momenta_C: Tensor | None, steps_C: Tensor | None, like_C: Tensor
) -> tuple[WriteCoefficients, WriteCoefficients | None]:
    """Coefficients of weights and momentum after each token of a chunk.

    W_t = alpha_t W_(t-1) + step_t S_t,  S_t = theta_t S_(t-1) + write_t; without momentum
    W_t = alpha_t W_(t-1) + write_t.

    Args:
        decays_C: (..., C) alpha; None for 1.
        momenta_C: (..., C) theta; None for no momentum.
        steps_C: (..., C) what of the momentum moves the weights; None for 1.
        like_C: (..., C) any tensor of that length, dtype and device.

    Returns: those of the weights; those of the momentum (its `stay` is of S_0), or None.
    """
    length = like_C.shape[-1]
    ones_CC = torch.ones(length, length, dtype=like_C.dtype, device=like_C.device).tril()
    kept_CC = ones_CC if decays_C is None else multiply_kept(decays_C)
    stay_C = None if decays_C is None else decays_C.cumprod(-1)
    if momenta_C is None:
        return WriteCoefficients(kept_CC, stay_C, None), None
    moved_CC = kept_CC if steps_C is None else kept_CC * steps_C[..., None, :]
    running_CC, lasting_C = multiply_kept(momenta_C), momenta_C.cumprod(-1)
    drift_C = (moved_CC @ lasting_C[..., None])[..., 0]
    weights = WriteCoefficients(moved_CC @ running_CC, stay_C, drift_C)
    return weights, WriteCoefficients(running_CC, lasting_C, None)
