"""Where the arrays of a stream learner lie: one table, which its kernels read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestling.streams.experts.expert_arrays import (
    NETWORKS,
    NUM_HIDDEN,
    NUM_SLOTS,
    RIDGES,
    TREES,
    Arrays,
    Ints,
    Sizes,
)
from nestling.streams.experts.expert_parts import NUM_MIXERS, Parts
from nestling.streams.kernels.addresses import tabulate


@dataclass(frozen=True)
class PartTable:
    """Addresses of all arrays, in sections; see `event_step`.

    Attributes:
        table: of all arrays in their order.
        starts: number of the first array of each section.
        held: the arrays, which live as long as their addresses are read.
    """

    table: Ints
    starts: Ints
    held: Mapping[str, Sequence[NDArray[Any]]]


@dataclass(frozen=True)
class Scratch:
    """Room for what the last answer went through, which is learned from if it is the next event's.

    Attributes:
        layers: of each network, hidden layers and inputs.
        work: features and scores of the memories.
        heard: what the gate mixed.
    """

    layers: Sequence[Sequence[NDArray[Any]]]
    work: Sequence[NDArray[Any]]
    heard: Sequence[NDArray[Any]]


def make_scratch(parts: Parts, sizes: Sizes, num_experts: int) -> Scratch:
    """Room for an answer.

    Args:
        parts: all arrays.
        sizes: columns and classes that they are made for.
        num_experts: E.
    """
    outputs = max(sizes.num_outputs, 1)
    inputs = sizes.num_inputs, sizes.num_inputs, sizes.num_view
    layers = [*map(_make_layers, inputs), ()]
    work = [
        *(np.zeros(parts[name]["gram"].shape[-1]) for name in RIDGES[:3]),
        *(np.zeros((rows, outputs)) for rows in (3, NUM_SLOTS, NUM_SLOTS)),
    ]
    heard = [
        *(np.zeros((rows, outputs)) for rows in (NUM_MIXERS + 1, num_experts)),
        *(np.zeros(outputs) for _ in range(2)),
    ]
    return Scratch(layers, work, heard)


def tabulate_parts(parts: Parts, switches: Sequence[NDArray[Any]], scratch: Scratch) -> PartTable:
    """Tell the kernels where the arrays lie.

    Args:
        parts: all arrays.
        switches: who takes part and learns, rates, what is due, counters, settings.
        scratch: room for an answer.
    """
    memories = [
        [values for key, values in parts[name].items() if key not in ("gram", "cross")]
        for name in RIDGES
    ]
    arrays = {
        "views": [*_list_arrays(parts, "scaling", "past", "target_scale")],
        "networks": [
            array
            for name, room in zip(NETWORKS, scratch.layers, strict=True)
            for array in (*parts[name].values(), *room)
        ],
        "ridges": [
            *_list_arrays(parts, "sparse_units", "dense_units"),
            *(array for memory in memories for array in memory),
            *scratch.work,
        ],
        "gate": [*_list_arrays(parts, "gate", "spread"), *scratch.heard],
        "switches": [*switches, *parts["recent_columns"].values()],
        **{name: _list_arrays(parts, name) for name in TREES},
    }
    lengths = [len(section) for section in arrays.values()]
    starts = np.cumsum([0, *lengths[:-1]])
    table = tabulate(array for section in arrays.values() for array in section)
    return PartTable(table, starts, arrays)


def _make_layers(num_inputs: int) -> tuple[NDArray[np.float32], ...]:
    """Room for what an answer of a network goes through: two hidden layers, and the inputs."""
    hidden = np.zeros((2, NUM_HIDDEN), dtype=np.float32)
    return hidden[0], hidden[1], np.zeros(num_inputs, dtype=np.float32)


def _list_arrays(parts: Mapping[str, Arrays], *names: str) -> list[NDArray[Any]]:
    return [array for name in names for array in parts[name].values()]
