"""Level stacking: blocks of a pre-trained model that go on learning in context, each on its clock.

Axes: B samples, T tokens, N tokens of one piece, K logits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from nestling.core.arguments import check_model, check_whole
from nestling.core.errors import (
    CorruptSnapshot,
    ForeignSnapshot,
    IdlePattern,
    NonFiniteInput,
    SettingError,
    ShapeMismatch,
    suggest,
)
from nestling.models.continuum.cms_settings import check_mask

TokenLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class StackedState:
    """What stacked levels have written in the sequences that they are reading, per sample.

    Args:
        positions: of each sample, tokens read since its sequence began, padding not counted.
        recent: of each sample, (T,) the last tokens read, which the next piece is read after.
        changes: parameter -> (B, ...) what is in force over the model's own value.
        gathered: parameter -> (B, ...) gradient of the chunk that is under way.
    """

    positions: tuple[int, ...]
    recent: tuple[Tensor, ...]
    changes: Mapping[str, Tensor]
    gathered: Mapping[str, Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name, for safetensors or a checkpoint; `load_stacked_state` reads them."""
        positions = torch.tensor(self.positions, dtype=torch.int64, device="cpu")
        return {
            "positions": positions,
            **{f"recent.{row}": tokens_T.clone() for row, tokens_T in enumerate(self.recent)},
            **{f"changes.{name}": tensor for name, tensor in self.changes.items()},
            **{f"gathered.{name}": tensor for name, tensor in self.gathered.items()},
        }

    def select(self, rows: Sequence[int]) -> "StackedState":
        """The state of some samples, in the order given.

        Raises:
            SettingError: a row that is not there.
        """
        size = len(self.positions)
        if any(not 0 <= row < size for row in rows):
            raise SettingError(f"rows={list(rows)} of a state of {size} samples; 0 to {size - 1}")
        chosen = list(rows)
        return StackedState(
            tuple(self.positions[row] for row in chosen),
            tuple(self.recent[row] for row in chosen),
            {name: tensor[chosen] for name, tensor in self.changes.items()},
            {name: tensor[chosen] for name, tensor in self.gathered.items()},
        )


def load_stacked_state(tensors: Mapping[str, Tensor]) -> StackedState:
    """The state that `StackedState.state_dict` saved.

    Args:
        tensors: name -> tensor; kept, not copied.

    Raises:
        CorruptSnapshot: names that are missing or unknown, or samples that do not agree.
    """
    parts: dict[str, dict[str, Tensor]] = {"changes": {}, "gathered": {}}
    rest = dict(tensors)
    try:
        positions = tuple(int(at) for at in rest.pop("positions").tolist())
        recent = tuple(rest.pop(f"recent.{row}") for row in range(len(positions)))
        for name, tensor in rest.items():
            part, _, parameter = name.partition(".")
            parts[part][parameter] = tensor
            if len(tensor) != len(positions):
                raise ValueError(f"{name} has {len(tensor)} samples, not {len(positions)}")
        # What is in force and what is gathered are of the same parameters.
        if lost := sorted(parts["changes"].keys() ^ parts["gathered"].keys()):
            raise ValueError(f"of {lost} one tensor is missing")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CorruptSnapshot(
            f"no state of stacked levels ({error}); save it by state_dict()"
        ) from None
    return StackedState(positions, recent, parts["changes"], parts["gathered"])


