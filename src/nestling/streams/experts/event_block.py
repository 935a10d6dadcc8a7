"""A block of events, and all that is known of them while they go through a stream learner."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nestling.streams.experts.expert_arrays import Sizes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Events:
    """A block of events, and what is known of them.

    Attributes:
        values: (B, C); a category's code; NaN where missing.
        views: (B, V) what the experts see.
        recent: (B, Q) columns of the trees that see the recent past.
        targets: (B,) classes by number, or values in running deviations.
        weights: (B,) how often each counts.
        answers: (B, E, K) of each expert.
        mixed: (B, K) what is answered.
    """

    values: Floats
    views: Floats
    recent: Floats
    targets: Floats
    weights: Floats
    answers: Floats
    mixed: Floats

    def __len__(self) -> int:
        return len(self.values)

    def cut(self, b: int) -> "Events":
        """One event of the block; what is written to it is written here."""
        return Events(*(getattr(self, field.name)[b : b + 1] for field in fields(self)))


def make_block(num_events: int, sizes: Sizes, num_experts: int) -> Events:
    """Room for events, which weigh 1.

    Args:
        num_events: B.
        sizes: columns and classes that are known.
        num_experts: E.
    """
    return Events(
        np.zeros((num_events, sizes.num_columns)),
        np.zeros((num_events, sizes.num_view)),
        np.zeros((num_events, sizes.num_columns + sizes.num_numeric)),
        np.zeros(num_events),
        np.ones(num_events),
        np.zeros((num_events, num_experts, sizes.num_outputs)),
        np.zeros((num_events, sizes.num_outputs)),
    )
