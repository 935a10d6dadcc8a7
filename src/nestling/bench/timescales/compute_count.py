"""Compute of a training step, counted: multiply-adds and element-wise operations.

Seconds of so small a step are mostly Python; what is counted holds on any machine.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nestling.bench.rivals.competitors import Competitor, Pair
from nestling.bench.rivals.tunable import Setup
from nestling.core.seeds import make_generator

# Steps that are counted: the periods 1, 3, 4, 6, 8 and 16 divide it.
NUM_STEPS = 48

# Name of a product -> which of its arguments is the left factor.
_PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addmv": 1}

# What moves nothing though torch does not call it a view, and memory that is only asked for.
_FREE = frozenset({"_unsafe_view", "empty", "empty_like", "empty_strided"})


class OperationCount(TorchDispatchMode):
    """Counts the operations of all torch code that runs within it, backward passes included.

    A product of matrices counts its multiply-adds; any other kernel one operation per element of
    its largest argument or result; a fused optimizer step one per element of all its lists; views
    count nothing.

    >>> with OperationCount() as count:
    ...     _ = torch.ones(2, 3) @ torch.ones(3, 4)
    >>> count.num_products
    24
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_products: int = 0
        self.num_elements: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.num_products + self.num_elements

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Carry out one kernel and count it."""
        del types
        found = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::").split(".")[0]
        if func.is_view or name in _FREE:
            return found
        left = _PRODUCTS.get(name.removesuffix("_"))
        if left is not None:
            self.num_products += found.numel() * args[left].shape[-1]
            return found
        sizes = [_count_elements(one) for one in (*args, *(kwargs or {}).values(), found)]
        fused = name.startswith("_fused_")
        self.num_elements += sum(sizes) if fused else max(sizes, default=0)
        return found


def _count_elements(value: object) -> int:
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, list | tuple):
        return sum(one.numel() for one in value if isinstance(one, Tensor))
    return 0


def count_step(competitor: Competitor, setup: Setup) -> float:
    """Operations of one training step: forward, backward and update, mean over NUM_STEPS.

    As many steps before it fill stores and bring every clock to a boundary. Answering is not in
    it.

    Args:
        competitor: knows nothing yet; it learns noise here.
        setup: what it was built for.

    Raises:
        NestlingError: it refuses the batches.
    """
    batches = draw_batches(setup)
    for x, y in batches:
        competitor.learn(x, y, is_new=True)
    with OperationCount() as count:
        for x, y in batches:
            competitor.learn(x, y, is_new=True)
    return float(count.total / NUM_STEPS)


def draw_batches(setup: Setup) -> list[Pair]:
    """NUM_STEPS batches of noise with labels, by the seed: what is only timed or counted."""
    generator = make_generator(setup.seed, "compute")
    shape = (NUM_STEPS, setup.batch_size)
    x = torch.rand(
        (*shape, setup.num_inputs), generator=generator, dtype=torch.float32, device="cpu"
    )
    y = torch.randint(setup.num_classes, shape, generator=generator, device="cpu")
    return list(zip(x, y, strict=True))


# Step ratios at which plain training and replay are trained for a comparison at equal compute.
GRID_STEP = 1.25
SMALLEST, LARGEST = GRID_STEP**-4, GRID_STEP**6


def choose_ratio(ratio: float) -> float:
    """The nearest of the ratios 1.25^k at which a rival is trained, k from -4 to 6.

    >>> [round(choose_ratio(ratio), 2) for ratio in (0.6, 1.08, 1.9, 50.0)]
    [0.64, 1.0, 1.95, 3.81]
    """
    power = round(math.log(min(max(ratio, SMALLEST), LARGEST), GRID_STEP))
    return GRID_STEP**power