@dataclass(frozen=True, slots=True)
class StackedLevels:
    """Parameters of a model with clocks of their own; `stack_levels` makes it.

    Args:
        model: (B, T) tokens -> (B, T, K) logits, causal; never changed.
        chunks: parameter -> tokens between two of its updates.
        rates: parameter -> eta per token.
        context: tokens before an update that what follows it is read after; None for all.
        loss: ((N, K) logits, (N,) tokens) -> (), summed over tokens.
    """

    model: nn.Module
    chunks: Mapping[str, int]
    rates: Mapping[str, float]
    context: int | None
    loss: TokenLoss

    def read(
        self,
        tokens_BT: Tensor,
        state: StackedState | None = None,
        *,
        mask_BT: Tensor | None = None,
        write: bool | None = None,
    ) -> tuple[Tensor, StackedState]:
        """Logits of the next tokens of each sequence, and the state after them.

        Pieces of any size equal one pass. A token is learned from once it has been read, so no
        logit knows of a token after its own; a level's new weights are read in its next chunk.

        Args:
            tokens_BT: (B, T) integers.
            state: what the last call returned; None where sequences begin.
            mask_BT: (B, T) true where a token is one, false where it is padding, anywhere; padding
                is neither read nor counted, may hold any number, and is answered by zeros.
            write: whether levels learn; None for "if the model is in training mode". Without, the
                context goes on and the clocks run, and what is written or gathered stays.

        Returns: (B, T, K) logits, detached, and the state.

        Raises:
            ShapeMismatch: tokens or a mask that are no (B, T) integers or truth values, or a state
                of another batch.
            ForeignSnapshot: a state of other parameters.
            NonFiniteInput: a write that is not finite; the state given is as it was.
        """
        if (
            not isinstance(tokens_BT, Tensor)
            or tokens_BT.dim() != 2
            or tokens_BT.is_floating_point()
        ):
            raise ShapeMismatch("the tokens are no (samples, tokens) tensor of integers")
        if state is None:
            empty = tuple(tokens_BT[:, :0])
            state = StackedState((0,) * len(tokens_BT), empty, {}, {})
        check_mask(mask_BT, tokens_BT)
        self._check(state, len(tokens_BT))
        writes = self.model.training if write is None else bool(write)
        writes = writes and any(rate > 0 for rate in self.rates.values())
        if not tokens_BT.numel():
            return tokens_BT.new_zeros((*tokens_BT.shape, 0), dtype=torch.float32), state
        pieces = list(tokens_BT)
        if mask_BT is not None:
            pieces = [piece[mask_T] for piece, mask_T in zip(pieces, mask_BT, strict=True)]
        is_whole = all(len(piece) == tokens_BT.shape[1] for piece in pieces)
        if not writes and not state.changes and not any(state.positions) and is_whole:
            with torch.no_grad():  # the model itself, bit for bit
                logits_BTK = self._ask({}, tokens_BT)
            return logits_BTK, self._go_on(state, pieces, {}, {})
        rows = [
            self._read_row(piece, state, row, writes) if len(piece) or writes else None
            for row, piece in enumerate(pieces)
        ]
        read = [row for row in rows if row is not None]
        logits_BTK = _fill_in([row[0] for row in read], tokens_BT, mask_BT)
        if not writes:
            return logits_BTK, self._go_on(state, pieces, state.changes, state.gathered)
        changes = {name: torch.stack([row[1][name] for row in read]) for name in self.chunks}
        gathered = {name: torch.stack([row[2][name] for row in read]) for name in self.chunks}
        return logits_BTK, self._go_on(state, pieces, changes, gathered)

    def _read_row(
        self, tokens_T: Tensor, state: StackedState, row: int, writes: bool
    ) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Logits of one sequence, and its changes and gathered gradients, without an axis B."""
        own = dict(self.model.named_parameters())
        changes = {name: tensor[row] for name, tensor in state.changes.items()}
        gathered = {name: tensor[row] for name, tensor in state.gathered.items()}
        seen_T = torch.cat([state.recent[row], tokens_T])
        begin, end = len(state.recent[row]), len(seen_T)
        position, outputs = state.positions[row], list[Tensor]()
        is_plain = not writes and not changes  # the model itself, which reads after all
        while begin < end:
            size = end - begin
            if not is_plain:
                size = min(size, *(chunk - position % chunk for chunk in self.chunks.values()))
            first = 0
            # Counted from the last update of any level.
            if self.context is not None and not is_plain:
                first = max(0, begin - self._since_update(position) - self.context)
            piece_1T = seen_T[None, first : begin + size]
            weights = {
                name: (
                    own[name].detach() + changes[name] if name in changes else own[name].detach()
                )
                for name in self.chunks
            }
            with torch.set_grad_enabled(writes):
                for weight in weights.values():
                    weight.requires_grad_(writes)
                logits_NK = self._ask(weights, piece_1T)[0]
            outputs.append(logits_NK[begin - first :].detach())
            start = max(begin - first, 1)  # nothing foretells the first token of all
            if writes and start < len(logits_NK):
                # What was foretold of the tokens of this piece, by the weights in force now.
                loss = self.loss(logits_NK[start - 1 : -1], piece_1T[0, start:])
                grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
                for name, grad in zip(weights, grads, strict=True):
                    if grad is not None:
                        gathered[name] = gathered[name] + grad if name in gathered else grad
            begin, position = begin + size, position + size
            for name, chunk in self.chunks.items():
                if writes and position % chunk == 0 and name in gathered:
                    change = -self.rates[name] * gathered.pop(name)
                    if not bool(torch.isfinite(change).all()):
                        raise NonFiniteInput(
                            f"the write of {name!r} at token {position} is not finite; a rate "
                            f"below {self.rates[name]} works, if the loss itself is finite"
                        )
                    changes[name] = changes[name] + change if name in changes else change
        if writes:  # every sample keeps the same names
            for name in self.chunks:
                changes.setdefault(name, torch.zeros_like(own[name]))
                gathered.setdefault(name, torch.zeros_like(own[name]))
        return outputs, changes, gathered

    def _ask(self, weights: Mapping[str, Tensor], tokens_BT: Tensor) -> Tensor:
        """The model's logits by these weights; running statistics stay what they are."""
        held = dict[str, Tensor]()
        if self.model.training:
            held = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        logits_BTK: Tensor = functional_call(self.model, {**held, **weights}, (tokens_BT,))
        return logits_BTK

    def _go_on(
        self,
        state: StackedState,
        pieces: Sequence[Tensor],
        changes: Mapping[str, Tensor],
        gathered: Mapping[str, Tensor],
    ) -> StackedState:
        """The state after these tokens of each sample."""
        positions, kept = [], []
        for at, recent_T, piece_T in zip(state.positions, state.recent, pieces, strict=True):
            seen_T = torch.cat([recent_T, piece_T])
            positions.append(at + len(piece_T))
            if self.context is not None and changes:
                num_kept = self.context + self._since_update(positions[-1])
                seen_T = seen_T[max(0, len(seen_T) - num_kept) :]
            kept.append(seen_T)
        return StackedState(tuple(positions), tuple(kept), changes, gathered)

    def _since_update(self, position: int) -> int:
        """Tokens since any level was due."""
        return min(position % chunk for chunk in self.chunks.values())

    def _check(self, state: StackedState, num_samples: int) -> None:
        """Raise unless a state belongs to these parameters and this batch."""
        if not isinstance(state, StackedState):
            raise SettingError(f"state={type(state).__name__}; give what `read` returned, or None")
        if len(state.positions) != num_samples:
            raise ShapeMismatch(
                f"a state of {len(state.positions)} samples for a batch of {num_samples}; "
                "`state.select(rows)` picks samples"
            )
        shapes = {name: tensor.shape for name, tensor in self.model.named_parameters()}
        for name, tensor in [*state.changes.items(), *state.gathered.items()]:
            if name not in self.chunks or tensor.shape[1:] != shapes[name]:
                raise ForeignSnapshot(f"a state with {name!r}, which no level here has")


