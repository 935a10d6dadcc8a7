"""Dark experience replay: what the model once answered is kept and held.

Letters: N examples of a batch, M replayed ones, K classes.
"""

import math

import torch
from torch import Tensor, nn

from nestling.core.errors import ShapeMismatch
from nestling.memory.tensor_slots import Columns
from nestling.protect.penalties.quadratic import check_strength
from nestling.protect.replay.buffer import ReplayMethod, measure_loss


def answer_distance(output: Tensor, kept: Tensor) -> Tensor:
    """How far answers are from those that were kept.

    mean over examples and outputs of (f(x) - z)^2   [Buzzega 2020, section 3]

    Args:
        output: f(x), (M, K); differentiated.
        kept: z, (M, J), J <= K; NaN where there was no output yet, which does not count.

    Returns: scalar (), 0 if nothing counts.

    Raises:
        ShapeMismatch: other shapes.

    Differs: the paper's squared norm is a sum over the outputs; its code, and its alphas, are for
    the mean.

    >>> answer_distance(torch.zeros(1, 3), torch.tensor([[2.0, math.nan]]))
    tensor(4.)
    """
    if output.ndim != 2 or kept.ndim != 2 or len(output) != len(kept):
        raise ShapeMismatch(
            f"answers of shape {tuple(output.shape)} and kept ones of {tuple(kept.shape)}; "
            "(M, K) and (M, J) work"
        )
    if kept.shape[1] > output.shape[1]:
        raise ShapeMismatch(
            f"{kept.shape[1]} outputs were kept and the model has {output.shape[1]}; a head may "
            "grow and not shrink"
        )
    known = ~kept.isnan()
    answers = output[:, : kept.shape[1]]
    # An unknown answer is put at the live one: NaN times 0 would be NaN in the gradient too.
    gaps = answers - torch.where(known, kept, answers.detach())
    return gaps.square().sum() / known.sum().clamp(min=1)


class DER(ReplayMethod):
    """Dark experience replay: the logits of the time of storing are held.

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
    >>> x, y = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    >>> method.observe(model, x, y, model(x).detach())
    >>> method.compute_loss(model, x, y, model(x)).item()  # nothing was learned yet
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

    def compute_loss(self, model: nn.Module, x: Tensor, y: Tensor, output: Tensor) -> Tensor | None:
        """alpha times the distance to the kept answers, scalar (); None while nothing is kept.

        Raises:
            ShapeMismatch: other examples than those that are kept, or a head that shrank.
        """
        self._check_batch(x, y, output)
        kept = self._draw(x)
        if kept is None:
            return None
        return self.alpha * answer_distance(model(kept["x"]), kept["logits"])

    def _read_columns(self, x: Tensor, y: Tensor, output: Tensor) -> Columns:
        if output.ndim != 2:
            raise ShapeMismatch(f"output of shape {tuple(output.shape)}; (N, K) works")
        shape = self._buffer.store.read_shape("logits")
        if shape is not None and shape[0] < output.shape[1]:
            self._buffer.store.pad("logits", output.shape[1:], math.nan)
        return {"x": x, "y": y, "logits": output}

    def _describe(self) -> dict[str, object]:
        return {**super()._describe(), "alpha": self.alpha}


class DERpp(DER):
    """Dark experience replay with the labels too.

    L = CE(f(x), y) + alpha ||f(x') - z'||^2 + beta CE(f(x''), y'')   [Buzzega 2020, DER++]

    x' and x'' are two independent draws of M examples.

    Args:
        buffer_size: most examples that are kept, 1 or more.
        alpha: >= 0, of the kept answers.
        beta: >= 0, of the labels.
        batch_size: M >= 1, of each of both draws.
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
        balanced: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(buffer_size, alpha, batch_size, balanced=balanced, seed=seed)
        self.beta = check_strength("beta", beta)

    def compute_loss(self, model: nn.Module, x: Tensor, y: Tensor, output: Tensor) -> Tensor | None:
        """Both terms, scalar (); None while nothing is kept. Errors are those of `DER`."""
        held = super().compute_loss(model, x, y, output)
        kept = self._draw(x)
        if held is None or kept is None:
            return None
        return held + self.beta * measure_loss(model(kept["x"]), kept["y"])

    def _describe(self) -> dict[str, object]:
        return {**super()._describe(), "beta": self.beta}
