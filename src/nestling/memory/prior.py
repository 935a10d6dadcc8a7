"""Class prior: how often each class came lately.

Letters: N examples, K classes.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import DataError, NotFitted
from nestling.core.modes import in_own_modes
from nestling.memory.checks import (
    check_half_life,
    check_labels,
    check_saved,
    check_weights,
    encode_one_hot,
)
from nestling.memory.exact.statistics import decay_factor, decay_weights


class ClassPrior:
    """Class-prior memory: exponentially decayed counts of labels.

    n_c(T) = sum_{i: y_i = c} w_i 2^(-age_i / h),   p(c) = n_c / sum n

    Args:
        half_life: h in examples, > 0.
        num_classes: fixed number of classes; None: they grow with the largest label.

    >>> prior = ClassPrior(half_life=1.0)
    >>> prior.add(torch.tensor([0, 2]))
    0
    >>> prior.predict(1)
    tensor([[0.3333, 0.0000, 0.6667]], dtype=torch.float64)
    >>> prior.present()
    tensor([ True, False,  True])
    """

    def __init__(self, half_life: float = 20.0, num_classes: int | None = None) -> None:
        self.half_life = check_half_life(half_life)
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes or 0, dtype=torch.float64, device="cpu")
        self._clock = 0
        self._faded = torch.zeros(0, dtype=torch.float64, device="cpu")

    @property
    def clock(self) -> int:
        """Examples that arrived so far."""
        return self._clock

    @property
    def is_empty(self) -> bool:
        """Whether nothing is remembered."""
        return not bool((self.counts > 0.0).any())

    @in_own_modes
    def add(self, y: Tensor, weight: Tensor | None = None) -> int:
        """Count labels in order.

        Args:
            y: (N,) integers >= 0.
            weight: (N,) >= 0; None for ones.

        Returns: the clock before them.

        Raises:
            UnknownLabel, ShapeMismatch, NonFiniteInput: as in `RidgeMemory.add`.
        """
        labels_N = check_labels(y, self.num_classes, len(self.counts))
        weight_N = None if weight is None else check_weights(weight, labels_N.shape[0])
        return self.add_checked(labels_N, weight_N)

    @in_own_modes
    def add_checked(self, labels_N: Tensor, weight_N: Tensor | None = None) -> int:
        """As `add`, for (N,) int64 labels and float64 weights that were checked already."""
        clock, N = self._clock, labels_N.shape[0]
        if N:
            self.grow(int(labels_N.max()) + 1)
            self.counts.mul_(decay_factor(N, self.half_life))
            if len(self._faded) != N:  # of weights of one; the same for every batch of a size
                ones = torch.ones(N, dtype=torch.float64, device="cpu")
                self._faded = decay_weights(ones, 0, self.half_life)
            faded = self._faded
            if weight_N is not None:
                faded = decay_weights(weight_N, 0, self.half_life)
            self.counts.index_add_(0, labels_N, faded)
            self._clock += N
        return clock

    @in_own_modes
    def grow(self, num_classes: int) -> None:
        """Make room for so many classes."""
        extra = num_classes - self.counts.shape[0]
        if extra > 0:
            self.counts = torch.cat(
                (self.counts, torch.zeros(extra, dtype=torch.float64, device="cpu"))
            )

    @in_own_modes
    def remove(self, y: Tensor, weight: Tensor | None = None, *, clock: int) -> None:
        """Take labels away that `add` counted at `clock`; never below zero."""
        labels_N = check_labels(y, self.num_classes)
        weight_N = check_weights(weight, labels_N.shape[0])
        age = self._clock - clock - labels_N.shape[0]
        if labels_N.shape[0] == 0:
            return
        if age < 0 or clock < 0 or int(labels_N.max()) >= self.counts.shape[0]:
            raise DataError(f"remove of labels at clock {clock} that were never added there")
        self.counts.index_add_(0, labels_N, -decay_weights(weight_N, age, self.half_life))
        self.counts.clamp_min_(0.0)

    def copy(self) -> "ClassPrior":
        """An independent memory with the same content."""
        twin = copy.copy(self)
        twin.counts = self.counts.clone()
        return twin

    def predict(self, num_examples: int) -> Tensor:
        """The same probabilities for every example: (N, K) float64; NotFitted while empty."""
        if self.is_empty:
            raise NotFitted("the class prior is empty; add(y) first")
        return (self.counts / self.counts.sum()).expand(num_examples, -1).clone()

    def present(self, threshold: float = 2.0**-5, num_classes: int | None = None) -> Tensor:
        """Which classes were seen recently.

        Args:
            threshold: least decayed count; 2^-5 means that one example counts for 5 half-lives.
            num_classes: of so many, also where none of the last ones, or more, were ever counted;
                None: of those that were.

        Returns: (K,) bool.
        """
        found = self.counts >= threshold
        if num_classes is None:
            return found
        return torch.nn.functional.pad(found, (0, num_classes - len(found)))

    def trace(self, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Counts as they would stand before each of the next labels; changes nothing.

        Args:
            y: (N,) labels below K.
            weight: (N,).

        Returns: (N, K) float64.
        """
        N = y.shape[0]
        rows_NK = encode_one_hot(y, self.counts.shape[0]) * check_weights(weight, N)[:, None]
        steps_N = torch.arange(N, dtype=torch.float64, device="cpu")
        ages_NN = steps_N[:, None] - 1.0 - steps_N[None, :]
        rate = 0.0 if math.isinf(self.half_life) else 1.0 / self.half_life
        decay_NN = torch.exp2(-ages_NN.clamp_min(0.0) * rate) * (ages_NN >= 0.0)
        start_N1 = torch.exp2(-steps_N * rate)[:, None]
        return start_N1 * self.counts + decay_NN @ rows_NK

    def state_dict(self) -> dict[str, object]:
        """Counts and clock."""
        return {
            "config": self._read_config(),
            "clock": self._clock,
            "counts": self.counts.clone(),
        }

    @in_own_modes
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the prior that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._read_config(), "class prior")
        self._clock = state["clock"]
        self.counts = state["counts"].clone()

    def _read_config(self) -> dict[str, object]:
        return {"half_life": self.half_life, "num_classes": self.num_classes}
