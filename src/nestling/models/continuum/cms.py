"""Continuum memory system (CMS): a chain of MLP blocks that write at different speeds."""

import math
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.arguments import check_whole
from nestling.core.errors import SettingError
from nestling.models.continuum.chunk_windows import WriteClock
from nestling.models.continuum.chunk_writes import Written, write_chunks
from nestling.models.continuum.cms_settings import (
    Arrangement,
    Gradient,
    Transfer,
    check_choice,
    check_chunks,
    check_dtype,
    check_gradient,
    check_inputs,
    check_rates,
)
from nestling.models.continuum.cms_state import CMSState, check_state, merge_states

# Axes: B batch, T tokens, D width, H hidden width, L levels.

INITIAL_SCALE = 0.2  # of an output layer that reads keys of norm 1; an MLP's usual output
START_RATE = 0.5  # of the most, where a write begins to be learned
START_CONSOLIDATION = 0.1


class ContinuumLevel(nn.Module):
    """One block of a `CMS`: an MLP whose output layer is written while it reads.

    k = normalise(gelu(U x + b)), o = W k; W is written, U and b are slow.

    Args:
        width: D.
        hidden: H.
        scale: standard deviation of the initial W.
        moves_start: whether the start of a context is consolidated.
        scales_output: whether the level before it scales the rows of W.
    """

    def __init__(
        self, width: int, hidden: int, scale: float, *, moves_start: bool, scales_output: bool
    ) -> None:
        super().__init__()
        self.key = nn.Linear(width, hidden)
        like = self.key.weight.detach()  # for its device and dtype
        self.initial = nn.Parameter(like.new_empty(width, hidden).normal_(std=scale))
        start = math.log(START_CONSOLIDATION / (1 - START_CONSOLIDATION))
        self.consolidation = nn.Parameter(like.new_full((), start)) if moves_start else None
        self.row_scale = nn.Linear(width, width) if scales_output else None
        if self.row_scale is not None:  # the level begins as one without
            nn.init.zeros_(self.row_scale.weight)
            nn.init.zeros_(self.row_scale.bias)

    def read_keys(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, H) keys of mean 0 and norm 1, or less where nearly constant."""
        active_BTH = functional.gelu(self.key(x_BTD))
        # Without their common mean keys overlap less; and this kernel is fused.
        scale_H = active_BTH.new_full((active_BTH.shape[-1],), active_BTH.shape[-1] ** -0.5)
        return functional.layer_norm(active_BTH, scale_H.shape, weight=scale_H)


class CMS(nn.Module):
    """Continuum memory system: MLP blocks in place of a Transformer's MLP, each with its own clock.

    o_l = W_l k_l with k_l = normalise(gelu(U_l z_l + b_l)); z_1 = x, z_{l+1} = z_l + o_l;
    y = sum of o_l. At the end of every chunk of C_l tokens
    W_l <- W_l - sum over the chunk of eta_t (W_l k_t - v_t) k_t^T  [NL, eq. 70 and 71]

    eta_t = rate_l / C_l * sigmoid(.), v_t = V x_t. `forward` reads whole sequences, each from the
    learned initial weights; `read` takes and returns the state, for sequences in pieces.
    In evaluation mode nothing is written unless `write=True` is said.

    Differs: only output layers are written; errors are those of a local regression, not of the
    loss; keys are normalised and rates bounded, else larger chunks blow up. docs/cms.md says more.

    Args:
        width: D of inputs and outputs.
        chunks: C of each level in tokens, fastest first, each at least as long as the one before.
        hidden: H; `width` by default.
        arrangement: "chain": levels start anew with the sequence only. "nested": a level is reset
            when the chunk of the next slower one ends, to a start that is consolidated in context
            (NL, eq. 72). "sequential": all are reset when the slowest one's chunk ends (eq. 73).
            "independent": the same resets, all levels read x, y is their learned weighted sum
            (eq. 74).
        transfer: what passes from a level to the next: "backprop": its output, with gradient;
            "direct": its output, without; "weights": its output, which also scales the rows of
            the next level's W; "context": its output, and the next level's target is what is
            left of v. "independent" takes "backprop" only.
        rate: of each level or of all, in [0, 2]: most that a token writes, in units of 1 / C;
            0 is bit for bit the model without writes.
        gradient: "full" through all writes; "first" order; or a whole number >= 2 of a level's own
            chunks after which its writes are cut off (truncated).

    Raises:
        SettingError: an argument that cannot be carried out.

    >>> _ = torch.manual_seed(0)
    >>> memory = CMS(16, chunks=(4, 16))
    >>> memory(torch.randn(2, 10, 16)).shape
    torch.Size([2, 10, 16])
    """

    def __init__(
        self,
        width: int,
        chunks: Sequence[int] = (8, 32, 128, 512),
        *,
        hidden: int | None = None,
        arrangement: Arrangement = "chain",
        transfer: Transfer = "backprop",
        rate: float | Sequence[float] = 1.0,
        gradient: Gradient = "full",
    ) -> None:
        super().__init__()
        self.width = check_whole("width", width, 1, "1 or more works")
        self.hidden = self.width if hidden is None else check_whole("hidden", hidden, 1, "1 works")
        self.chunks = check_chunks(chunks)
        check_choice("arrangement", arrangement, get_args(Arrangement))
        check_choice("transfer", transfer, get_args(Transfer))
        if arrangement == "independent" and transfer != "backprop":
            raise SettingError(
                f"transfer={transfer!r} with independent levels, between which nothing passes; "
                "'backprop' works"
            )
        self.arrangement: Arrangement = arrangement
        self.transfer: Transfer = transfer
        self.rates = check_rates(rate, len(self.chunks))
        self.gradient = check_gradient(gradient)
        scale = INITIAL_SCALE / math.sqrt(len(self.chunks))
        self.levels = nn.ModuleList(
            ContinuumLevel(
                self.width,
                self.hidden,
                scale,
                moves_start=arrangement == "nested" and index + 1 < len(self.chunks),
                scales_output=transfer == "weights" and index > 0,
            )
            for index in range(len(self.chunks))
        )
        self.target = nn.Linear(self.width, self.width, bias=False)
        self.rate = nn.Linear(self.width, len(self.chunks))
        nn.init.zeros_(self.rate.weight)
        nn.init.constant_(self.rate.bias, math.log(START_RATE / (1 - START_RATE)))
        is_independent = arrangement == "independent"
        shares = self.rate.bias.new_ones(len(self.chunks))
        self.mixing = nn.Parameter(shares) if is_independent else None

    @property
    def kind(self) -> str:
        """Shape and clocks, by which a state is known to be this system's."""
        chunks = ",".join(map(str, self.chunks))
        return f"CMS {self.arrangement} {self.transfer} {self.width}x{self.hidden} {chunks}"

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return f"{self.kind}, rates={self.rates}, gradient={self.gradient!r}"

    def initial_state(self, num_samples: int) -> CMSState:
        """State of samples that have read nothing.

        Raises:
            SettingError: not a whole number of 0 or more.
        """
        size = check_whole("num_samples", num_samples, 0, "0 or more works")
        return CMSState(self.kind, (0,) * size, (Written(),) * len(self.chunks))

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, write: bool | None = None
    ) -> Tensor:
        """Read whole sequences, each from the initial weights: (B, T, D) -> (B, T, D).

        Args: as of `read`.
        """
        return self._read(x_BTD, None, mask_BT, write, keep_state=False)[0]

    def read(
        self,
        x_BTD: Tensor,
        state: CMSState | None = None,
        *,
        mask_BT: Tensor | None = None,
        write: bool | None = None,
    ) -> tuple[Tensor, CMSState]:
        """Read the next piece of each sequence; pieces of any size equal one pass.

        Args:
            x_BTD: (B, T, D) floats; T may be 0.
            state: what the last call returned; None where sequences begin.
            mask_BT: (B, T) true where a token is one, false where it is padding, anywhere; padding
                is neither read nor counted, and answered by zeros.
            write: whether the levels write; None for "in training mode". Without, the state comes
                back as it was, its clocks included.

        Returns: (B, T, D) y, and the state after it.

        Raises:
            ShapeMismatch: shapes or dtypes that do not fit.
            NonFiniteInput: NaN or infinity in a token that is not padding.
            ForeignSnapshot: a state of another system.
        """
        return self._read(x_BTD, state, mask_BT, write, keep_state=True)

    def _read(
        self,
        x_BTD: Tensor,
        state: CMSState | None,
        mask_BT: Tensor | None,
        write: bool | None,
        *,
        keep_state: bool,
    ) -> tuple[Tensor, CMSState]:
        """As `read`; without `keep_state` the state that comes back holds nothing."""
        check_inputs(x_BTD, mask_BT, self.width)
        check_dtype(x_BTD, self.target.weight)
        num_samples, length = x_BTD.shape[:2]
        if state is None:
            state = self.initial_state(num_samples)
        else:
            state = check_state(state, self.kind, num_samples, (self.width, self.hidden))
        writes = self.training if write is None else bool(write)
        counts = [length] * num_samples if mask_BT is None else mask_BT.sum(1).tolist()
        parts = _group_rows(state.positions, counts)
        if len(parts) == 1 and counts[0] == length:
            return self._read_aligned(x_BTD, state, writes=writes, keep_state=keep_state)
        y_BTD = x_BTD.new_zeros(x_BTD.shape)
        states = []
        for rows in parts:
            where_NT = _find_tokens(mask_BT, rows, length, x_BTD.device)
            index_N1 = torch.tensor(rows, dtype=torch.long, device=x_BTD.device)[:, None]
            part_NTD, part_state = self._read_aligned(
                x_BTD[index_N1, where_NT], state.select(rows), writes=writes, keep_state=keep_state
            )
            y_BTD = y_BTD.index_put((index_N1, where_NT), part_NTD)
            states.append(part_state)
        return y_BTD, merge_states(states, parts) if states else state

    def describe(self, state: CMSState) -> list[dict[str, float]]:
        """What each level did in the sequences of a state: a level that never writes shows.

        Args:
            state: what `read` returned.

        Returns: of each level, fastest first: `chunk`; `num_updates`, the mean over samples, 0
            where the rate is 0; `relative_change`, |in force| / |initial|, the mean over samples.

        Raises:
            ForeignSnapshot: a state of another system.
        """
        num_samples = len(state.positions)
        check_state(state, self.kind, num_samples, (self.width, self.hidden))
        found = []
        for index, (level, written) in enumerate(zip(self.levels, state.levels, strict=True)):
            assert isinstance(level, ContinuumLevel)
            counts = [self._clock(index).count_updates(at) for at in state.positions]
            change_B = torch.zeros(1, device=level.initial.device, dtype=torch.float32)
            if written.in_force is not None and num_samples:
                change_B = written.in_force.detach().flatten(1).norm(dim=1)
            writes = self.rates[index] > 0 and num_samples > 0
            found.append(
                {
                    "chunk": float(self.chunks[index]),
                    "num_updates": sum(counts) / num_samples if writes else 0.0,
                    "relative_change": float(change_B.mean() / level.initial.detach().norm()),
                }
            )
        return found

    def _read_aligned(
        self, x_BTD: Tensor, state: CMSState, *, writes: bool, keep_state: bool
    ) -> tuple[Tensor, CMSState]:
        """As `read`, of samples that stand at the same position and have no padding."""
        if not x_BTD.numel():
            return x_BTD, state
        writes = writes and any(self.rates)
        targets_BTD = self.target(x_BTD) if writes else x_BTD
        gates_BTL = torch.sigmoid(self.rate(x_BTD)) if writes else x_BTD
        input_BTD = x_BTD
        outputs: list[Tensor] = []
        levels: list[Written] = []
        for index, written in enumerate(state.levels):
            level = self.levels[index]
            assert isinstance(level, ContinuumLevel)
            keys_BTH = level.read_keys(input_BTD)
            if writes and self.rates[index] > 0:
                output_BTD, written = _write_in_float32(
                    keys_BTH,
                    targets_BTD,
                    gates_BTL[..., index] * (self.rates[index] / self.chunks[index]),
                    level,
                    written,
                    self._clock(index),
                    position=state.positions[0],
                    first_order=self.gradient == "first",
                    keep_state=keep_state,
                )
            else:
                output_BTD = _read_in_float32(keys_BTH, level.initial, written.in_force)
            levels.append(written)
            if level.row_scale is not None:
                output_BTD = output_BTD * (1 + torch.tanh(level.row_scale(outputs[-1])))
            outputs.append(output_BTD)
            if self.arrangement != "independent" and index + 1 < len(self.levels):
                passed_BTD = output_BTD if self.transfer != "direct" else output_BTD.detach()
                input_BTD = input_BTD + passed_BTD
                if self.transfer == "context":
                    targets_BTD = targets_BTD - passed_BTD
        if self.mixing is not None:
            outputs = [output * self.mixing[index] for index, output in enumerate(outputs)]
        y_BTD = outputs[0] + outputs[1] if len(outputs) > 1 else outputs[0]
        for output_BTD in outputs[2:]:
            y_BTD += output_BTD
        if not writes:
            return y_BTD, state
        positions = tuple(at + x_BTD.shape[1] for at in state.positions)
        return y_BTD, CMSState(state.kind, positions, tuple(levels))

    def _clock(self, index: int) -> WriteClock:
        """When a level writes and is reset."""
        chunk = self.chunks[index]
        context = None
        if self.arrangement == "nested" and index + 1 < len(self.chunks):
            context = self.chunks[index + 1]
        elif self.arrangement in ("sequential", "independent"):
            context = self.chunks[-1]
        cut = self.gradient * chunk if isinstance(self.gradient, int) else None
        return WriteClock(chunk, context=context, cut=cut)


