"""Arrays of a stream's experts: made for the columns and classes known, grown when more appear.

Axes: C columns, N numeric ones, D inputs, K classes, V = D + N + 3 K, H hidden units, U random
units, P features of a memory, M examples that wait, S slots.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Ints = NDArray[np.int64]

EXPERTS = (
    "sgd",
    "adamw",
    "adamw_all",
    "logistic",
    "spine",
    "ridge_300",
    "ridge_1000",
    "concepts",
    "tree",
    "trees",
    "trees_recent",
    "labels",
)
NETWORKS, RIDGES, TREES = EXPERTS[:4], EXPERTS[4:8], EXPERTS[8:11]
# Of classes one pool of concept trees: a second, which saw the recent past too, gained .0001 on 13
# streams, for a tenth to a fifth of the time. Of values there is no pool, and a tree of each kind.
CLASS_EXPERTS = tuple(name for name in EXPERTS if name != "trees_recent")
VALUE_EXPERTS = tuple(name for name in EXPERTS if name != "trees")
NUM_HIDDEN = 64
NUM_DENSE = 128
NUM_INPUTS_OF_UNIT = 16
LEAST_UNITS, MOST_UNITS, UNITS_PER_COLUMN = 128, 1600, 8
# With more columns the memories look at their random units only, with more inputs the spine too,
# and with more numbers nobody's sums look at where they stand in the recent past.
MOST_COLUMNS_IN_VIEW, MOST_INPUTS_IN_SPINE = 150, 600
FIRST_LN_TAU = math.log(4.0)
NUM_SLOTS = 6


@dataclass(frozen=True)
class Sizes:
    """How much there is to look at.

    Attributes:
        num_columns: C.
        num_numeric: N.
        num_inputs: D, numeric columns and one-hots.
        num_outputs: K, classes.
    """

    num_columns: int = 0
    num_numeric: int = 0
    num_inputs: int = 0
    num_outputs: int = 0

    @property
    def num_view(self) -> int:
        """V."""
        return self.num_inputs + self.num_numeric + 3 * self.num_outputs

    @property
    def of_quick(self) -> int:
        """Features of the quick memory and of the slots."""
        seen = self.num_inputs if self.num_columns <= MOST_COLUMNS_IN_VIEW else 0
        return 1 + seen + NUM_DENSE

    @property
    def of_middle(self) -> int:
        """Features of the memory that looks at labels."""
        seen = self.num_inputs if self.num_columns <= MOST_COLUMNS_IN_VIEW else 0
        recent = self.num_numeric if self.num_numeric <= MOST_INPUTS_IN_SPINE else 0
        return 1 + seen + recent + 3 * self.num_outputs

    def of_spine(self, num_units: int) -> int:
        """Features of the spine."""
        seen = self.num_inputs if self.num_inputs <= MOST_INPUTS_IN_SPINE else 0
        return 1 + seen + num_units

    @property
    def num_units(self) -> int:
        """Random units of the spine, were it made now."""
        wanted = max(UNITS_PER_COLUMN * self.num_columns, LEAST_UNITS)
        return min(wanted, MOST_UNITS)


def locate_view(before: Sizes, after: Sizes) -> Ints:
    """Where each input of the view [Z, R, L] stands after it has grown, (V before,)."""
    starts = [after.num_inputs + after.num_numeric + j * after.num_outputs for j in range(3)]
    labels = [start + np.arange(before.num_outputs) for start in starts]
    values = np.arange(before.num_inputs)
    return np.concatenate([values, after.num_inputs + np.arange(before.num_numeric), *labels])


def locate_features(before: int, units: int, units_after: int, after: int) -> Ints:
    """Where each feature [1, Z, units] stands after it has grown.

    Inputs that are no longer looked at go to -1.
    """
    seen, seen_after = before - units, after - units_after
    kept = np.arange(seen)
    if seen_after < seen:
        kept[max(seen_after, 1) :] = -1
    return np.concatenate([kept, seen_after + np.arange(units)])


def put_at(values: NDArray[Any], axis: int, places: Ints, size: int) -> NDArray[Any]:
    """The same values along an axis of another size, each where `places` says; zeros elsewhere."""
    moved = np.moveaxis(values, axis, 0)
    room = np.zeros((size, *moved.shape[1:]), dtype=values.dtype)
    kept = places >= 0
    room[places[kept]] = moved[kept]
    return np.ascontiguousarray(np.moveaxis(room, 0, axis))


def draw(seed: int, *what: int) -> np.random.Generator:
    """A generator for one purpose: what is drawn depends on nothing drawn before."""
    return np.random.default_rng([seed, *what])


def _split_network(w: NDArray[Any], num_inputs: int, num_outputs: int) -> list[NDArray[Any]]:
    units = NUM_HIDDEN
    ends = np.cumsum([units * num_inputs, units, units * units, units, num_outputs * units])
    first, b1, second, b2, third, b3 = np.split(w, ends)
    shapes = (units, num_inputs), (units, units), (num_outputs, units)
    return [
        first.reshape(shapes[0]),
        b1,
        second.reshape(shapes[1]),
        b2,
        third.reshape(shapes[2]),
        b3,
    ]


def make_network(num_inputs: int, num_outputs: int, seed: int) -> Arrays:
    """Weights of a network as torch draws them, +-1/sqrt(inputs); outputs start at zero."""
    generator = draw(seed, 0)
    first = generator.uniform(-1.0, 1.0, (NUM_HIDDEN, num_inputs)) / math.sqrt(max(num_inputs, 1))
    second = generator.uniform(-1.0, 1.0, (NUM_HIDDEN, NUM_HIDDEN)) / math.sqrt(NUM_HIDDEN)
    rest = np.zeros((num_outputs, NUM_HIDDEN))
    biases = np.zeros(NUM_HIDDEN), np.zeros(NUM_HIDDEN), np.zeros(num_outputs)
    parts = first, biases[0], second, biases[1], rest, biases[2]
    return {
        "weights": np.concatenate([part.ravel() for part in parts]).astype(np.float32),
        "square": np.zeros(1),
    }


def make_adam_network(num_inputs: int, num_outputs: int, seed: int) -> Arrays:
    """The same, with moments and updates per unit."""
    arrays = make_network(num_inputs, num_outputs, seed)
    arrays["moments"] = np.zeros(2 * arrays["weights"].size, dtype=np.float32)
    arrays["faded"] = np.ones((2, 2 * NUM_HIDDEN + num_outputs))
    return arrays


def grow_network(
    arrays: Mapping[str, NDArray[Any]],
    places: Ints,
    num_inputs: int,
    num_outputs: int,
    seed: int,
) -> Arrays:
    """The same network for more inputs, with weights as drawn at the start, and more outputs."""
    before = places.size
    outputs_before = (arrays["weights"].size - NUM_HIDDEN * (before + NUM_HIDDEN + 2)) // (
        NUM_HIDDEN + 1
    )
    made = make_adam_network(num_inputs, num_outputs, seed)
    new = np.ones(num_inputs, dtype=bool)
    new[places] = False
    scale = 1.0 / math.sqrt(max(num_inputs, 1))
    drawn = draw(seed, num_inputs).uniform(-scale, scale, (NUM_HIDDEN, num_inputs))

    def grow(w: NDArray[Any], *, with_new: bool) -> NDArray[Any]:
        first, b1, second, b2, third, b3 = _split_network(w, before, outputs_before)
        first = put_at(first, 1, places, num_inputs)
        if with_new:
            first[:, new] = drawn[:, new]
        kept = np.arange(outputs_before)
        third, b3 = put_at(third, 0, kept, num_outputs), put_at(b3, 0, kept, num_outputs)
        return np.concatenate([part.ravel() for part in (first, b1, second, b2, third, b3)])

    made["weights"] = grow(arrays["weights"], with_new=True)
    made["square"] = arrays["square"].copy()
    if "moments" not in arrays:
        return {name: made[name] for name in arrays}
    halves = np.split(arrays["moments"], 2)
    made["moments"] = np.concatenate([grow(half, with_new=False) for half in halves])
    made["faded"][:, : arrays["faded"].shape[1]] = arrays["faded"]
    return made


def make_linear(num_inputs: int, num_outputs: int) -> Arrays:
    """Weights of softmax regression, the intercept last."""
    return {"weights": np.zeros((num_outputs, num_inputs + 1))}


def grow_linear(
    arrays: Mapping[str, NDArray[Any]], places: Ints, num_inputs: int, num_outputs: int
) -> Arrays:
    """The same regression for more inputs and outputs."""
    weights = arrays["weights"]
    kept = np.append(places, num_inputs)
    weights = put_at(weights, 1, kept, num_inputs + 1)
    return {"weights": put_at(weights, 0, np.arange(weights.shape[0]), num_outputs)}


def make_sparse_units(num_units: int, num_columns: int, seed: int) -> Arrays:
    """Units that look at 16 columns each: which, with which weights, and biases; 2 w, |w| = 1."""
    generator = draw(seed, num_columns, num_units)
    most = min(NUM_INPUTS_OF_UNIT, num_columns)
    columns = np.full((num_units, NUM_INPUTS_OF_UNIT), -1, dtype=np.int64)
    if most:
        order = generator.random((num_units, num_columns))
        columns[:, :most] = np.argpartition(order, most - 1, axis=1)[:, :most]
    weights = generator.standard_normal((num_units, NUM_INPUTS_OF_UNIT))
    weights[columns < 0] = 0.0
    weights *= 2.0 / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-12)
    return {"columns": columns, "weights": weights, "biases": generator.standard_normal(num_units)}


def make_dense_units(num_inputs: int, seed: int) -> Arrays:
    """Units that look at all inputs: 2 w, |w| = 1, and biases."""
    generator = draw(seed, 1)
    weights = generator.standard_normal((NUM_DENSE, num_inputs))
    weights *= 2.0 / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-12)
    return {"weights": weights, "biases": generator.standard_normal(NUM_DENSE)}


def grow_dense_units(arrays: Mapping[str, NDArray[Any]], num_inputs: int, seed: int) -> Arrays:
    """The same units with weights for inputs that have come."""
    before = arrays["weights"].shape[1]
    if before == 0:
        return make_dense_units(num_inputs, seed)
    weights = put_at(arrays["weights"], 1, np.arange(before), num_inputs)
    drawn = draw(seed, 1, num_inputs).standard_normal((NUM_DENSE, num_inputs - before))
    weights[:, before:] = 2.0 * drawn / math.sqrt(num_inputs)
    return {"weights": weights, "biases": arrays["biases"].copy()}


def make_ridge(num_features: int, num_outputs: int, most_waiting: int) -> Arrays:
    """A ridge memory: what a stream's kernels look at, and its sums."""
    return {
        "weights": np.zeros((num_outputs, num_features)),
        "waiting": np.zeros((most_waiting, num_features)),
        "targets": np.zeros(most_waiting),
        "example_weights": np.zeros(most_waiting),
        "temper": np.array([FIRST_LN_TAU, 0.0, 0.0]),
        "counts": np.zeros(2, dtype=np.int64),
        "by_class": np.zeros(num_outputs),
        "gram": np.zeros((num_features, num_features)),
        "cross": np.zeros((num_features, num_outputs)),
    }


