"""Where the rows of a learner come from: who is held before anything is changed."""

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from nestling.core.batches import Batch
from nestling.core.errors import SettingError
from nestling.protect.influence import Admission, SourceGuard
from nestling.protect.influence.admission import read_sources

_MOST_COUNTED = 10_000
_COUNTED_TOGETHER = 1024  # rows


class Sources:
    """The guard of a learner's sources, and how many rows came from each.

    Args:
        guard: None holds nothing.
    """

    def __init__(self, guard: SourceGuard | None) -> None:
        if guard is not None and not isinstance(guard, SourceGuard):
            raise SettingError(
                f"sources={guard!r}; a guard works, such as nl.protect.SourceGuard(rate=0.2)"
            )
        self.guard = guard
        self._num_rows: OrderedDict[str, int] = OrderedDict()
        self._waiting: list[str] = []  # sources of rows that are counted next

    @property
    def num_rows(self) -> OrderedDict[str, int]:
        """Source -> rows that were given, of the last 10,000 sources; no part of the state."""
        self._count_waiting()
        return self._num_rows

    def judge(
        self, batch: Batch, source: object, weight: Tensor | Sequence[float] | None, is_new: bool
    ) -> Admission | None:
        """Which rows may be learned; None for all of them.

        Args:
            batch: N rows, checked.
            source: of all rows, or of each; None if nobody said.
            weight: (N,), checked.
            is_new: whether they were not learned before.

        Raises:
            SettingError: there is a guard, and nobody said where the rows come from.
            DataError: not as many sources as rows, or of another width; nothing is changed.
        """
        if source is None:
            if self.guard is None:
                return None
            raise SettingError(
                "the learner guards its sources but was not told whose rows these are; give "
                "learn(x, y, source='ward 3'), or a source for each row"
            )
        if self.guard is None:
            self.count(read_sources(source, batch.size))
            return None
        inputs = (*batch.inputs, *batch.keywords.values()) if batch.keywords else batch.inputs
        return self.guard.judge(inputs, cast(Sequence[str], source), weight, is_new=is_new)

    def count(self, names: Sequence[str]) -> None:
        """Count rows that were given, by their sources."""
        self._waiting.extend(names)
        if len(self._waiting) >= _COUNTED_TOGETHER:
            self._count_waiting()

    def _count_waiting(self) -> None:
        for name, num in Counter(self._waiting).items():
            self._num_rows[name] = self._num_rows.pop(name, 0) + num
        self._waiting.clear()
        while len(self._num_rows) > _MOST_COUNTED:
            self._num_rows.popitem(last=False)

    def note(self, found: Admission, output: Tensor | None, kept: Batch) -> None:
        """What was learned, and how wrong the answers to it were before.

        Args:
            found: what `judge` gave.
            output: of the model in the step, before its update; None if there was no step.
            kept: the rows that were learned.
        """
        assert self.guard is not None
        self.count(found.sources)
        self.guard.note(found)
        if output is not None:
            assert kept.target is not None
            self.guard.note_answers(found, output, kept.target)

    def note_held(self, found: Admission, output: Tensor, odd: Batch) -> None:
        """How wrong the answers were to rows that are held by agreement: they may agree again."""
        assert self.guard is not None
        assert odd.target is not None
        self.guard.note_answers(found, output, odd.target, are_held=True)

    def state_dict(self) -> dict[str, Any]:
        """The guard's."""
        assert self.guard is not None
        return self.guard.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        assert self.guard is not None
        self.guard.load_state_dict(state)


def pick_rows(batch: Batch, rows: Tensor) -> Batch:
    """Some rows of a batch, in their order.

    >>> import torch
    >>> pick_rows(Batch((torch.zeros(3, 1),)), torch.tensor([2])).size
    1
    """
    if len(rows) == batch.size:
        return batch

    def pick(values: Tensor) -> Tensor:
        return values[rows.to(values.device)]

    return Batch(
        tuple(pick(one) for one in batch.inputs),
        {name: pick(one) for name, one in batch.keywords.items()},
        None if batch.target is None else pick(batch.target),
    )