def _write_in_float32(
    keys_BTH: Tensor,
    targets_BTD: Tensor,
    rates_BT: Tensor,
    level: ContinuumLevel,
    written: Written,
    clock: WriteClock,
    *,
    position: int,
    first_order: bool,
    keep_state: bool,
) -> tuple[Tensor, Written]:
    """`write_chunks` in float32 or more; outputs in the dtype of the keys."""
    dtype = torch.promote_types(keys_BTH.dtype, torch.float32)
    logit = level.consolidation
    output_BTD, written = write_chunks(
        keys_BTH.to(dtype),
        targets_BTD.to(dtype),
        rates_BT.to(dtype),
        level.initial.to(dtype),
        written,
        clock,
        position=position,
        consolidation=None if logit is None else torch.sigmoid(logit.to(dtype)),
        gradient="first" if first_order else "full",
        keep_state=keep_state,
    )
    return output_BTD.to(keys_BTH.dtype), written


def _read_in_float32(keys_BTH: Tensor, initial_DH: Tensor, in_force_BDH: Tensor | None) -> Tensor:
    """Output of a level that writes nothing now."""
    dtype = torch.promote_types(keys_BTH.dtype, torch.float32)
    output_BTD = functional.linear(keys_BTH.to(dtype), initial_DH.to(dtype))
    if in_force_BDH is not None:
        output_BTD = torch.baddbmm(output_BTD, keys_BTH.to(dtype), in_force_BDH.mT)
    return output_BTD.to(keys_BTH.dtype)


def _group_rows(positions: Sequence[int], counts: Sequence[int]) -> list[list[int]]:
    """Rows that stand at the same position and read the same number of tokens."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row, place in enumerate(zip(positions, counts, strict=True)):
        groups.setdefault(place, []).append(row)
    return list(groups.values())


def _find_tokens(
    mask_BT: Tensor | None, rows: Sequence[int], length: int, device: torch.device
) -> Tensor:
    """(N, n) places of the n tokens of each of N rows that are not padding."""
    if mask_BT is None:
        return torch.arange(length, device=device).expand(len(rows), -1)
    chosen_NT = mask_BT[list(rows)].to(device)
    return chosen_NT.nonzero()[:, 1].reshape(len(rows), -1)
