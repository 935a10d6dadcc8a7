"""Which rows of a call may be learned, and whose they are."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nestling.core.arguments import name_kind
from nestling.core.errors import DataError
from nestling.levels import Held


@dataclass(frozen=True)
class Admission:
    """Rows of a call that may be learned, and events about those that are held.

    Attributes:
        rows: (K,) int64, places of the rows that may be learned, in their order.
        weights: (K,) float32, of those.
        events: one per source and rule.
        at_odds: places of rows that are held by agreement.
        sources: of all N rows.
        x: (N, D) what was judged, float32 on the CPU; None if nothing could be.
        distances: (N,) from the centre; None before the first call.
    """

    rows: Tensor
    weights: Tensor
    events: tuple[Held, ...]
    at_odds: Tensor
    sources: tuple[str, ...] = field(repr=False)
    x: Tensor | None = field(repr=False)
    distances: Tensor | None = field(repr=False)

    @property
    def is_plain(self) -> bool:
        """Whether every row that may be learned weighs 1."""
        return bool((self.weights == 1.0).all())


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
