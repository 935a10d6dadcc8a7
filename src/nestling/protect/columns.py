"""A batch as named columns of one row per example, as replay memories keep it."""

from collections.abc import Mapping

from torch import Tensor

from nestling.core.batches import Batch
from nestling.core.errors import DataError


def pack_batch(batch: Batch) -> dict[str, Tensor]:
    """Take a batch apart into columns for a replay buffer: name -> (N, ...), the target as "y".

    >>> import torch
    >>> sorted(pack_batch(Batch((torch.ones(1),), {"mask": torch.ones(1)}, torch.zeros(1))))
    ['input 0', 'keyword mask', 'y']
    """
    columns = {f"input {index}": value for index, value in enumerate(batch.inputs)}
    columns |= {f"keyword {name}": value for name, value in batch.keywords.items()}
    if batch.target is not None:
        columns["y"] = batch.target
    return columns


def unpack_batch(columns: Mapping[str, Tensor]) -> Batch:
    """Rebuild the batch that `pack_batch` took apart; other columns are left out."""
    num_inputs = sum(name.startswith("input ") for name in columns)
    inputs = tuple(columns[f"input {index}"] for index in range(num_inputs))
    keywords = {
        name.removeprefix("keyword "): value
        for name, value in columns.items()
        if name.startswith("keyword ")
    }
    return Batch(inputs, keywords, columns.get("y"))


def require_target(batch: Batch) -> Tensor:
    """The target; DataError without one."""
    if batch.target is None:
        raise DataError("the batch has no target; give (x, y), (x1, ..., y) or a dict with labels")
    return batch.target
