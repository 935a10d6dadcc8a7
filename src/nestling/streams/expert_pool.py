"""The experts of a stream learner: their arrays, grown and solved, and who moves them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nestling.core.errors import ForeignSnapshot
from nestling.levels import Freeze
from nestling.streams.event_step import process_events, process_value_events
from nestling.streams.expert_arrays import (
    EXPERTS,
    MOST_UNITS,
    NUM_DENSE,
    NUM_HIDDEN,
    NUM_SLOTS,
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
from nestling.streams.kernels.addresses import tabulate
from nestling.streams.kernels.views import ANSWER, LEARN, MIX, VIEW, find_deviation
from nestling.streams.model_expert import ModelExpert
from nestling.streams.solving import add_waiting, solve_sums
from nestling.streams.trees.concept_trees import grow_pool, make_pool
from nestling.streams.trees.forest import add_leaves
from nestling.streams.trees.hoeffding import grow_tree, make_tree
from nestling.streams.trees.tree_step import (
    lacks_room,
)
from nestling.streams.trees.value_trees import grow_value_tree, make_value_tree

Floats = NDArray[np.float64]

NETWORKS, RIDGES, TREES = EXPERTS[:6], EXPERTS[6:10], EXPERTS[10:13]
HALF_LIVES = {"spine": math.inf, "ridge_300": 300.0, "ridge_1000": 1000.0, "concepts": math.inf}
MOST_WAITING = {"spine": 64, "ridge_300": 16, "ridge_1000": 32, "concepts": 16}
STRENGTHS = {"spine": 3.0, "ridge_300": 1.0, "ridge_1000": 1.0, "concepts": 10.0}
MANY_UNITS, STRENGTH_OF_MANY = 256, 10.0
RATES = (0.05, 0.05, 0.001, 0.001, 0.01, 0.01)
WEIGHT_DECAY = 0.01
DECAYED = NETWORKS[2:4]
NUM_MIXERS = 3
# Of an interval of values: bounds in running absolute errors, and events before it is judged.
FIRST_BOUNDS = (-2.0, 2.0)
UNJUDGED = 100.0
# What an answer says of a class that came later.
LEAST_OF_UNKNOWN = 0.02


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


class ExpertPool:
    """Experts of a stream and their gate, as arrays by name.

    Args:
        names: experts that take part, of `EXPERTS`.
        seed: of all that is drawn.
        classifies: whether targets are classes.
        quantile: of values, that is foreseen; None for the mean.
        level: share of values that their interval should hold.
        model: the expert "model" of `names`.
    """

    def __init__(
        self,
        names: Sequence[str],
        seed: int,
        *,
        classifies: bool = True,
        quantile: float | None = None,
        level: float = 0.9,
        model: ModelExpert | None = None,
    ) -> None:
        self.names = tuple(names)
        self.classifies = classifies
        self._settings = np.array([1.0 if classifies else 0.0, quantile or 0.0])
        self.level = level
        self.model = model
        self.seed = seed
        self.sizes = Sizes()
        self.rows = {name: self.names.index(name) if name in names else -1 for name in EXPERTS}
        self._rows = np.array([self.rows[name] for name in EXPERTS])
        self.learning = np.ones(len(EXPERTS), dtype=np.int64)
        self._process_events = process_events if classifies else process_value_events
        self.rates = np.array([*RATES, *[WEIGHT_DECAY] * len(DECAYED)])
        self.num_learned = 0
        # Of the slots: events learned, concepts opened. Of the trees: how often each began anew.
        self.clock = np.zeros(2, dtype=np.int64)
        self.anew = np.zeros(len(TREES), dtype=np.int64)
        # Levels that changed since `changes` was emptied, and at which event; see `_note_changes`.
        self.changes: list[tuple[str, int]] = []
        self._seen, self._counted = b"", self._count_changes()
        # How often each memory was solved.
        self.num_solved = dict.fromkeys(RIDGES, 0)
        self.freezes: dict[str, Freeze] = {}
        self._released: set[str] = set()
        self._due = np.zeros(len(RIDGES), dtype=np.int64)
        self.half_lives = dict(HALF_LIVES)
        self.parts: dict[str, Arrays] = self._make(Sizes())
        self._gather()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a copy: its kernels must read its own arrays."""
        self.__dict__.update(state)
        self._gather()

    def _make(self, sizes: Sizes) -> dict[str, Arrays]:
        values, view, outputs = sizes.num_inputs, sizes.num_view, sizes.num_outputs
        units = make_sparse_units(sizes.num_units, sizes.num_columns, self.seed)
        of_spine = sizes.of_spine(sizes.num_units)
        num_experts = len(self.names)
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
            "dense_units": make_dense_units(values, self.seed),
            "sgd": make_network(values, outputs, self.seed + 1),
            "sgd_all": make_network(view, outputs, self.seed + 2),
            "adamw": make_adam_network(values, outputs, self.seed + 1),
            "adamw_all": make_adam_network(view, outputs, self.seed + 2),
            "logistic": make_linear(values, outputs),
            "logistic_all": make_linear(view, outputs),
            "spine": make_ridge(of_spine, outputs, MOST_WAITING["spine"]),
            "ridge_300": make_ridge(sizes.of_quick, outputs, MOST_WAITING["ridge_300"]),
            "ridge_1000": make_ridge(sizes.of_middle, outputs, MOST_WAITING["ridge_1000"]),
            "concepts": make_slots(sizes.of_quick, outputs, MOST_WAITING["concepts"]),
            "tree": self._make_tree(sizes.num_columns, outputs, 0),
            "trees": self._make_trees(sizes.num_columns, outputs, 3),
            "trees_recent": self._make_trees(sizes.num_columns + sizes.num_numeric, outputs, 4),
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
                "interval": np.array([*FIRST_BOUNDS, 1.0, 0.0, -UNJUDGED, self.level]),
            },
            "target_scale": {"moments": np.zeros(3)},
        }

    def _make_tree(self, num_columns: int, num_outputs: int, seed: int) -> Arrays:
        if not self.classifies:
            return make_value_tree(max(num_columns, 1), seed=self.seed + seed)
        return make_tree(max(num_columns, 1), max(num_outputs, 1), seed=self.seed + seed)

    def _make_trees(self, num_columns: int, num_outputs: int, seed: int) -> Arrays:
        if not self.classifies:
            return self._make_tree(num_columns, num_outputs, seed)
        return make_pool(max(num_columns, 1), max(num_outputs, 1), seed=self.seed + seed)

    def _grow_trees(self, name: str, num_columns: int, num_outputs: int) -> Arrays:
        if not self.classifies:
            return grow_value_tree(self.parts[name], num_columns)
        grow = grow_tree if name == "tree" else grow_pool
        return grow(self.parts[name], num_columns, num_outputs)

    def grow(self, kinds: Sequence[int], num_categories: Sequence[int], num_outputs: int) -> None:
        """Make room for columns, categories and classes that have appeared.

        Args:
            kinds: of each column, 0 numeric, 1 category.
            num_categories: of each column.
            num_outputs: classes.
        """
        before, parts = self.sizes, self.parts
        scaling = self._grow_columns(kinds, num_categories)
        after = Sizes(
            num_columns=len(kinds),
            num_numeric=sum(kind == 0 for kind in kinds),
            num_inputs=int(scaling["count_inputs"][0]),
            num_outputs=num_outputs,
        )
        del scaling["count_inputs"]
        if before.num_outputs == 0 or before.num_columns == 0 < after.num_columns:
            made = self._make(after)
            made["scaling"] = scaling
            made["recent_columns"] = grow_recent_columns(made["recent_columns"], scaling)
            if before.num_outputs:  # all events so far were empty
                made["past"], made["gate"] = self._grow_judged(num_outputs)
                made |= {name: parts[name] for name in ("spread", "target_scale")}
            self.parts, self.sizes = made, after
            self._gather()
            return
        values, view = np.arange(before.num_inputs), locate_view(before, after)
        K, D, V = after.num_outputs, after.num_inputs, after.num_view
        units = parts["sparse_units"]
        num_units = units["biases"].size
        room = MOST_UNITS - num_units
        num_more = min(UNITS_PER_COLUMN * (after.num_columns - before.num_columns), room)
        if num_more > 0:
            more = make_sparse_units(num_more, after.num_columns, self.seed)
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
        judged = self._grow_judged(num_outputs)
        self.parts = {
            "scaling": scaling,
            "past": judged[0],
            "sparse_units": units,
            "dense_units": grow_dense_units(parts["dense_units"], D, self.seed),
            "sgd": grow_network(parts["sgd"], values, D, K, self.seed + 1),
            "sgd_all": grow_network(parts["sgd_all"], view, V, K, self.seed + 2),
            "adamw": grow_network(parts["adamw"], values, D, K, self.seed + 1),
            "adamw_all": grow_network(parts["adamw_all"], view, V, K, self.seed + 2),
            "logistic": grow_linear(parts["logistic"], values, D, K),
            "logistic_all": grow_linear(parts["logistic_all"], view, V, K),
            "spine": grow_ridge(parts["spine"], spine, after.of_spine(units_after), K),
            "ridge_300": grow_ridge(parts["ridge_300"], quick, after.of_quick, K),
            "ridge_1000": grow_ridge(parts["ridge_1000"], middle, after.of_middle, K),
            "concepts": grow_slots(parts["concepts"], quick, after.of_quick, K),
            "tree": self._grow_trees("tree", after.num_columns, K),
            "trees": self._grow_trees("trees", after.num_columns, K),
            "trees_recent": self._grow_trees(
                "trees_recent", after.num_columns + after.num_numeric, K
            ),
            "recent_columns": grow_recent_columns(parts["recent_columns"], scaling),
            "gate": judged[1],
            "spread": parts["spread"],
            "target_scale": parts["target_scale"],
        }
        self.sizes = after
        self._gather()

    def _grow_judged(self, num_outputs: int) -> tuple[Arrays, Arrays]:
        """The past of the labels and the gate for more classes."""
        past, gate = self.parts["past"], self.parts["gate"]
        outputs = np.arange(gate["recent"].size)
        averages = put_at(past["averages"], 1, outputs, num_outputs)
        recent = put_at(gate["recent"], 0, outputs, num_outputs)
        last = put_at(past["last"], 0, outputs, num_outputs)
        return {**past, "averages": averages, "last": last}, {**gate, "recent": recent}

    def _grow_columns(self, kinds: Sequence[int], num_categories: Sequence[int]) -> Arrays:
        scaling = self.parts["scaling"]
        before, num_columns = scaling["kinds"].size, len(kinds)
        grown = {
            name: put_at(values, 0, np.arange(before), num_columns)
            for name, values in scaling.items()
            if name != "last"
        }
        most = max([1, *num_categories])
        hot: Ints = np.full((num_columns, most), -1, dtype=np.int64)
        hot[:before, : scaling["hot"].shape[1]] = scaling["hot"]
        next_input, next_rank = self.sizes.num_inputs, self.sizes.num_numeric
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

    def _gather(self) -> None:
        """Tell the kernels where the arrays lie, and make room for what they write."""
        parts, sizes, num_experts = self.parts, self.sizes, len(self.names)
        outputs = max(sizes.num_outputs, 1)
        inputs = (sizes.num_inputs, sizes.num_view) * 2
        layers = [*map(_make_layers, inputs), (), ()]
        memories = [
            [values for key, values in parts[name].items() if key not in ("gram", "cross")]
            for name in RIDGES
        ]
        work = [
            *(np.zeros(parts[name]["gram"].shape[-1]) for name in RIDGES[:3]),
            *(np.zeros((rows, outputs)) for rows in (3, NUM_SLOTS, NUM_SLOTS)),
        ]
        heard = [
            *(np.zeros((rows, outputs)) for rows in (NUM_MIXERS + 1, num_experts)),
            *(np.zeros(outputs) for _ in range(2)),
        ]
        arrays = {
            "views": [*_list_arrays(parts, "scaling", "past", "target_scale")],
            "networks": [
                array
                for name, room in zip(NETWORKS, layers, strict=True)
                for array in (*parts[name].values(), *room)
            ],
            "ridges": [
                *_list_arrays(parts, "sparse_units", "dense_units"),
                *(array for memory in memories for array in memory),
                *work,
            ],
            "gate": [*_list_arrays(parts, "gate", "spread"), *heard],
            "switches": [
                *(self._rows, self.learning, self.rates, self._due, self.clock, self.anew),
                *(self._settings, *parts["recent_columns"].values()),
            ],
            **{name: _list_arrays(parts, name) for name in TREES},
        }
        self._table = tabulate(array for section in arrays.values() for array in section)
        # The number of the first array of each section.
        lengths = [len(section) for section in arrays.values()]
        self._starts = np.cumsum([0, *lengths[:-1]])
        # Whoever has a table keeps its arrays alive.
        self._held = arrays
        self._one = self._make_room(1)

    def _make_room(self, num_events: int) -> Events:
        sizes = self.sizes
        return Events(
            np.zeros((num_events, sizes.num_columns)),
            np.zeros((num_events, sizes.num_view)),
            np.zeros((num_events, sizes.num_columns + sizes.num_numeric)),
            np.zeros(num_events),
            np.ones(num_events),
            np.zeros((num_events, len(self.names), sizes.num_outputs)),
            np.zeros((num_events, sizes.num_outputs)),
        )

    def make_events(self, x_BC: Floats) -> Events:
        """Room for what is known of events; that of a single one is used again."""
        events = self._one if len(x_BC) == 1 else self._make_room(len(x_BC))
        events.values[:] = x_BC
        return events

    def count_outputs(self, answers_EK: Floats) -> int:
        """How many outputs there were when these answers were given."""
        return int(answers_EK.shape[1])

    def pad_answers(self, answers_EK: Floats) -> Floats:
        """Answers to all classes of now; those that were unknown then get hardly anything.

        Values, and answers of which all classes were known, stay as they are.
        """
        num_outputs = self.sizes.num_outputs
        if answers_EK.shape[1] == num_outputs:
            return answers_EK
        padded = np.full((len(answers_EK), num_outputs), LEAST_OF_UNKNOWN / num_outputs)
        padded[:, : answers_EK.shape[1]] = answers_EK
        shared: Floats = padded / padded.sum(axis=1, keepdims=True)
        return shared

    def freeze(self, name: str, freeze: Freeze | None) -> None:
        """Let an expert stand still as said; None ends it."""
        self.freezes.pop(name, None)
        self._released.discard(name)
        if freeze is not None:
            self.freezes[name] = freeze
        self.obey_freezes()

    def release(self, event: str) -> None:
        """End the freezes that last until this event."""
        self._released |= {name for name, one in self.freezes.items() if one.until == event}
        self.obey_freezes()

    def obey_freezes(self) -> None:
        """Let those stand still that are frozen at the next event."""
        for at, name in enumerate(EXPERTS):
            self.learning[at] = not self._is_frozen(name)

    def _is_frozen(self, name: str) -> bool:
        freeze = self.freezes.get(name)
        return freeze is not None and freeze.covers(
            self.num_learned + 1, is_released=name in self._released
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the next answer and the next update depend on; tensors are copies."""
        return {
            "names": list(self.names),
            "seed": self.seed,
            "classifies": self.classifies,
            "settings": self._settings.tolist(),
            "level": self.level,
            "sizes": asdict(self.sizes),
            "parts": {name: tensors_of(part) for name, part in self.parts.items()},
            "rates": self.rates.tolist(),
            "half_lives": dict(self.half_lives),
            "num_learned": self.num_learned,
            "clock": self.clock.tolist(),
            "anew": self.anew.tolist(),
            "num_solved": dict(self.num_solved),
            "freezes": {name: dump_freeze(one) for name, one in self.freezes.items()},
            "released": sorted(self._released),
            "model": None if self.model is None else self.model.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, of a pool of the same experts.

        Raises:
            ForeignSnapshot: of other experts, another seed or another task; nothing changed then.
        """
        for name in ("names", "seed", "classifies", "settings", "level"):
            own = self._settings.tolist() if name == "settings" else getattr(self, name)
            own = list(own) if name == "names" else own
            if state.get(name) != own:
                raise ForeignSnapshot(
                    f"the state has {name} {state.get(name)!r}, this learner {own!r}; make it with "
                    "the same arguments"
                )
        if self.model is not None:
            self.model.load_state_dict(state["model"])
        self.parts = {
            name: {key: _numpy(part[key], array) for key, array in self.parts[name].items()}
            for name, part in state["parts"].items()
        }
        self.sizes = Sizes(**state["sizes"])
        self.rates[:] = state["rates"]
        self.half_lives = dict(state["half_lives"])
        self.num_learned = state["num_learned"]
        self.clock[:], self.anew[:] = state["clock"], state["anew"]
        self.changes, self._counted = [], self._count_changes()
        self._seen = b""
        self.num_solved = dict(state["num_solved"])
        self.freezes = {name: Freeze(**one) for name, one in state["freezes"].items()}
        self._released = set(state["released"])
        self.obey_freezes()
        self._gather()

    def read_tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Tensors of an expert by name (copies)."""
        if name == "model" and self.model is not None:
            return self.model.tensors()
        return tensors_of(self.parts["past" if name == "labels" else name])

    def read_interval(self) -> tuple[float, float]:
        """How far below and above an answer its interval ends, in units of the target."""
        low, high, scale = self.parts["spread"]["interval"][:3]
        unit = float(scale * find_deviation(self.parts["target_scale"]["moments"]))
        return float(low) * unit, float(high) * unit

    def read_coverage(self) -> float:
        """Share of targets inside their intervals since these are judged; NaN before."""
        inside, judged = self.parts["spread"]["interval"][3:5]
        return float(inside / judged) if judged > 0 else math.nan

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        own = sum(values.nbytes for part in self.parts.values() for values in part.values())
        tensors = {} if self.model is None else self.model.tensors()
        return own + sum(tensor.nbytes for tensor in tensors.values())

    def process(self, mode: int, events: Events, slower: float = 1.0) -> None:
        """Process events one after the other.

        Args:
            mode: sum of what is to be done; see `kernels.views`.
            events: what is known of them, which is written.
            slower: of the gate, 1 + delay / 100.
        """
        if self.model is None:
            self._process(mode, events, slower)
        else:
            for b in range(len(events)):
                self._process_with_model(self.model, mode, events.cut(b), slower)
                if mode & LEARN and self.freezes:
                    self.obey_freezes()
        if mode & LEARN and self.freezes:
            self.obey_freezes()
        if mode & MIX and not self.classifies:
            moments = self.parts["target_scale"]["moments"]
            events.mixed[:] = moments[1] + find_deviation(moments) * events.mixed

    def _process(self, mode: int, events: Events, slower: float) -> None:
        next_event, num_events = 0, len(events)
        while next_event < num_events:
            before = next_event
            next_event = self._process_events(
                mode,
                before,
                self._table,
                self._starts,
                self.sizes.num_inputs,
                self.num_learned,
                slower,
                events.values,
                events.views,
                events.recent,
                events.targets,
                events.weights,
                events.answers,
                events.mixed,
            )
            if mode & LEARN:
                self.num_learned += next_event - before
                self._note_changes()
                if self._due.any():
                    self._solve_due()
                elif next_event == before:
                    self._add_leaves()

    def _note_changes(self) -> None:
        """Note at which event a concept was opened or a tree began anew."""
        seen = self.clock[1:].tobytes() + self.anew.tobytes()
        if seen == self._seen:  # as nearly always, and this is asked at every event
            return
        counts = self._count_changes()
        for level, count in counts.items():
            self.changes += [(level, self.num_learned)] * (count - self._counted[level])
        self._seen, self._counted = seen, counts

    def _count_changes(self) -> dict[str, int]:
        counts = zip(TREES, self.anew.tolist(), strict=True)
        return {"concepts": int(self.clock[1]), **dict(counts)}

    def _process_with_model(
        self, model: ModelExpert, mode: int, event: Events, slower: float
    ) -> None:
        """One event; the model answers and learns beside the kernels."""
        row, is_frozen = self.names.index("model"), self._is_frozen("model")
        if mode & ANSWER:
            self._process(mode & (VIEW | ANSWER), event, slower)
            model.answer(event.views[0], self.sizes.num_inputs, event.answers[0, row])
        if rest := mode & ~(VIEW | ANSWER):
            self._process(rest, event, slower)
        if mode & LEARN and not is_frozen:
            target, weight = float(event.targets[0]), float(event.weights[0])
            model.learn(event.views[0], self.sizes.num_inputs, target, weight)

    def _add_leaves(self) -> None:
        """Give the trees that have no room for one more split more of it."""
        for name in TREES:
            if self.rows[name] >= 0 and lacks_room(tuple(self.parts[name].values())):
                self.parts[name] = add_leaves(self.parts[name])
        self._gather()

    def _solve_due(self) -> None:
        due = self._due
        for at, name in enumerate(RIDGES[:3]):
            if due[at]:
                part = self.parts[name]
                self._solve(name, part, int(part["counts"][0]))
                part["counts"][0] = 0
        if due[3]:
            slot, part = int(due[3]) - 1, self.parts["concepts"]
            of_slot = {
                key: part[key][slot]
                for key in ("weights", "waiting", "targets", "example_weights", "gram", "cross")
            }
            waiting, seen = int(part["counts"][slot, 0]), int(part["counts"][slot, 1])
            if waiting == seen:  # a concept that begins
                of_slot["gram"][:] = 0.0
                of_slot["cross"][:] = 0.0
            self._solve("concepts", of_slot, waiting)
            part["counts"][slot, 0] = 0
        due[:] = 0

    def _solve(self, name: str, part: Mapping[str, NDArray[Any]], num_waiting: int) -> None:
        add_waiting(
            part["gram"],
            part["cross"],
            part["waiting"][:num_waiting],
            part["targets"][:num_waiting],
            part["example_weights"][:num_waiting],
            self.half_lives[name],
            classify=self.classifies,
        )
        strength = STRENGTHS[name]
        if name == "spine" and self.parts["sparse_units"]["biases"].size > MANY_UNITS:
            strength = STRENGTH_OF_MANY
        self.num_solved[name] += 1
        for waited in ("waiting", "targets", "example_weights"):
            part[waited][:num_waiting] = 0.0  # what is summed is kept nowhere else
        weights = solve_sums(part["gram"], part["cross"], strength)
        if weights is not None:
            part["weights"][:] = weights


def _make_layers(num_inputs: int) -> tuple[NDArray[np.float32], ...]:
    """Room for what an answer of a network goes through: two hidden layers, and the inputs."""
    hidden = np.zeros((2, NUM_HIDDEN), dtype=np.float32)
    return hidden[0], hidden[1], np.zeros(num_inputs, dtype=np.float32)


def tensors_of(part: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Arrays as tensors of their own; unsigned integers, which files may lack, bit for bit."""
    return {
        name: torch.from_numpy(
            (values.view(np.int64) if values.dtype == np.uint64 else values).copy()
        )
        for name, values in part.items()
    }


def _numpy(tensor: torch.Tensor, like: NDArray[Any]) -> NDArray[Any]:
    values = tensor.numpy().copy()
    return values.view(like.dtype) if values.dtype != like.dtype else values


def dump_freeze(freeze: Freeze) -> dict[str, Any]:
    """A freeze as plain data."""
    return {"windows": [list(window) for window in freeze.windows], "until": freeze.until}


def _list_arrays(parts: Mapping[str, Arrays], *names: str) -> list[NDArray[Any]]:
    return [array for name in names for array in parts[name].values()]
