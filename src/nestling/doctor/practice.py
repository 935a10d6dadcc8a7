"""Something to learn for any model: targets that suit its outputs, a loss, and a score."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from nestling.core.errors import ShapeMismatch
from nestling.core.seeds import make_generator

MOST_CLASSES = 4


@dataclass(frozen=True)
class Practice:
    """Targets for the outputs of one batch.

    Args:
        targets: (N,) or (N, T) classes, or values of the outputs' shape.
        num_classes: 0 for values.
    """

    targets: Tensor
    num_classes: int

    def loss(self, y: Tensor) -> Tensor:
        """Mean cross-entropy in nats, or mean squared error."""
        if not self.num_classes:
            return functional.mse_loss(y.float(), self.targets)
        flat = y.flatten(self.targets.dim()).flatten(0, self.targets.dim() - 1)
        return functional.cross_entropy(flat.float(), self.targets.flatten())

    def score(self, y: Tensor) -> tuple[float, float, int]:
        """Share answered right (values: share of variance explained), by chance, and of how many.

        Chance is the share of the most frequent class; of values 0.
        """
        y = y.detach()
        if not self.num_classes:
            rest = float((y.float() - self.targets).square().mean())
            spread = float(self.targets.var(correction=0))
            return 1 - rest / max(spread, 1e-12), 0.0, self.targets.numel()
        flat = y.flatten(self.targets.dim())
        right = (flat.argmax(-1) == self.targets).float().mean()
        most = torch.bincount(self.targets.flatten()).max() / self.targets.numel()
        return float(right), float(most), self.targets.numel()

    def select(self, rows: slice) -> "Practice":
        """The targets of some samples."""
        return Practice(self.targets[rows], self.num_classes)


def make_practice(
    x: Tensor, y: Tensor, *, labels: Tensor | None = None, is_sequence: bool, seed: int = 0
) -> Practice:
    """Targets that a model with such outputs can learn.

    Classes are equal shares of the values of a random linear map of the sample, or of each token of
    a sequence. Of tokens that are whole numbers the class is the remainder, and samples of them are
    given one at random, to be learned by heart.

    Args:
        x: (N, ...) inputs.
        y: (N, K) or (N, T, K) outputs, or (N,) or (N, 1) values.
        labels: classes, (N,) or (N, T); made if not given.
        is_sequence: whether axis 1 of x and y is time.
        seed: of what is made.

    Raises:
        ShapeMismatch: labels that are no classes of these outputs.
    """
    generator = make_generator(seed, "practice")
    lead = 2 if is_sequence else 1
    num_outputs = y[(0,) * lead].numel()
    if labels is not None:
        if labels.shape != y.shape[:lead] or labels.is_floating_point() or num_outputs < 2:
            raise ShapeMismatch(
                f"labels of shape {tuple(labels.shape)} and {labels.dtype} for outputs of shape "
                f"{tuple(y.shape)}; integers of shape {tuple(y.shape[:lead])} work"
            )
        if int(labels.min()) < 0 or int(labels.max()) >= num_outputs:
            raise ShapeMismatch(
                f"labels from {int(labels.min())} to {int(labels.max())} for {num_outputs} "
                f"outputs; 0 to {num_outputs - 1} work"
            )
        return Practice(labels.long(), num_outputs)
    if num_outputs < 2:
        values = torch.randn(y.shape, generator=generator, device="cpu", dtype=torch.float32)
        return Practice(values.to(y.device), 0)
    num_classes = min(num_outputs, MOST_CLASSES)
    if is_sequence:
        if x.is_floating_point():
            direction_C = torch.randn(
                x.shape[2], generator=generator, device="cpu", dtype=torch.float32
            )
            value_BT = x.detach().float() @ direction_C.to(x.device)
            order = value_BT.flatten().argsort().argsort().reshape(value_BT.shape)
            return Practice(order * num_classes // order.numel(), num_classes)
        return Practice(x.long() % num_classes, num_classes)
    score_N = torch.randn(len(x), generator=generator, device="cpu", dtype=torch.float32)
    if x.is_floating_point():  # a map that a linear model can learn
        flat = x.detach().reshape(len(x), -1).float().cpu()
        direction = torch.randn(
            flat.shape[1], generator=generator, device="cpu", dtype=torch.float32
        )
        score_N = flat @ direction
    half = len(x) // 2  # each half holds every class as often
    parts = [
        part.argsort().argsort() * num_classes // len(part)
        for part in (score_N[:half], score_N[half:])
        if len(part)
    ]
    return Practice(torch.cat(parts).to(x.device), num_classes)
