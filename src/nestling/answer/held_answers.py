"""Answers that are held until it is known what a memory foresaw of the same examples.

Axis letters: E experts, N answers (rows), K classes, M outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nestling.memory.mixture import pad_classes


@dataclass(frozen=True)
class _Held:
    clock: int
    target: Tensor
    given: Tensor
    others: Tensor  # (E', N, K) of moving experts; (0, N, 0) where they were not asked


class HeldAnswers:
    """What was answered to examples that the memory has not taken in yet, by its clock."""

    def __init__(self) -> None:
        self._parts: list[_Held] = []

    def add(self, clock: int, target: Tensor, given: Tensor, others: Sequence[Tensor]) -> None:
        """Keep answers to N examples, the first of which comes at `clock`.

        Args:
            clock: the memory's.
            target: (N,) or (N, M).
            given: (N, K) of the model as it was given.
            others: per moving expert (N, K); none if they were not asked.
        """
        stacked = pad_classes(others) if others else given.new_zeros(0, len(target), 0)
        # What was given may be overwritten by its owner.
        self._parts.append(_Held(clock, target.clone(), given.clone(), stacked))

    def take(self, clock: int, num: int) -> list[tuple[Tensor, Tensor, Tensor, slice]]:
        """Give up what is held of the examples from `clock` on, and forget all before them.

        Returns: per part its targets, answers of the given model, and of the others; and which of
            the `num` examples they are.
        """
        found, kept = [], []
        for part in self._parts:
            first = part.clock - clock
            low, high = max(0, -first), min(len(part.target), num - first)
            if low < high:
                rows = slice(low, high)
                place = slice(first + low, first + high)
                held = (part.target[rows], part.given[rows], part.others[:, rows], place)
                found.append(held)
            if high < len(part.target):
                rest = slice(max(high, 0), None)
                kept.append(
                    _Held(
                        part.clock + max(high, 0),
                        part.target[rest],
                        part.given[rest],
                        part.others[:, rest],
                    )
                )
        self._parts = kept
        return found

    def state_dict(self) -> list[dict[str, object]]:
        """All parts."""
        return [
            {
                "clock": part.clock,
                "target": part.target.clone(),
                "given": part.given.clone(),
                "others": part.others.clone(),
            }
            for part in self._parts
        ]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `state_dict` gave."""
        self._parts = [
            _Held(one["clock"], one["target"].clone(), one["given"].clone(), one["others"].clone())
            for one in state
        ]
