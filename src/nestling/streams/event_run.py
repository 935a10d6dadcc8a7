"""What a stream learner does with an event: foresee it, keep it until its label comes, learn it."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nestling.core.errors import NestlingError
from nestling.optim import OptimizerSpec, adamw
from nestling.streams.events.event_columns import EventColumns
from nestling.streams.experts.concept_readings import list_concepts, take_changes
from nestling.streams.experts.event_block import Events
from nestling.streams.experts.expert_arrays import Sizes, locate_view
from nestling.streams.experts.expert_levels import StreamLevels
from nestling.streams.experts.expert_pool import ExpertPool
from nestling.streams.experts.model_expert import ModelExpert
from nestling.streams.kernels.views import ANSWER, HEAR, LEARN, MIX, TAKE_IN, TARGET, VIEW
from nestling.streams.late_labels import EventId, WaitingEvents
from nestling.streams.stream_readings import ConceptReading, StreamEvent

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FORESEE = VIEW | ANSWER | MIX
TAKE_TARGET = TARGET | LEARN | HEAR
# Delay in events at which the gate moves half as fast.
HALVING_DELAY = 100.0
# Of the gate's belief: those of whom it believes nothing still answer where nobody else does.
LEAST_SHARE = 1e-12
# Events of levels that are remembered.
MOST_REMEMBERED = 1000


class EventRun:
    """Events through columns and experts, in their order; what waits for its label is kept.

    Args:
        columns: of the stream.
        pool: experts and gate.
        waiting: events whose labels have not come.
    """

    def __init__(self, columns: EventColumns, pool: ExpertPool, waiting: WaitingEvents) -> None:
        self.columns, self.pool, self.waiting = columns, pool, waiting
        self.num_events = 0
        # Whether what was answered to an event stays with it while it waits: a guard of sources
        # judges labels by it.
        self.keeps_answers = False
        # What happened to concepts and trees, the latest last; bounded.
        self.happened: deque[StreamEvent] = deque(maxlen=MOST_REMEMBERED)
        self._grown_for = (-1, 0)
        self._num_codes: Ints = np.zeros(0, dtype=np.int64)
        # The event that was foreseen last, as long as nothing has moved since.
        self._fresh: tuple[bytes, Events, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy: what was foreseen last went through arrays that it has no more."""
        return {**self.__dict__, "_fresh": None}

    def fit_sizes(self, num_outputs: int) -> None:
        """Make room for all columns, categories and outputs that have appeared."""
        wanted = (self.columns.num_growths, num_outputs)
        if wanted != self._grown_for:
            self._grow(self.columns.kinds, self.columns.num_codes, num_outputs)
            self._grown_for = wanted

    def _grow(self, kinds_C: Ints, num_codes_C: Ints, num_outputs: int) -> None:
        self.pool.grow(kinds_C.tolist(), num_codes_C.tolist(), num_outputs)
        self._num_codes = num_codes_C
        self._fresh = None

    @property
    def _slower(self) -> float:
        return 1.0 + self.waiting.mean_delay / HALVING_DELAY

    def foresee(self, x_BC: Floats) -> Floats:
        """Answers (B, K) to events that are only asked about; nothing moves."""
        x_BC = self._fit_width(x_BC)
        events = self.pool.make_events(x_BC)
        self.pool.process(FORESEE, events, self._slower)
        self._fresh = None
        if len(x_BC) == 1:
            self._fresh = (x_BC.tobytes(), events, self.pool.num_loaded)
        return events.mixed.copy()

    def look_at(self, x_1C: Floats) -> tuple[Floats, Floats]:
        """View (V,) of an event (1, C) and the answer (1, K) to it; nothing moves."""
        if self.pool.sizes.num_outputs:
            answer_1K = self.foresee(x_1C)
            assert self._fresh is not None
            return self._fresh[1].views[0], answer_1K
        events = self.pool.make_events(self._fit_width(x_1C))
        self.pool.process(VIEW, events)
        return events.views[0], events.mixed.copy()

    def foresee_some(self, x_BC: Floats, names: Sequence[str]) -> Floats:
        """Answers (B, K) of some experts only, mixed by their shares of what the gate believes.

        Args:
            x_BC: events that are only asked about; nothing moves.
            names: of the experts.
        """
        x_BC, pool = self._fit_width(x_BC), self.pool
        events = pool.make_events(x_BC)
        pool.process(FORESEE, events, self._slower)
        self._fresh = None
        rows = [pool.names.index(name) for name in names]
        shares_E = np.maximum(pool.parts["gate"]["shares"][rows], LEAST_SHARE)
        answers_BEK = events.answers[:, rows]
        mixed_BK: Floats = np.einsum("e,bek->bk", shares_E / shares_E.sum(), answers_BEK)
        return mixed_BK if pool.classifies else pool.scale_back(mixed_BK)

    def _fit_width(self, x_BC: Floats) -> Floats:
        """Events with as many columns as the experts know."""
        width = self.pool.sizes.num_columns
        if x_BC.shape[1] == width:
            return x_BC
        filled_BC = np.full((len(x_BC), width), np.nan)
        most = min(width, x_BC.shape[1])
        filled_BC[:, :most] = x_BC[:, :most]
        return filled_BC

    def expect(self, x_1C: Floats, event_id: EventId) -> Floats:
        """Answer (1, K) to an event that has happened; it waits for its label.

        Raises:
            DataError: an event of that id waits already; nothing changed then.
        """
        self.waiting.check_new(event_id)
        self._fresh = None
        sizes = self.pool.sizes
        events = self.pool.make_events(x_1C)
        # Before the first label there is nothing to answer.
        mode = FORESEE | TAKE_IN if sizes.num_outputs else TAKE_IN
        self.pool.process(mode, events, self._slower)
        record = {
            "values": events.values[0],
            "views": events.views[0],
            "answers": events.answers[0],
            "sizes": np.array([sizes.num_columns, sizes.num_numeric, sizes.num_inputs]),
        }
        if self.keeps_answers:
            record["given"] = events.mixed[0]
        self.num_events += 1
        self.waiting.put(event_id, self.num_events, record)
        self.waiting.expire(self.num_events)
        return events.mixed.copy()

    def learn(self, x_BC: Floats, target_B: Floats, weight_B: Floats) -> Floats:
        """Learn events and their targets in their order; the answers that stood before (B, K)."""
        if len(x_BC) == 1:
            return self.learn_event(x_BC, float(target_B[0]), float(weight_B[0]))
        # A freeze may begin or end within the block.
        if self.pool.freezes or (weight_B == 0.0).any():
            rows = [self.learn(*one) for one in _take_apart(x_BC, target_B, weight_B)]
            return np.concatenate(rows)
        self._fresh = None
        events = self.pool.make_events(x_BC)
        events.targets[:], events.weights[:] = target_B, weight_B
        return self._learn(FORESEE | TAKE_IN | TAKE_TARGET, events)

    def learn_event(self, x_1C: Floats, target: float, weight: float) -> Floats:
        """Learn one event (1, C) and its target; the answer that stood before (1, K)."""
        if weight == 0.0:
            return self._pass(x_1C)
        fresh, self._fresh = self._fresh, None
        is_fresh = fresh is not None and fresh[2] == self.pool.num_loaded
        if fresh is not None and is_fresh and fresh[0] == x_1C.tobytes():
            events, mode = fresh[1], TAKE_IN | TAKE_TARGET
        else:
            events, mode = self.pool.make_events(x_1C), FORESEE | TAKE_IN | TAKE_TARGET
        events.targets[0], events.weights[0] = target, weight
        return self._learn(mode, events)

    def _learn(self, mode: int, events: Events) -> Floats:
        self.pool.process(mode, events, self._slower)
        self.num_events += len(events)
        self.waiting.expire(self.num_events)
        if self.pool.changes:
            self.happened += take_changes(self.pool)
        return events.mixed.copy()

    def _pass(self, x_1C: Floats) -> Floats:
        """Let an event happen whose label counts for nothing; the answer to it (1, K)."""
        self._fresh = None
        events = self.pool.make_events(x_1C)
        self.pool.process(FORESEE | TAKE_IN, events, self._slower)
        self.num_events += 1
        self.waiting.expire(self.num_events)
        return events.mixed.copy()

    def pass_over(self) -> None:
        """Let an event happen of which nothing is taken in, its values neither."""
        self._fresh = None
        self.num_events += 1
        self.waiting.expire(self.num_events)

    def grow_along(self, x_BC: Floats) -> Iterator[Floats]:
        """Each event of a block (1, C), with room made for the columns that it brings."""
        growth = {
            b: (kinds_C, num_codes_C)
            for b, kinds_C, num_codes_C, _ in self._find_growth(x_BC, np.zeros(len(x_BC)))
        }
        for b in range(len(x_BC)):
            if b in growth:
                num_outputs = self.pool.sizes.num_outputs if self.pool.classifies else 1
                self._grow(*growth[b], num_outputs)
            yield np.ascontiguousarray(x_BC[b : b + 1, : self.pool.sizes.num_columns])
        self._grown_for = (self.columns.num_growths, self.pool.sizes.num_outputs)

    def fit_outputs(self, num_outputs: int) -> None:
        """Make room for outputs; columns and categories as far as there is room already."""
        sizes = self.pool.sizes
        if num_outputs != sizes.num_outputs:
            kinds_C = self.columns.kinds[: sizes.num_columns]
            self._grow(kinds_C, self._num_codes, num_outputs)
            self._grown_for = (self._grown_for[0], num_outputs)

    def learn_block(self, x_BC: Floats, target_B: Floats, weight_B: Floats) -> Floats:
        """Learn a block, bit for bit as its events one after the other.

        Args:
            x_BC: as encoded with room for all that the block brings.
            target_B: classes by number, in order of appearance where they are new; or values.
            weight_B: of the events.

        Returns:
            (B, K) the answers that stood before each event; 0 for outputs that came later.
        """
        start, parts = 0, []
        for end, kinds_C, num_codes_C, num_outputs in self._find_growth(x_BC, target_B):
            if end > start:
                parts.append(self._learn_rows(x_BC, target_B, weight_B, slice(start, end)))
            self._grow(kinds_C, num_codes_C, num_outputs)
            start = end
        parts.append(self._learn_rows(x_BC, target_B, weight_B, slice(start, None)))
        self._grown_for = (self.columns.num_growths, self.pool.sizes.num_outputs)
        if len(parts) == 1:
            return parts[0]
        answers_BK = np.zeros((len(x_BC), self.pool.sizes.num_outputs))
        start = 0
        for part in parts:
            answers_BK[start : start + len(part), : part.shape[1]] = part
            start += len(part)
        return answers_BK

    def _learn_rows(self, x_BC: Floats, target_B: Floats, weight_B: Floats, rows: slice) -> Floats:
        x_BC = np.ascontiguousarray(x_BC[rows, : self.pool.sizes.num_columns])
        return self.learn(x_BC, target_B[rows], weight_B[rows])

    def _find_growth(self, x_BC: Floats, target_B: Floats) -> Iterator[tuple[int, Ints, Ints, int]]:
        """Each event that brings columns, categories or classes, and how much there is then."""
        sizes = self.pool.sizes
        least = int(target_B.max()) + 1 if self.pool.classifies else 1
        if self._grown_for[0] == self.columns.num_growths and least <= sizes.num_outputs:
            return
        kinds_C = self.columns.kinds
        known = ~np.isnan(x_BC)
        place_C = np.arange(x_BC.shape[1])
        width_B = np.maximum.accumulate(np.where(known, place_C + 1, 0).max(axis=1, initial=0))
        width_B = np.maximum(width_B, sizes.num_columns)
        codes_BC = np.where(known & (kinds_C == 1), x_BC + 1.0, 0.0).astype(np.int64)
        codes_BC = np.maximum(codes_BC, np.where(known, self.columns.num_codes_at_once, 0))
        codes_BC = np.maximum.accumulate(codes_BC, axis=0)
        before = self._num_codes
        codes_BC[:, : before.size] = np.maximum(codes_BC[:, : before.size], before)
        outputs_B = np.full(len(x_BC), max(sizes.num_outputs, 1))
        if self.pool.classifies:
            found_B = np.maximum.accumulate(target_B.astype(np.int64) + 1)
            outputs_B = np.maximum(found_B, sizes.num_outputs)
        last = (sizes.num_columns, before.tolist(), sizes.num_outputs)
        for b in range(len(x_BC)):
            width, outputs = int(width_B[b]), int(outputs_B[b])
            now = (width, codes_BC[b, :width].tolist(), outputs)
            if now != last:
                yield b, kinds_C[:width], codes_BC[b, :width], outputs
                last = now

    def learn_late(self, record: Mapping[str, NDArray[Any]], target: float, weight: float) -> None:
        """Learn an event that waited, as it was seen when it was foreseen."""
        if weight == 0.0:
            return
        sizes = self.pool.sizes
        columns, numeric, inputs = (int(size) for size in record["sizes"])
        answers_EK = record["answers"]
        before = Sizes(columns, numeric, inputs, answers_EK.shape[1])
        x_1C = np.full((1, sizes.num_columns), np.nan)
        x_1C[0, :columns] = record["values"]
        self._fresh = None
        events = self.pool.make_events(x_1C)
        events.targets[:], events.weights[:] = target, weight
        if before.num_outputs:
            events.views[:] = 0.0  # the room of a single event holds what was seen last
            events.views[0, locate_view(before, sizes)] = record["views"]
            events.answers[0] = self.pool.pad_answers(answers_EK)
        else:  # nothing was answered: no label had come yet
            self.pool.process(VIEW | ANSWER, events)
        # The gate judges by the answers that were given; what the experts learn from is what they
        # would answer now.
        self.pool.process(TARGET | MIX | HEAR, events, self._slower)
        self.pool.process(ANSWER | LEARN, events)
        self.happened += take_changes(self.pool)

    @property
    def levels(self) -> StreamLevels:
        """The experts as levels."""
        return StreamLevels(self.pool)

    def read_concepts(self) -> list[ConceptReading]:
        """The concepts that are kept, of each level the one in force first."""
        return list_concepts(self.pool)

    def state_dict(self) -> dict[str, Any]:
        """All that the next answer and the next update depend on, of any moment."""
        data, arrays = self.waiting.state_dict()
        return {
            "columns": self.columns.state_dict(),
            "waiting": {
                "data": data,
                "arrays": {name: torch.from_numpy(values) for name, values in arrays.items()},
            },
            "num_events": self.num_events,
            "num_codes": self._num_codes.tolist(),
            "is_grown": self._grown_for[0] == self.columns.num_growths,
            "happened": [asdict(one) for one in self.happened],
            "pool": self.pool.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; raises with nothing changed."""
        # Even a state that is refused puts new arrays in the place of those of the last answer.
        self._fresh = None
        waiting = state["waiting"]
        arrays = {name: values.numpy() for name, values in waiting["arrays"].items()}
        before = self.pool.state_dict()
        self.pool.load_state_dict(state["pool"])
        try:
            self.waiting.load_state_dict(waiting["data"], arrays)
        except NestlingError:
            self.pool.load_state_dict(before)
            raise
        self.columns.load_state_dict(state["columns"])
        self.num_events = state["num_events"]
        self._num_codes = np.array(state["num_codes"], dtype=np.int64)
        grown = self.columns.num_growths if state["is_grown"] else -1
        self._grown_for = (grown, self.pool.sizes.num_outputs)
        self.happened.clear()
        self.happened += [StreamEvent(**one) for one in state["happened"]]


def make_run(
    names: Sequence[str],
    seed: int,
    *,
    max_waiting: int,
    max_age: int,
    classifies: bool = True,
    quantile: float | None = None,
    level: float = 0.9,
    model: nn.Module | None = None,
    optimizer: OptimizerSpec | None = None,
) -> EventRun:
    """Columns, experts and waiting events of a stream that begins; see `ExpertPool`."""
    added = None
    if model is not None:
        added = ModelExpert(model, optimizer or adamw(), classifies=classifies)
        names = (*names, "model")
    waiting = WaitingEvents(max_events=max_waiting, max_age=max_age)
    pool = ExpertPool(
        names, seed, classifies=classifies, quantile=quantile, level=level, model=added
    )
    return EventRun(EventColumns(), pool, waiting)


def _take_apart(
    x_BC: Floats, target_B: Floats, weight_B: Floats
) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Blocks of one event each."""
    for b in range(len(x_BC)):
        yield x_BC[b : b + 1], target_B[b : b + 1], weight_B[b : b + 1]
