"""Experience replay: kept examples are learned again beside the new ones.

Letters: N examples of a batch, M replayed ones, K classes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from nestling.memory.tensor_slots import Columns
from nestling.protect.penalties.distillation import mask_absent
from nestling.protect.replay.buffer import ReplayMethod, measure_loss, require_classes


class ER(ReplayMethod):
    """Experience replay from a uniform sample of all that came by.

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
    >>> x, y = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    >>> method.observe(model, x, y, model(x))
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

    def compute_loss(self, model: nn.Module, x: Tensor, y: Tensor, output: Tensor) -> Tensor | None:
        """The loss of what is replayed, scalar (); None while nothing is kept.

        Raises:
            DataError: a balanced buffer, and targets that are not classes.
            ShapeMismatch: examples of another shape or dtype than those that are kept.
        """
        self._check_batch(x, y, output)
        kept = self._draw(x)
        if kept is None:
            return None
        return self._weigh(measure_loss(model(kept["x"]), kept["y"]), kept, y, output)

    def _weigh(self, replayed: Tensor, kept: Columns, y: Tensor, output: Tensor) -> Tensor:
        """The loss of what is replayed, such that the new batch's plus it is the whole."""
        if not self.joint:
            return replayed
        # N/(N+M) new + M/(N+M) replayed = new + M/(N+M) (replayed - new)
        num_replayed = len(kept["y"])
        share = num_replayed / (num_replayed + len(y))
        return share * (replayed - measure_loss(output, y))

    def _describe(self) -> dict[str, object]:
        return {**super()._describe(), "joint": self.joint}


class ERACE(ReplayMethod):
    """Replay whose new batch does not push the old classes down (asymmetric cross entropy).

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

    def restrict(self, output: Tensor, y: Tensor) -> Tensor:
        """(N, K) logits with those of O masked.

        Raises:
            DataError: targets that are not classes.
            UnknownLabel: a class without a logit.
        """
        require_classes(y, "ERACE masks")
        old = self._seen - set(y.tolist())
        # The batch's own classes are named too, so that one without a logit is refused.
        rest = [k for k in range(output.shape[-1]) if k not in old]
        return mask_absent(output, torch.tensor(sorted({*rest, *y.tolist()})))

    def compute_loss(self, model: nn.Module, x: Tensor, y: Tensor, output: Tensor) -> Tensor | None:
        """The loss of what is replayed, over all seen classes; None while nothing is kept.

        Raises:
            DataError: targets that are not classes.
            ShapeMismatch: examples of another shape or dtype than those that are kept.
        """
        require_classes(y, "ERACE replays")
        self._check_batch(x, y, output)
        kept = self._draw(x)
        if kept is None:
            return None
        seen = torch.tensor(sorted(self._seen.union(y.tolist())))
        return measure_loss(mask_absent(model(kept["x"]), seen), kept["y"])

    def observe(self, model: nn.Module, x: Tensor, y: Tensor, output: Tensor) -> None:
        """Offer the batch to the buffer and note its classes."""
        super().observe(model, x, y, output)
        self._seen.update(label for label in y.tolist() if label >= 0)

    def state_dict(self) -> dict[str, Any]:
        """The settings, the buffer, the generators and the classes seen."""
        return {**super().state_dict(), "seen": sorted(self._seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        super().load_state_dict(state)
        self._seen = set(state["seen"])