def stack_levels(
    model: nn.Module,
    levels: Mapping[str, int],
    *,
    rate: float | Sequence[float] = 0.01,
    context: int | None = None,
    loss: TokenLoss | None = None,
) -> StackedLevels:
    """Give blocks of a pre-trained model clocks of their own, to learn in context at test time.

    theta_l <- theta_l - eta_l sum over the last C_l tokens of grad loss(theta_l; token)
    [NL, section 7.3 with eq. 71]. The model is not changed: what is written lies in a state, per
    sample. eta = 0 is bit for bit the model.

    Differs: levels are parameters by name, not modules of a new kind. Each chunk is read again
    after its context, so `context=None` costs the square of the length.

    Args:
        model: (B, T) tokens -> (B, T, K) logits; causal.
        levels: pattern of parameter names -> C in tokens; the first that matches claims.
        rate: eta of each level or of all, >= 0, per token.
        context: tokens before an update that what follows it is read after, >= 1; None for all.
            While nothing has been written all are, as in the model.
        loss: ((N, K) logits, (N,) next tokens) -> (), summed; None for cross-entropy.

    Raises:
        SettingError: a chunk, rate or context that cannot be carried out.
        IdlePattern: a pattern that claims nothing.

    >>> lm = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    >>> stacked = stack_levels(lm, {"1.*": 4}, rate=0.1)
    >>> tokens = torch.tensor([[0, 1, 2, 3, 4, 0]])
    >>> logits, state = stacked.read(tokens, write=True)
    >>> logits.shape, state.positions
    (torch.Size([1, 6, 5]), (6,))
    """
    check_model(model, "stack_levels")
    if not isinstance(levels, Mapping) or not levels:
        raise SettingError(f"levels={levels!r}; patterns -> tokens work, e.g. {{'blocks.3.*': 32}}")
    rates = list(rate) if isinstance(rate, Sequence) else [rate] * len(levels)
    if len(rates) != len(levels):
        raise SettingError(f"{len(rates)} rates for {len(levels)} levels; one for each, or one")
    if context is not None:
        context = check_whole("context", context, 1, "1 token or more works, or None for all")
    chunks: dict[str, int] = {}
    own_rates: dict[str, float] = {}
    names = [name for name, _ in model.named_parameters()]
    for (pattern, chunk), eta in zip(levels.items(), rates, strict=True):
        chunk = check_whole("chunk", chunk, 1, "1 token or more works")
        if isinstance(eta, bool) or not isinstance(eta, int | float) or not 0 <= eta < math.inf:
            raise SettingError(f"rate={eta!r}; 0 (no writes) or more works")
        matched = [name for name in names if fnmatchcase(name, pattern)]
        claimed = [name for name in matched if name not in chunks]
        if matched and not claimed:
            raise IdlePattern(
                f"level {pattern!r} claims no parameter: {matched[0]!r} was claimed before, by a "
                "level above; put the narrower pattern first"
            )
        if not claimed:
            raise IdlePattern(f"level {pattern!r} claims no parameter; {suggest(pattern, names)}")
        for name in claimed:
            chunks[name], own_rates[name] = chunk, float(eta)
    return StackedLevels(model, chunks, own_rates, context, loss or _sum_cross_entropy)


def _sum_cross_entropy(logits_NK: Tensor, tokens_N: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over tokens."""
    return functional.cross_entropy(logits_NK, tokens_N.long(), reduction="sum")


def _fill_in(rows: Sequence[Sequence[Tensor]], tokens_BT: Tensor, mask_BT: Tensor | None) -> Tensor:
    """(B, T, K) logits from the pieces of each row; zeros where padding is."""
    found = [piece for row in rows for piece in row]
    if not found:  # padding only: how many logits there are nobody has said
        return tokens_BT.new_zeros((*tokens_BT.shape, 0), dtype=torch.float32)
    logits_NK = torch.cat(found)
    if mask_BT is None:
        return logits_NK.reshape(*tokens_BT.shape, -1)
    logits_BTK = logits_NK.new_zeros(*tokens_BT.shape, logits_NK.shape[1])
    logits_BTK[mask_BT] = logits_NK  # row by row, in the order of the sequence
    return logits_BTK