def grow_ridge(
    arrays: Mapping[str, NDArray[Any]], places: Ints, num_features: int, num_outputs: int
) -> Arrays:
    """The same memory for more features and classes."""
    grown = {name: values.copy() for name, values in arrays.items()}
    outputs = np.arange(arrays["by_class"].size)
    grown["weights"] = put_at(
        put_at(arrays["weights"], 1, places, num_features), 0, outputs, num_outputs
    )
    grown["waiting"] = put_at(arrays["waiting"], 1, places, num_features)
    grown["by_class"] = put_at(arrays["by_class"], 0, outputs, num_outputs)
    grown["gram"] = put_at(put_at(arrays["gram"], 0, places, num_features), 1, places, num_features)
    grown["cross"] = put_at(
        put_at(arrays["cross"], 0, places, num_features), 1, outputs, num_outputs
    )
    return grown


def make_slots(num_features: int, num_outputs: int, most_waiting: int) -> Arrays:
    """Concept slots: ridge memories, and how probable each is; the blank's share is the last."""
    shares = np.zeros(NUM_SLOTS + 1)
    shares[NUM_SLOTS] = 1.0
    return {
        "weights": np.zeros((NUM_SLOTS, num_outputs, num_features)),
        "waiting": np.zeros((NUM_SLOTS, most_waiting, num_features)),
        "targets": np.zeros((NUM_SLOTS, most_waiting)),
        "example_weights": np.zeros((NUM_SLOTS, most_waiting)),
        "counts": np.zeros((NUM_SLOTS, 3), dtype=np.int64),
        "shares": shares,
        "state": np.zeros(2, dtype=np.int64),
        "squares": np.ones(NUM_SLOTS),
        "gram": np.zeros((NUM_SLOTS, num_features, num_features)),
        "cross": np.zeros((NUM_SLOTS, num_features, num_outputs)),
    }


