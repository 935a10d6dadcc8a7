"""All arrays of a stream learner, part by part: made when it begins, grown when more appears."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nestling.streams.experts.expert_arrays import (
    MOST_UNITS,
    NUM_DENSE,
    UNITS_PER_COLUMN,
    Arrays,
    Ints,
    Sizes,
    grow_dense_units,
    grow_linear,
    grow_network,
    grow_recent_columns,
    grow_ridge,
    grow_slots,
    locate_features,
    locate_view,
    make_adam_network,
    make_dense_units,
    make_linear,
    make_network,
    make_ridge,
    make_slots,
    make_sparse_units,
    put_at,
)
from nestling.streams.trees.concept_trees import grow_pool, make_pool
from nestling.streams.trees.hoeffding import grow_tree, make_tree
from nestling.streams.trees.value_trees import grow_value_tree, make_value_tree

Parts = dict[str, Arrays]

# Longer waits cost less: 32, 64, 64 of the quick ones lost .0003 on seven streams.
MOST_WAITING = {"spine": 64, "ridge_300": 24, "ridge_1000": 64, "concepts": 32}
NUM_MIXERS = 3
# Of an interval of values: bounds in running absolute errors, and events before it is judged.
FIRST_BOUNDS = (-2.0, 2.0)
UNJUDGED = 100.0


@dataclass(frozen=True)
class PartSettings:
    """What the arrays of a stream learner depend on besides its columns and classes.

    Attributes:
        num_experts: E, that take part.
        seed: of all that is drawn.
        classifies: whether targets are classes.
        level: share of values that their interval should hold.
    """

    num_experts: int
    seed: int
    classifies: bool
    level: float


def make_parts(sizes: Sizes, settings: PartSettings) -> Parts:
    """Arrays of all that a stream learner has, by part, of a stream that begins.

    Args:
        sizes: columns and classes that are known.
        settings: of the experts.
    """
    seed, num_experts = settings.seed, settings.num_experts
    values, view, outputs = sizes.num_inputs, sizes.num_view, sizes.num_outputs
    units = make_sparse_units(sizes.num_units, sizes.num_columns, seed)
    of_spine = sizes.of_spine(sizes.num_units)
    top = np.full(NUM_MIXERS + 1, 1.0 / (NUM_MIXERS + 1))
    return {
        "scaling": {
            **{name: np.zeros(0) for name in ("count", "mean", "squares", "recent")},
            "last": np.zeros(1, dtype=np.int64),
            **{name: np.zeros(0, dtype=np.int64) for name in ("kinds", "place", "rank")},
            "hot": np.zeros((0, 1), dtype=np.int64),
        },
        "past": {
            "averages": np.zeros((3, outputs)),
            "weights": np.zeros(3),
            "last": np.zeros(outputs),
        },
        "sparse_units": units,
        "dense_units": make_dense_units(values, seed),
        "sgd": make_network(values, outputs, seed + 1),
        "adamw": make_adam_network(values, outputs, seed + 1),
        "adamw_all": make_adam_network(view, outputs, seed + 2),
        "logistic": make_linear(values, outputs),
        "spine": make_ridge(of_spine, outputs, MOST_WAITING["spine"]),
        "ridge_300": make_ridge(sizes.of_quick, outputs, MOST_WAITING["ridge_300"]),
        "ridge_1000": make_ridge(sizes.of_middle, outputs, MOST_WAITING["ridge_1000"]),
        "concepts": make_slots(sizes.of_quick, outputs, MOST_WAITING["concepts"]),
        **_make_trees(sizes, settings),
        "recent_columns": dict.fromkeys(("source", "rank", "kinds"), np.zeros(0, np.int64)),
        "gate": {
            "weights": np.full((NUM_MIXERS, num_experts), 1.0 / num_experts),
            "shares": np.full(num_experts, 1.0 / num_experts),
            "top": top,
            "recent": np.zeros(outputs),
            "guard": np.zeros(2),
            "errors": np.ones(num_experts),
            "top_errors": np.ones(NUM_MIXERS + 1),
        },
        "spread": {
            "offsets": np.zeros(num_experts),
            "interval": np.array([*FIRST_BOUNDS, 1.0, 0.0, -UNJUDGED, settings.level]),
        },
        "target_scale": {"moments": np.zeros(3)},
    }


def _make_trees(sizes: Sizes, settings: PartSettings) -> Parts:
    """A tree and a pool of classes; of values two trees, one of which sees the recent past."""
    num_columns, seed = max(sizes.num_columns, 1), settings.seed
    if settings.classifies:
        outputs = max(sizes.num_outputs, 1)
        tree, pool = (
            make_tree(num_columns, outputs, seed=seed),
            make_pool(num_columns, outputs, seed=seed + 3),
        )
        return {"tree": tree, "trees": pool, "trees_recent": {}}
    num_recent = max(sizes.num_columns + sizes.num_numeric, 1)
    near = make_value_tree(num_recent, seed=seed + 4)
    return {"tree": make_value_tree(num_columns, seed=seed), "trees": {}, "trees_recent": near}


def _grow_trees(parts: Parts, sizes: Sizes, settings: PartSettings) -> Parts:
    num_columns, outputs = sizes.num_columns, sizes.num_outputs
    if settings.classifies:
        tree = grow_tree(parts["tree"], num_columns, outputs)
        pool = grow_pool(parts["trees"], num_columns, outputs)
        return {"tree": tree, "trees": pool, "trees_recent": {}}
    near = grow_value_tree(parts["trees_recent"], num_columns + sizes.num_numeric)
    return {
        "tree": grow_value_tree(parts["tree"], num_columns),
        "trees": {},
        "trees_recent": near,
    }


def grow_parts(
    parts: Parts,
    before: Sizes,
    kinds: Sequence[int],
    num_categories: Sequence[int],
    num_outputs: int,
    settings: PartSettings,
) -> tuple[Parts, Sizes]:
    """Make room for columns, categories and classes that have appeared.

    Args:
        parts: as they are; not changed.
        before: what they were made for.
        kinds: of each column, 0 numeric, 1 category.
        num_categories: of each column.
        num_outputs: classes.
        settings: of the experts.

    Returns:
        the same parts, roomier, and what they are made for.
    """
    seed = settings.seed
    scaling = _grow_columns(parts["scaling"], before, kinds, num_categories)
    after = Sizes(
        num_columns=len(kinds),
        num_numeric=sum(kind == 0 for kind in kinds),
        num_inputs=int(scaling["count_inputs"][0]),
        num_outputs=num_outputs,
    )
    del scaling["count_inputs"]
    if before.num_outputs == 0 or before.num_columns == 0 < after.num_columns:
        made = make_parts(after, settings)
        made["scaling"] = scaling
        made["recent_columns"] = grow_recent_columns(made["recent_columns"], scaling)
        if before.num_outputs:  # all events so far were empty
            made["past"], made["gate"] = _grow_judged(parts, num_outputs)
            made |= {name: parts[name] for name in ("spread", "target_scale")}
        return made, after
    values, view = np.arange(before.num_inputs), locate_view(before, after)
    K, D, V = after.num_outputs, after.num_inputs, after.num_view
    units = parts["sparse_units"]
    num_units = units["biases"].size
    room = MOST_UNITS - num_units
    num_more = min(UNITS_PER_COLUMN * (after.num_columns - before.num_columns), room)
    if num_more > 0:
        more = make_sparse_units(num_more, after.num_columns, seed)
        units = {name: np.concatenate([units[name], more[name]]) for name in units}
    units_after = units["biases"].size
    spine = locate_features(
        parts["spine"]["weights"].shape[1], num_units, units_after, after.of_spine(units_after)
    )
    quick = locate_features(before.of_quick, NUM_DENSE, NUM_DENSE, after.of_quick)
    start = before.num_view + 1 - before.of_middle
    shift = after.num_view + 1 - after.of_middle
    middle = np.concatenate([[0], np.maximum(view[start:] + 1 - shift, -1)])
    middle[1:][middle[1:] <= 0] = -1
    judged = _grow_judged(parts, num_outputs)
    grown = {
        "scaling": scaling,
        "past": judged[0],
        "sparse_units": units,
        "dense_units": grow_dense_units(parts["dense_units"], D, seed),
        "sgd": grow_network(parts["sgd"], values, D, K, seed + 1),
        "adamw": grow_network(parts["adamw"], values, D, K, seed + 1),
        "adamw_all": grow_network(parts["adamw_all"], view, V, K, seed + 2),
        "logistic": grow_linear(parts["logistic"], values, D, K),
        "spine": grow_ridge(parts["spine"], spine, after.of_spine(units_after), K),
        "ridge_300": grow_ridge(parts["ridge_300"], quick, after.of_quick, K),
        "ridge_1000": grow_ridge(parts["ridge_1000"], middle, after.of_middle, K),
        "concepts": grow_slots(parts["concepts"], quick, after.of_quick, K),
        **_grow_trees(parts, after, settings),
        "recent_columns": grow_recent_columns(parts["recent_columns"], scaling),
        "gate": judged[1],
        "spread": parts["spread"],
        "target_scale": parts["target_scale"],
    }
    return grown, after


def _grow_judged(parts: Parts, num_outputs: int) -> tuple[Arrays, Arrays]:
    """The past of the labels and the gate for more classes."""
    past, gate = parts["past"], parts["gate"]
    outputs = np.arange(gate["recent"].size)
    averages = put_at(past["averages"], 1, outputs, num_outputs)
    recent = put_at(gate["recent"], 0, outputs, num_outputs)
    last = put_at(past["last"], 0, outputs, num_outputs)
    return {**past, "averages": averages, "last": last}, {**gate, "recent": recent}


def _grow_columns(
    scaling: Arrays, sizes: Sizes, kinds: Sequence[int], num_categories: Sequence[int]
) -> Arrays:
    before, num_columns = scaling["kinds"].size, len(kinds)
    grown = {
        name: put_at(values, 0, np.arange(before), num_columns)
        for name, values in scaling.items()
        if name != "last"
    }
    most = max([1, *num_categories])
    hot: Ints = np.full((num_columns, most), -1, dtype=np.int64)
    hot[:before, : scaling["hot"].shape[1]] = scaling["hot"]
    next_input, next_rank = sizes.num_inputs, sizes.num_numeric
    for column in range(num_columns):
        if column >= before:
            grown["kinds"][column] = kinds[column]
            grown["place"][column] = -1
        if kinds[column] == 0 and column >= before:
            grown["place"][column], grown["rank"][column] = next_input, next_rank
            next_input, next_rank = next_input + 1, next_rank + 1
        for code in range(num_categories[column]):
            if hot[column, code] < 0:
                hot[column, code] = next_input
                next_input += 1
    # In the order in which kernels take them.
    grown = {name: grown.get(name, values) for name, values in scaling.items()}
    grown["hot"] = hot
    grown["count_inputs"] = np.array([next_input])
    return grown
