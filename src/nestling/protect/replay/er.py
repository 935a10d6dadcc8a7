"""Experience replay: kept examples are learned again beside the new ones.

Letters: N examples of a batch, M replayed ones, K classes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch, Loss, default_loss
from nestling.protect.columns import require_target
from nestling.protect.penalties.distillation import (
    list_classes,
    list_rows,
    mask_classes,
    require_labels,
)
from nestling.protect.replay.buffer import ReplayMethod, answer_kept


class ER(ReplayMethod):
    """Experience replay (ER) from a reservoir sample of all examples seen.

    L = CE(f(x), y) + CE(f(x_m), y_m), each a mean   [Chaudhry 2019, "tiny episodic memories"]

    The buffer takes in a batch after its step, so that a batch is never replayed to itself.
    Values are replayed with the squared error.

    Args:
        buffer_size: most examples that are kept, 1 or more.
        batch_size: M >= 1, replayed at each step.
        balanced: as equal a number of each class as can be, instead of a uniform sample.
        joint: one mean over the N + M examples, as in the paper and in Mammoth's code, instead
            of the sum of two means; gradients are then about half as large. Not beside a method
            that masks the new batch's logits, which it weighs as they are.
        seed: of what is kept and of what is replayed.

    Raises:
        SettingError: a setting outside its range.

    Differs: the sum of two means unless `joint`; then M need not be chosen after N.

    >>> method, model = ER(100), nn.Linear(2, 2)
    >>> batch = Batch((torch.zeros(3, 2),), target=torch.tensor([0, 1, 1]))
    >>> method.observe(model, batch, batch.call(model))
    >>> method.count_bytes()  # 3 examples of 2 values and a class
    48
    """

    def __init__(
        self,
        buffer_size: int,
        batch_size: int = 10,
        *,
        balanced: bool = False,
        joint: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(buffer_size, batch_size, balanced=balanced, seed=seed)
        self.joint = joint

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """The loss of what is replayed, scalar (); None while nothing is kept.

        Raises:
            DataError: a balanced buffer, and targets that are not classes.
            ShapeMismatch: examples of another shape or dtype than those that are kept.
        """
        self.check(batch, output)
        kept = self.draw(output.device)
        if kept is None:
            return None
        replayed = loss(answer_kept(model, kept), kept["y"])
        return self._weigh(replayed, len(kept["y"]), batch, output, loss)

    def _weigh(
        self, replayed: Tensor, num_replayed: int, batch: Batch, output: Tensor, loss: Loss
    ) -> Tensor:
        """The loss of what is replayed, such that the new batch's plus it is the whole."""
        if not self.joint:
            return replayed
        # N/(N+M) new + M/(N+M) replayed = new + M/(N+M) (replayed - new)
        share = num_replayed / (num_replayed + batch.size)
        return share * (replayed - loss(output, require_target(batch)))

    def _describe(self) -> dict[str, object]:
        return {**super()._describe(), "joint": self.joint}


class ERACE(ReplayMethod):
    """ER-ACE: experience replay with asymmetric cross entropy for the new batch.

    L = CE(f(x), y; K \\ O) + CE(f(x_m), y_m; S)   [Caccia 2022, ER-ACE]

    with S the classes seen so far, O those of them that are not in the new batch, and CE(.; A)
    the cross entropy with a softmax over A alone. New batches leave the logits of O as they are;
    only what is replayed weighs old against new.

    Args:
        buffer_size, batch_size, balanced, seed: as in `ER`.

    Raises:
        SettingError: a setting outside its range.

    Differs: classes without any example yet are left in the new batch's softmax, as in Mammoth's
    code, but from the first step on: no boundary is needed.
    """

    def __init__(
        self, buffer_size: int, batch_size: int = 10, *, balanced: bool = False, seed: int = 0
    ) -> None:
        super().__init__(buffer_size, batch_size, balanced=balanced, seed=seed)
        self._seen: set[int] = set()

    def restrict(self, output: Tensor, batch: Batch) -> Tensor:
        """(N, K) logits with those of O masked.

        Raises:
            DataError: targets that are not classes.
            UnknownLabel: a class without a logit.
        """
        target = require_labels(batch, "ERACE masks")
        old = self._seen - batch.labels
        num_outputs = list_rows(output, target).shape[1]
        # The batch's own classes are named too, so that one without a logit is refused.
        rest = [k for k in range(num_outputs) if k not in old]
        return mask_classes(
            output,
            target,
            torch.tensor(sorted({*rest, *batch.labels}), dtype=torch.int64, device="cpu"),
        )

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """The loss of what is replayed, over all seen classes; None while nothing is kept.

        Raises:
            DataError: targets that are not classes.
            ShapeMismatch: examples of another shape or dtype than those that are kept.
        """
        require_labels(batch, "ERACE replays")
        self.check(batch, output)
        kept = self.draw(output.device)
        if kept is None:
            return None
        seen = torch.tensor(sorted(self._seen | batch.labels), dtype=torch.int64, device="cpu")
        return loss(mask_classes(answer_kept(model, kept), kept["y"], seen), kept["y"])

    def observe(self, model: nn.Module, batch: Batch, output: Tensor) -> None:
        """Offer the batch to the buffer and note its classes."""
        super().observe(model, batch, output)
        self._seen.update(list_classes(batch))

    def state_dict(self) -> dict[str, Any]:
        """The settings, the buffer, the generators and the classes seen."""
        return {**super().state_dict(), "seen": sorted(self._seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        super().load_state_dict(state)
        self._seen = set(state["seen"])