def grow_slots(
    arrays: Mapping[str, NDArray[Any]], places: Ints, num_features: int, num_outputs: int
) -> Arrays:
    """The same slots for more features and classes."""
    grown = {name: values.copy() for name, values in arrays.items()}
    outputs = np.arange(arrays["cross"].shape[2])
    grown["weights"] = put_at(
        put_at(arrays["weights"], 2, places, num_features), 1, outputs, num_outputs
    )
    grown["waiting"] = put_at(arrays["waiting"], 2, places, num_features)
    grown["gram"] = put_at(put_at(arrays["gram"], 1, places, num_features), 2, places, num_features)
    grown["cross"] = put_at(
        put_at(arrays["cross"], 1, places, num_features), 2, outputs, num_outputs
    )
    return grown


def grow_recent_columns(arrays: Mapping[str, Ints], scaling: Mapping[str, NDArray[Any]]) -> Arrays:
    """Columns of the trees that see the recent past: each raw value, and R beside a number.

    New ones stand at the end, so that the trees keep theirs.

    Args:
        arrays: `source` and `rank` (-1: the raw value) and `kinds` of the columns so far.
        scaling: of all columns, with `kinds` and `rank`.

    Returns:
        the same for all columns.
    """
    rows = list(zip(*(arrays[name].tolist() for name in ("source", "rank", "kinds")), strict=True))
    known = 1 + max((source for source, _, _ in rows), default=-1)
    kinds, ranks = scaling["kinds"].tolist(), scaling["rank"].tolist()
    for column in range(known, len(kinds)):
        rows.append((column, -1, kinds[column]))
        if kinds[column] == 0:
            rows.append((column, ranks[column], 0))
    found = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return {name: found[at].copy() for at, name in enumerate(("source", "rank", "kinds"))}
