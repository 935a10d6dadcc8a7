"""Size of what a model writes while it reads: its fast state per sequence."""

from torch import nn

from nestling.bench.incontext.context_models import MlpMemory
from nestling.models.continuum import CMS
from nestling.models.delta_memory import DeltaMemory


def count_fast(model: nn.Module) -> int:
    """Numbers of fast weights per sequence, without what waits to be written.

    A Transformer has none, but keeps keys and values of every token that it has read.

    Args:
        model: any module that holds memories.

    >>> count_fast(DeltaMemory(8, 2)), count_fast(nn.Linear(2, 2))
    (32, 0)
    """
    total = 0
    for part in model.modules():
        if isinstance(part, DeltaMemory):
            total += part.num_heads * part.head_width**2
        elif isinstance(part, MlpMemory):
            total += part.inner.numel() + part.outer.numel()
        elif isinstance(part, CMS):
            total += len(part.chunks) * part.width * part.hidden
    return total
