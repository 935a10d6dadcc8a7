"""Dark experience replay: the model's former logits are stored and held.

Letters: N examples of a batch, M replayed ones, K classes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch, Loss, default_loss
from nestling.core.errors import ShapeMismatch
from nestling.memory.tensor_slots import Columns
from nestling.protect.columns import pack_batch
from nestling.protect.penalties.quadratic import check_strength
from nestling.protect.replay.buffer import ReplayMethod, answer_kept, find_generator


def answer_distance(output: Tensor, kept: Tensor, weight: float = 1.0) -> Tensor:
    """Mean squared distance of logits to stored logits, the loss of DER.

    weight * mean over examples and outputs of (f(x) - z)^2   [Buzzega 2020, section 3]

    Args:
        output: f(x), (M, K) or (M, T, K), ...; differentiated.
        kept: z, (M, J), J <= K, ...; NaN where there was no output yet, which does not count.
        weight: alpha.

    Returns: scalar (), 0 if nothing counts.

    Raises:
        ShapeMismatch: other shapes.

    Differs: the paper's squared norm is a sum over the outputs; its code, and its alphas, are for
    the mean.

    >>> answer_distance(torch.zeros(1, 3), torch.tensor([[2.0, math.nan]]))
    tensor(4.)
    """
    if output.ndim != kept.ndim or len(output) != len(kept):
        raise ShapeMismatch(
            f"answers of shape {tuple(output.shape)} and kept ones of {tuple(kept.shape)}; "
            "(M, K) and (M, J) work"
        )
    _check_width(kept.shape[1:], output)
    known = ~kept.isnan()
    answers = output[tuple(slice(0, length) for length in kept.shape)]
    # An unknown answer is put at the live one: NaN times 0 would be NaN in the gradient too.
    gaps = answers - torch.where(known, kept, answers.detach())
    return weight * gaps.square().sum() / known.sum().clamp(min=1)


def _check_width(kept: Sequence[int], output: Tensor) -> None:
    """Raise ShapeMismatch unless answers of shape (N, *kept) lie within the output's."""
    shape = tuple(output.shape[1:])
    if len(kept) != len(shape) or any(old > new for old, new in zip(kept, shape, strict=True)):
        raise ShapeMismatch(
            f"outputs of shape {tuple(kept)} were kept and the model's have {shape}; a head may "
            "grow and not shrink"
        )


class DER(ReplayMethod):
    """Dark experience replay (DER): replayed logits are held to those that were stored.

    L = CE(f(x), y) + alpha ||f(x') - z'||^2   [Buzzega 2020, DER]

    z' is what the model answered to x' before the step in which x' came by. A head may grow: an
    output that a kept answer lacks is free.

    Args:
        buffer_size: most examples that are kept, 1 or more.
        alpha: >= 0; the distance is a mean over examples and outputs.
        batch_size: M >= 1, replayed at each step.
        balanced, seed: as in `ER`.

    Raises:
        SettingError: a setting outside its range.

    >>> method, model = DER(100, alpha=0.5), nn.Linear(2, 2)
    >>> batch = Batch((torch.zeros(3, 2),), target=torch.tensor([0, 1, 1]))
    >>> method.observe(model, batch, batch.call(model).detach())
    >>> method.compute_loss(model, batch, batch.call(model)).item()  # nothing was learned yet
    0.0
    """

    def __init__(
        self,
        buffer_size: int,
        alpha: float,
        batch_size: int = 10,
        *,
        balanced: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(buffer_size, batch_size, balanced=balanced, seed=seed)
        self.alpha = check_strength("alpha", alpha)

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """alpha times the distance to the kept answers, scalar (); None while nothing is kept.

        Raises:
            ShapeMismatch: other examples than those that are kept, or a head that shrank.
        """
        self.check(batch, output)
        kept = self.draw(output.device)
        if kept is None:
            return None
        return answer_distance(answer_kept(model, kept), kept["logits"], self.alpha)

    def observe(self, model: nn.Module, batch: Batch, output: Tensor) -> None:
        """Offer the batch to the buffer with its answers; where the head grew, the kept ones are
        unknown."""
        kept = self.store.store.read_shape("logits")
        if kept is not None:
            _check_width(kept, output)
            self.store.store.pad("logits", output.shape[1:], math.nan)
        super().observe(model, batch, output)

    def _read_columns(self, batch: Batch, output: Tensor | None) -> Columns:
        return {**pack_batch(batch), "logits": self._read_logits(batch, output)}

    def _read_logits(self, batch: Batch, output: Tensor | None) -> Tensor:
        """In full precision; for a check those that fit what is kept, as a head may grow."""
        kept = self.store.store.read_shape("logits")
        if output is not None and kept is not None:
            _check_width(kept, output)
        if output is not None and kept in (None, tuple(output.shape[1:])):
            return output.detach().float()
        return torch.zeros(batch.size, *(kept or (0,)), dtype=torch.float32, device="cpu")

    def _describe(self) -> dict[str, object]:
        return {**super()._describe(), "alpha": self.alpha}


class DERpp(DER):
    """DER++: dark experience replay of logits and of labels.

    L = CE(f(x), y) + alpha ||f(x') - z'||^2 + beta CE(f(x''), y'')   [Buzzega 2020, DER++]

    x' and x'' are two independent draws of M examples, or one and the same.

    Args:
        buffer_size: most examples that are kept, 1 or more.
        alpha: >= 0, of the kept answers.
        beta: >= 0, of the labels.
        batch_size: M >= 1, of each draw.
        one_draw: x'' is x', which saves a forward pass. Then what is kept and what is replayed is
            drawn by the same generator.
        takes_repeats: whether what comes again in a later epoch is offered to the buffer again.
        balanced, seed: as in `ER`.

    Raises:
        SettingError: a setting outside its range.
    """

    def __init__(
        self,
        buffer_size: int,
        alpha: float,
        beta: float,
        batch_size: int = 10,
        *,
        one_draw: bool = False,
        takes_repeats: bool = True,
        balanced: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(buffer_size, alpha, batch_size, balanced=balanced, seed=seed)
        self.beta = check_strength("beta", beta)
        self.one_draw = one_draw
        self.takes_repeats = takes_repeats
        if one_draw:
            self._generator = find_generator(self.store)

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """Both terms, scalar (); None while nothing is kept. Errors are those of `DER`."""
        self.check(batch, output)
        kept = self.draw(output.device)
        if kept is None:
            return None
        answers = answer_kept(model, kept)
        held = answer_distance(answers, kept["logits"], self.alpha)
        if not self.one_draw:
            kept = self.draw(output.device) or kept
            answers = answer_kept(model, kept)
        return held + self.beta * loss(answers, kept["y"])

    def _describe(self) -> dict[str, object]:
        own = {
            "beta": self.beta,
            "one_draw": self.one_draw,
            "takes_repeats": self.takes_repeats,
        }
        return {**super()._describe(), **own}
