"""Rows with the groups that each belongs to, beside the inputs, for fairness and slices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nestling.core.errors import DataError, suggest
from nestling.core.seeds import make_generator


@dataclass(frozen=True, eq=False)
class GroupedRows:
    """Labelled rows with columns of text beside their inputs: sex, age group, hospital.

    Args:
        x: (N, D) float32 inputs.
        y: (N,) int64 labels.
        columns: name -> N values; what a row belongs to, as people say it.

    Raises:
        DataError: inputs, labels and columns of different lengths.

    >>> rows = GroupedRows(torch.eye(3), torch.arange(3), {"sex": ("f", "m", "f")})
    >>> rows.select(rows.find({"sex": "f"})).y
    tensor([0, 2])
    """

    x: Tensor
    y: Tensor
    columns: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        lengths = {"labels": len(self.y)} | {n: len(cells) for n, cells in self.columns.items()}
        for name, length in lengths.items():
            if length != len(self.x):
                raise DataError(
                    f"{len(self.x)} rows have {length} {name!r}; each row needs one of each"
                )

    def __len__(self) -> int:
        return len(self.y)

    def find(self, wanted: Mapping[str, str]) -> Tensor:
        """Which rows have all of these values, (N,) bool.

        Args:
            wanted: column -> value, e.g. {"sex": "female"}; nothing finds all.

        Raises:
            DataError: no such column.
        """
        is_found = torch.ones(len(self), dtype=torch.bool, device="cpu")
        for name, value in wanted.items():
            if name not in self.columns:
                raise DataError(f"rows have no column {name!r}; {suggest(name, self.columns)}")
            cells = self.columns[name]
            is_found &= torch.tensor([c == value for c in cells], dtype=torch.bool, device="cpu")
        return is_found

    def select(self, rows: Tensor | Sequence[int]) -> "GroupedRows":
        """These rows alone, in this order: by their numbers, or by a mask (N,) bool."""
        index = torch.as_tensor(rows, device="cpu")
        index = index.nonzero()[:, 0] if index.dtype == torch.bool else index.long()
        numbers: list[int] = index.tolist()
        columns = {n: tuple(cells[i] for i in numbers) for n, cells in self.columns.items()}
        return GroupedRows(self.x[index], self.y[index], columns)

    def relabel(self, y: Tensor) -> "GroupedRows":
        """The same rows with other labels (N,)."""
        return replace(self, y=y)

    def shuffle(self, seed: int, *salts: str | int) -> "GroupedRows":
        """The rows in an order that the seed draws; other salts draw another."""
        generator = make_generator(seed, "grouped rows", *salts)
        return self.select(torch.randperm(len(self), generator=generator, device="cpu"))

    def split(self, num_first: int) -> tuple["GroupedRows", "GroupedRows"]:
        """The first `num_first` rows, and the others."""
        numbers = torch.arange(len(self), device="cpu")
        return self.select(numbers[:num_first]), self.select(numbers[num_first:])


def join_rows(parts: Sequence[GroupedRows]) -> GroupedRows:
    """Join parts with the same columns to one, in their order.

    Raises:
        DataError: no part, or columns that differ.
    """
    if not parts:
        raise DataError("no rows to join; give one part or more")
    names = list(parts[0].columns)
    for part in parts:
        if list(part.columns) != names:
            raise DataError(f"rows with columns {list(part.columns)} cannot join those of {names}")
    return GroupedRows(
        torch.cat([part.x for part in parts]),
        torch.cat([part.y for part in parts]),
        {name: tuple(cell for part in parts for cell in part.columns[name]) for name in names},
    )
