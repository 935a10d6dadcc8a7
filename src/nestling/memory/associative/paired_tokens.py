"""Keys, values, rates and decays of a sequence, checked before an associative memory sees them."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from nestling.core.errors import NonFiniteInput, ShapeMismatch

# Axes: B samples, H heads, T tokens, D width of a key, V width of a value.


@dataclass(frozen=True)
class PairedTokens:
    """What each token asks of an associative memory, and what it writes.

    Args:
        queries: (B, H, T, D) what is asked.
        keys: (B, H, T, D) under what is written.
        values: (B, H, T, V) what is written.
        rates: (B, H, T) learning rate eta of each token; 0 for padding.
        decays: (B, H, T) share alpha of the memory that stays; None for 1.
        momenta: (B, H, T) share theta of the momentum that stays; None for no momentum.
        steps: (B, H, T) 1, and 0 for padding, where neither momentum nor the window of the
            Omega rule moves the memory; None where all tokens are valid.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    rates: Tensor
    decays: Tensor | None = None
    momenta: Tensor | None = None
    steps: Tensor | None = None

    @property
    def length(self) -> int:
        """T."""
        return self.keys.shape[2]

    def part(self, start: int, end: int) -> Self:
        """Tokens start..end-1."""

        def cut(one: Tensor | None) -> Tensor | None:
            return None if one is None else one[:, :, start:end]

        return type(self)(
            self.queries[:, :, start:end],
            self.keys[:, :, start:end],
            self.values[:, :, start:end],
            self.rates[:, :, start:end],
            cut(self.decays),
            cut(self.momenta),
            cut(self.steps),
        )


def pair_tokens(
    queries_BHTD: Tensor | None,
    keys_BHTD: Tensor,
    values_BHTV: Tensor,
    rates_BHT: Tensor,
    decays_BHT: Tensor | None,
    momenta_BHT: Tensor | None,
    valid_BT: Tensor | None,
    dtype: torch.dtype | None = None,
) -> PairedTokens:
    """Check a sequence of key-value pairs and make its padding harmless.

    A padded token has rate 0, decay 1 and zeros in place of what stood there, so it changes no
    memory. It is asked with a zero query.

    Args:
        queries_BHTD: (B, H, T, D); None for the keys.
        keys_BHTD: (B, H, T, D).
        values_BHTV: (B, H, T, V).
        rates_BHT: (B, H, T).
        decays_BHT: (B, H, T) or None.
        momenta_BHT: (B, H, T) or None.
        valid_BT: (B, T) truth values, False for padding; None if all are valid.
        dtype: to compute in; None for float32, or the values' own type if that holds more.

    Raises:
        ShapeMismatch: shapes that do not fit together.
        NonFiniteInput: NaN or infinity at a valid token.
    """
    if keys_BHTD.dim() != 4:
        raise ShapeMismatch(
            f"keys of shape {tuple(keys_BHTD.shape)}; (samples, heads, tokens, width) works"
        )
    axes_BHT = tuple(keys_BHTD.shape[:3])
    queries_BHTD = keys_BHTD if queries_BHTD is None else queries_BHTD
    given = {
        "queries": (queries_BHTD, tuple(keys_BHTD.shape)),
        "keys": (keys_BHTD, tuple(keys_BHTD.shape)),
        "values": (values_BHTV, (*axes_BHT, *values_BHTV.shape[3:4])),
        "rates": (rates_BHT, axes_BHT),
        "decays": (decays_BHT, axes_BHT),
        "momenta": (momenta_BHT, axes_BHT),
    }
    for name, (one, shape) in given.items():
        if one is not None and (tuple(one.shape) != shape or (name == "values" and one.dim() != 4)):
            wanted = (*axes_BHT, "width") if name == "values" else shape
            raise ShapeMismatch(
                f"{name} of shape {tuple(one.shape)} with keys of shape "
                f"{tuple(keys_BHTD.shape)}; {wanted} works"
            )
    if dtype is None:
        dtype = torch.promote_types(torch.float32, values_BHTV.dtype)
    padded_B1T = None
    if valid_BT is not None:
        if tuple(valid_BT.shape) != (axes_BHT[0], axes_BHT[2]) or valid_BT.dtype != torch.bool:
            raise ShapeMismatch(
                f"valid of shape {tuple(valid_BT.shape)} and type {valid_BT.dtype}; truth values "
                f"of shape {(axes_BHT[0], axes_BHT[2])} work, False for padding"
            )
        padded_B1T = ~valid_BT[:, None]

    def prepare(name: str, padding: float) -> Tensor | None:
        one = given[name][0]
        if one is None:
            return None
        one = one.to(dtype)
        if padded_B1T is not None:
            one = one.masked_fill(padded_B1T[..., None] if one.dim() == 4 else padded_B1T, padding)
        # The sum is finite wherever all is, but for sums that overflow: one cheap pass.
        if not bool(torch.isfinite(one.detach().sum())) and not bool(torch.isfinite(one).all()):
            raise NonFiniteInput(
                f"NaN or infinity in the {name} of an associative memory; finite numbers work, or "
                "mark the token as padding: valid=..."
            )
        return one

    queries, keys, values = prepare("queries", 0.0), prepare("keys", 0.0), prepare("values", 0.0)
    rates, decays, momenta = prepare("rates", 0.0), prepare("decays", 1.0), prepare("momenta", 1.0)
    assert queries is not None
    assert keys is not None
    assert values is not None
    assert rates is not None
    steps = None
    if padded_B1T is not None:
        steps = (~padded_B1T).to(dtype).expand(axes_BHT)
    return PairedTokens(queries, keys, values, rates, decays, momenta, steps)


def check_widths(tokens: PairedTokens) -> None:
    """Raise ShapeMismatch unless values are as wide as keys, as a skip connection needs."""
    if tokens.values.shape != tokens.keys.shape:
        raise ShapeMismatch(
            f"values of width {tokens.values.shape[-1]} with keys of width "
            f"{tokens.keys.shape[-1]} in a residual MLP memory; equal widths work"
        )
