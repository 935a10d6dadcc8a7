"""Keys, values, rates and decays of a sequence, checked before an associative memory sees them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

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

    def pick(self, rows_N1: Tensor, places_NT: Tensor) -> Self:
        """Some tokens of some samples, none of them padding: each row its own places."""

        def take(one: Tensor | None) -> Tensor | None:
            return None if one is None else one.transpose(1, 2)[rows_N1, places_NT].transpose(1, 2)

        queries, keys, values = take(self.queries), take(self.keys), take(self.values)
        rates = take(self.rates)
        assert queries is not None
        assert keys is not None
        assert values is not None
        assert rates is not None
        return type(self)(queries, keys, values, rates, take(self.decays), take(self.momenta))


class BlockState(Protocol):
    """A state whose samples may stand at different places of a block."""

    @property
    def counts_in_block(self) -> tuple[int, ...]:
        """Tokens of the block under way, of each sample."""

    def select(self, samples_N: Tensor) -> Self:
        """The state of some samples."""

    @classmethod
    def merge(cls, parts: Sequence[Self], rows: Sequence[Sequence[int]]) -> Self:
        """One state of the parts of a batch."""


State = TypeVar("State", bound=BlockState)


def write_by_rows(
    tokens: PairedTokens,
    state: State,
    valid_BT: Tensor | None,
    write: Callable[[PairedTokens, State], tuple[Tensor, State]],
) -> tuple[Tensor, State]:
    """Write samples that stand alike together, so that padding counts in no block and no window.

    Args:
        tokens: of the whole batch.
        state: of the whole batch.
        valid_BT: (B, T) truth values, False for padding; None if all are valid.
        write: writes tokens without padding, of samples that stand at the same place of a block.

    Returns: (B, H, T, V) answers, zeros at padding; the state after the last token.
    """
    num_samples, _, length = tokens.rates.shape
    lengths = [length] * num_samples if valid_BT is None else valid_BT.sum(1).tolist()
    groups: dict[tuple[int, int], list[int]] = {}
    for row, place in enumerate(zip(state.counts_in_block, lengths, strict=True)):
        groups.setdefault(place, []).append(row)
    if len(groups) <= 1 and all(one == length for one in lengths):
        return write(replace(tokens, steps=None), state)
    device, rows = tokens.rates.device, list(groups.values())
    outputs_BTHV = torch.zeros_like(tokens.values).transpose(1, 2)
    states = []
    for part in rows:
        rows_N = torch.tensor(part, dtype=torch.long, device=device)
        if valid_BT is None:
            places_NT = torch.arange(length, device=device).expand(len(part), -1)
        else:
            places_NT = valid_BT.to(device)[rows_N].nonzero()[:, 1].reshape(len(part), -1)
        found, part_state = write(tokens.pick(rows_N[:, None], places_NT), state.select(rows_N))
        outputs_BTHV = outputs_BTHV.index_put((rows_N[:, None], places_NT), found.transpose(1, 2))
        states.append(part_state)
    return outputs_BTHV.transpose(1, 2), type(state).merge(states, rows)


def bound_rates(rates_BHT: Tensor, inputs_BHTD: Tensor) -> Tensor:
    """Rates of exact proximal steps: eta' = eta / (1 + eta |z|^2), z the layer's input.

    >>> bound_rates(torch.ones(1, 1, 1), torch.full((1, 1, 1, 2), 2.0)).flatten()
    tensor([0.1111])
    """
    return rates_BHT / (1 + rates_BHT * inputs_BHTD.square().sum(-1))


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
                "mark the token as padding in valid_BT"
            )
        return one

    # Keys first: queries that were not given are the keys, and the message names what was given.
    keys, queries, values = prepare("keys", 0.0), prepare("queries", 0.0), prepare("values", 0.0)
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
