"""Room in forests for the events of a test."""

from typing import Any

from numpy.typing import NDArray

from nestling.streams.trees.forest import MAX_LEAVES, add_leaves


def make_room(arrays: dict[str, NDArray[Any]], num_events: int) -> dict[str, NDArray[Any]]:
    """A forest in which so many events can split whatever they may split."""
    most = len(arrays["trees"]) * int(arrays["settings"][MAX_LEAVES])
    while arrays["free"][0] < 3 * num_events and len(arrays["leaf_sums"]) < most:
        arrays = add_leaves(arrays)
    return arrays
