"""GDumb: keep a balanced buffer, and train on it only when an answer is wanted."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch, Loss, default_loss
from nestling.core.errors import SettingError
from nestling.core.modes import in_own_modes
from nestling.core.seeds import make_generator
from nestling.protect.penalties.quadratic import check_strength
from nestling.protect.replay.answering_copy import ModelCopy
from nestling.protect.replay.buffer import ReplayMethod, answer_kept, check_count, check_share


class GDumb(ReplayMethod):
    """GDumb: a class-balanced buffer, on which a fresh model is trained to answer.

    reader = argmin over theta, from the first weights, of the loss of (f(x), y) over the buffer
    [Prabhu 2020, Algorithms 1 and 2]

    The live model keeps its weights: each step's gradients are set to None, so that an optimizer
    passes over them, momentum and decay included. The reader is trained when an experience ends,
    or when it is asked for and the buffer has changed; it depends on the first weights, the
    buffer and the seed alone (and on dropout's draws).

    Args:
        buffer_size: most examples that are kept, 1 or more.
        num_epochs: passes over the buffer.
        batch_size: of the training.
        rate: of SGD at the start, above 0.
        min_rate: to which it falls over the epochs, as a cosine.
        momentum: in [0, 1].
        weight_decay: >= 0.
        clip_norm: above 0, to which a gradient's length is cut.
        seed: of what is kept and of the order in training.

    Raises:
        SettingError: a setting outside its range.

    Differs: one cosine instead of warm restarts, and no cutmix; the buffer keeps a uniform sample
    of each class (see `BalancedReplay`) instead of its first examples. A batch norm's statistics
    start from the live model's at its first step.
    """

    def __init__(
        self,
        buffer_size: int,
        num_epochs: int = 256,
        batch_size: int = 16,
        *,
        rate: float = 0.05,
        min_rate: float = 0.0005,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        clip_norm: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__(buffer_size, batch_size, balanced=True, seed=seed)
        self.num_epochs = check_count("num_epochs", num_epochs)
        if not 0.0 <= min_rate <= rate < math.inf or rate == 0.0:
            raise SettingError(
                f"rate={rate} and min_rate={min_rate}; 0 <= min_rate <= rate works, rate above 0"
            )
        if not clip_norm > 0.0:
            raise SettingError(f"clip_norm={clip_norm}; a number above 0 or math.inf works")
        self.rate, self.min_rate = float(rate), float(min_rate)
        self.momentum = check_share("momentum", momentum)
        self.weight_decay = check_strength("weight_decay", weight_decay)
        self.clip_norm = float(clip_norm)
        self._first, self._reader = ModelCopy(), ModelCopy()
        self._is_stale = False
        self._loss: Loss = default_loss  # of the steps; the reader is trained on it too

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """None; the first weights are copied, and what could not be kept is refused.

        Raises:
            DataError: targets that are not classes.
            ShapeMismatch: examples of another shape or dtype than those that are kept.
        """
        self.check(batch, output)
        self._first.follow(model)
        self._loss = loss
        return None

    def adjust_gradients(self, model: nn.Module, loss: Loss = default_loss) -> None:
        """Take all gradients away, so that the step changes no weight."""
        for param in model.parameters():
            param.grad = None

    def observe(self, model: nn.Module, batch: Batch, output: Tensor) -> None:
        """Offer the batch to the buffer."""
        self._first.follow(model)
        super().observe(model, batch, output)
        self._is_stale = True

    def end_experience(self, model: nn.Module, loader: Iterable[object] | None = None) -> None:
        """Train the reader on the buffer; `loader` is not needed."""
        self._first.follow(model)
        self._train()

    def find_reader(self) -> nn.Module | None:
        """The model that was trained on the buffer, in eval mode; None before the first step.

        Raises:
            NotFitted: a state was loaded and no model was there since; see `build_reader`.
        """
        self._train()
        return None if self._reader.is_empty else self._reader.read()

    def build_reader(self, model: nn.Module, loss: Loss = default_loss) -> None:
        """Give loaded weights a module like the model's, to answer before a next step."""
        self._loss = loss
        self._first.follow(model)
        if not self._reader.is_empty:
            self._reader.follow(model)

    def count_bytes(self) -> int:
        """Of the examples that are kept, the first weights and the reader's."""
        return super().count_bytes() + self._first.count_bytes() + self._reader.count_bytes()

    def state_dict(self) -> dict[str, Any]:
        """The settings, the buffer, the generators, the first weights and the reader's."""
        return {
            **super().state_dict(),
            "first": self._first.state_dict(),
            "reader": self._reader.state_dict(),
            "is_stale": self._is_stale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        super().load_state_dict(state)
        self._first.load_state_dict(state["first"])
        self._reader.load_state_dict(state["reader"])
        self._is_stale = state["is_stale"]

    @in_own_modes
    def _train(self) -> None:
        """Train the reader, unless it was trained on the very buffer."""
        kept = self.store.read_all()
        if not self._is_stale or not kept:
            return
        self._reader.take(self._first.read())
        model = self._reader.read().train()
        for name, param in model.named_parameters():
            param.requires_grad_(name in self._first.trainable)
        device = next(model.parameters()).device
        # Of the examples so far, so that an answer in between changes no later one.
        order = make_generator(self.seed, "gdumb order", self.store.num_seen)
        num_kept = len(self.store)
        num_batches = math.ceil(num_kept / self.batch_size)
        optimizer = torch.optim.SGD(
            model.parameters(), self.rate, self.momentum, weight_decay=self.weight_decay
        )
        for epoch in range(self.num_epochs):
            rate = cosine_rate(epoch / self.num_epochs, self.rate, self.min_rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            # As equal as can be, since a last batch of one is refused by a batch norm.
            for rows in torch.randperm(num_kept, generator=order, device="cpu").tensor_split(
                num_batches
            ):
                optimizer.zero_grad()
                some = {name: column[rows].to(device) for name, column in kept.items()}
                self._loss(answer_kept(model, some), some["y"]).backward()
                nn.utils.clip_grad_norm_(model.parameters(), self.clip_norm)
                optimizer.step()
        optimizer.zero_grad()
        model.requires_grad_(False).eval()
        self._is_stale = False

    def _describe(self) -> dict[str, object]:
        return {
            **super()._describe(),
            "num_epochs": self.num_epochs,
            "rate": self.rate,
            "min_rate": self.min_rate,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "clip_norm": self.clip_norm,
        }


def cosine_rate(part: float, rate: float, min_rate: float) -> float:
    """min_rate + (rate - min_rate) (1 + cos(pi part)) / 2   [Loshchilov & Hutter 2017, Eq. 5]

    Args:
        part: of the training that is over, in [0, 1].

    >>> cosine_rate(0.0, 1.0, 0.5), cosine_rate(1.0, 1.0, 0.5)
    (1.0, 0.5)
    """
    return min_rate + 0.5 * (rate - min_rate) * (1.0 + math.cos(math.pi * part))
