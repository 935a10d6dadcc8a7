"""Named tensors in a fixed number of places, one example each.

Letters: N examples of a batch, C places.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import NotFitted, SettingError, ShapeMismatch
from nestling.core.modes import in_own_modes

Columns = dict[str, Tensor]


class ExampleStore:
    """What replay memories keep; which example goes where is theirs to choose.

    Args:
        capacity: C >= 1.

    Raises:
        SettingError: a capacity below 1.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise SettingError(f"replay of capacity {capacity}; 1 or more works")
        self.capacity = capacity
        self._columns: Columns = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def num_bytes(self) -> int:
        """Size of the places in use."""
        return sum(c[: self._size].numel() * c.element_size() for c in self._columns.values())

    def read_shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a row of one column; None before anything is stored."""
        column = self._columns.get(name)
        return None if column is None else tuple(column.shape[1:])

    def check(self, batch: Mapping[str, Tensor]) -> int:
        """How many examples a batch has; ShapeMismatch if it does not fit what is stored."""
        if not batch:
            raise ShapeMismatch("a batch without tensors; {'x': x, 'y': y} works")
        if self._columns and batch.keys() != self._columns.keys():
            raise ShapeMismatch(
                f"a batch of {sorted(batch)}; this memory stores {sorted(self._columns)}"
            )
        lengths = {name: values.shape[0] if values.ndim else -1 for name, values in batch.items()}
        if len(set(lengths.values())) != 1 or min(lengths.values()) < 0:
            raise ShapeMismatch(f"a batch with different numbers of examples: {lengths}")
        for name, column in self._columns.items():
            values = batch[name]
            if values.shape[1:] != column.shape[1:] or not join_types(values, column):
                raise ShapeMismatch(
                    f"{name!r} of shape {tuple(values.shape)} and {values.dtype}; this memory "
                    f"stores rows of shape {tuple(column.shape[1:])} and {column.dtype}"
                )
        return next(iter(lengths.values()))

    @in_own_modes
    def pad(self, name: str, shape: Sequence[int], fill: float) -> None:
        """Make the rows of one column larger; old entries stay at the front of each dimension.

        Args:
            name: of the column; one that is not stored yet is left alone.
            shape: of a row, nowhere smaller than it is.
            fill: what the new entries hold.
        """
        old = self._columns.get(name)
        if old is None or old.shape[1:] == torch.Size(shape):
            return
        wider = torch.full((self.capacity, *shape), fill, dtype=old.dtype, device="cpu")
        wider[tuple(slice(0, length) for length in old.shape)] = old
        self._columns[name] = wider

    @in_own_modes
    def write(self, batch: Mapping[str, Tensor], places: Sequence[int | None]) -> None:
        """Copy examples of a checked batch to their places; None is not kept.

        Of several for one place the last stays. Places are taken from 0 on without gaps.
        """
        row_of = {place: row for row, place in enumerate(places) if place is not None}
        if not row_of:
            return
        if not self._columns:
            self._columns = {
                name: torch.zeros(
                    self.capacity, *values.shape[1:], dtype=values.dtype, device="cpu"
                )
                for name, values in batch.items()
            }
        rows, targets = (
            torch.tensor(list(row_of.values()), dtype=torch.int64, device="cpu"),
            torch.tensor(list(row_of), dtype=torch.int64, device="cpu"),
        )
        for name, values in batch.items():
            column = self._columns[name]
            wide = join_types(values, column)
            if wide is not None and wide != column.dtype:
                column = self._columns[name] = column.to(wide)
            column[targets] = values.detach().to("cpu", column.dtype)[rows]
        self._size = max(self._size, max(row_of) + 1)

    def sample(self, num_examples: int, generator: torch.Generator) -> Columns:
        """Different examples at random, at most as many as there are; NotFitted if none."""
        if not self._size:
            raise NotFitted("the replay memory is empty; add(batch) first")
        order = torch.randperm(self._size, generator=generator, device="cpu")[:num_examples]
        return {name: column[order] for name, column in self._columns.items()}

    def read_all(self) -> Columns:
        """Every example, in the order of the places; copies."""
        return {name: column[: self._size].clone() for name, column in self._columns.items()}

    def state_dict(self) -> dict[str, object]:
        """All places."""
        columns = {name: column.clone() for name, column in self._columns.items()}
        return {"size": self._size, "columns": columns}

    @in_own_modes
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._size = state["size"]
        self._columns = {name: column.clone() for name, column in state["columns"].items()}


def join_types(left: Tensor, right: Tensor) -> torch.dtype | None:
    """The dtype that holds both, where both are integers (labels of two sources) or both floats;
    None where they are not of one kind.

    >>> join_types(torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int64))
    torch.int64
    """
    if left.dtype == right.dtype:
        return left.dtype
    kinds = [(one.is_floating_point(), one.is_complex()) for one in (left, right)]
    if kinds[0] != kinds[1]:
        return None
    try:
        return torch.promote_types(left.dtype, right.dtype)
    except RuntimeError:  # unsigned ones have no common type with others
        return None
