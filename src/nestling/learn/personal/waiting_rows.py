"""What a person has taught and agreed to share: rows that wait to be merged.

Letters: R rows, D what the common memory reads.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class WaitingRows:
    """Rows as the common memory reads them, with labels and weights, in order.

    >>> waiting = WaitingRows()
    >>> waiting.add(torch.ones(2, 3), torch.tensor([0, 1]), torch.ones(2))
    >>> len(waiting), waiting.join()[0].shape
    (2, torch.Size([2, 3]))
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def __len__(self) -> int:
        return sum(len(part[1]) for part in self._parts)

    def add(self, read_RD: Tensor, label_R: Tensor, weight_R: Tensor) -> None:
        """Keep copies of rows (R, D), labels (R,) and weights (R,)."""
        self._parts.append((read_RD.clone(), label_R.clone(), weight_R.clone()))

    def join(self) -> tuple[Tensor, Tensor, Tensor]:
        """All rows, labels and weights, as one batch; there must be some."""
        read, label, weight = zip(*self._parts, strict=True)
        return torch.cat(read), torch.cat(label), torch.cat(weight)

    def state_dict(self) -> dict[str, Any]:
        """All of it; empty if nothing waits."""
        return {} if not self._parts else dict(zip(_NAMES, self.join(), strict=True))

    @classmethod
    def from_state(cls, state: Mapping[str, Any], num_read: int) -> "WaitingRows":
        """What `state_dict` gave; ValueError if lengths do not fit, or rows have another width."""
        made = cls()
        if state:
            read, label, weight = (state[name] for name in _NAMES)
            if read.shape != (len(label), num_read) or weight.shape != label.shape:
                raise ValueError(f"rows of shape {tuple(read.shape)} with {len(label)} labels")
            made.add(read, label, weight)
        return made


_NAMES = ("read", "label", "weight")
