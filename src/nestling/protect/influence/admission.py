"""Which rows of a call may be learned, and whose they are.

Axis letters: N rows, K rows that may be learned, D features.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nestling.core.arguments import name_kind
from nestling.core.errors import DataError
from nestling.levels import Held


@dataclass(slots=True)
class Admission:
    """Rows of a call that may be learned, and events about those that are held.

    What is asked for seldom is put together when it is asked for.

    Attributes:
        num_rows: N, of the call.
        most: that a row may weigh.
        given: weights (N,) that they would have; None for 1 each.
        held: row -> rule by which it is held; empty if all may be learned.
        events: one per source and rule.
        named: the source of all rows, or of each.
        numbers: of the sources of all N rows in the guard's register; None if it has yet to enter
            some.
        edition: of the register that the numbers are of.
        x: (N, D) what was judged, float32 on the CPU; None if nothing could be.
        distances: of the N rows from the centre; empty before anything was judged by them.
    """

    num_rows: int
    most: float
    given: Tensor | None
    held: dict[int, str]
    events: tuple[Held, ...]
    named: str | tuple[str, ...] = field(repr=False)
    numbers: list[int] | None = field(repr=False)
    edition: int = field(repr=False)
    x: Tensor | None = field(repr=False)
    distances: Sequence[float] = field(repr=False)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is held."""
        return not self.held

    @property
    def places(self) -> Sequence[int]:
        """Places of the rows that may be learned, in their order."""
        every = range(self.num_rows)
        return [row for row in every if row not in self.held] if self.held else every

    @property
    def rows(self) -> Tensor:
        """(K,) int64, as `places`."""
        return _list_rows(self.places)

    @property
    def weights(self) -> Tensor:
        """(K,) float32, of the rows that may be learned."""
        weight_N = self.given
        if weight_N is None:
            weight_N = torch.ones(self.num_rows, dtype=torch.float32, device="cpu")
        return (weight_N[self.rows] if self.held else weight_N).clamp(max=self.most)

    @property
    def has_odd(self) -> bool:
        """Whether rows are held by agreement."""
        return "agreement" in self.held.values()

    @property
    def at_odds(self) -> Tensor:
        """Places of rows that are held by agreement."""
        return _list_rows([row for row, rule in self.held.items() if rule == "agreement"])

    @property
    def sources(self) -> tuple[str, ...]:
        """Of all N rows."""
        return (self.named,) * self.num_rows if isinstance(self.named, str) else self.named

    @property
    def is_plain(self) -> bool:
        """Whether every row that may be learned weighs 1."""
        return self.most >= 1.0 if self.given is None else bool((self.weights == 1.0).all())


def _list_rows(rows: Sequence[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64, device="cpu")


def read_sources(sources: object, num_rows: int) -> list[str]:
    """The source of each row.

    Args:
        sources: one for all, or one for each.
        num_rows: N.

    Raises:
        DataError: not as many as rows, or one that is no text or empty.

    >>> read_sources("ward 3", 2)
    ['ward 3', 'ward 3']
    """
    if isinstance(sources, str):
        names: list[Any] = [sources] * num_rows
    elif isinstance(sources, Iterable):
        names = list(sources)
    else:
        raise DataError(f"source is {name_kind(sources)}; a text works, or one for each row")
    if len(names) != num_rows:
        raise DataError(f"{len(names)} sources for {num_rows} rows; give one for each, or one text")
    for name in names:
        if not isinstance(name, str) or not name:
            raise DataError(f"source {name!r}; a text that is not empty works, e.g. 'ward 3'")
    return names
