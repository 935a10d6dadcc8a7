"""What a stream learner does with an event: foresee it, keep it until its label comes, learn it."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestling.streams.events.event_columns import EventColumns
from nestling.streams.expert_arrays import locate_view
from nestling.streams.expert_pool import ExpertPool, Sizes
from nestling.streams.late_labels import EventId, WaitingEvents

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Steps of the kernels; see `kernels.event_step`.
FORESEE, MIX, TAKE_IN, LEARN = 1, 2, 4, 8
# Delay in events at which the gate moves half as fast.
HALVING_DELAY = 100.0


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
        self._grown_for = (-1, 0)
        self._num_codes: Ints = np.zeros(0, dtype=np.int64)
        self._fresh: tuple[bytes, int] | None = None
        self._num_moves = 0
        self._make_room(1)

    def _make_room(self, num_events: int) -> None:
        sizes, num_experts = self.pool.sizes, len(self.pool.names)
        self._view_BV = np.zeros((num_events, sizes.num_view))
        self._p_BEK = np.zeros((num_events, num_experts, sizes.num_outputs))
        self._mixed_BK = np.zeros((num_events, sizes.num_outputs))
        self._weight_B = np.ones(num_events)
        self._target_B = self.pool.make_targets(num_events)

    def fit_sizes(self, num_outputs: int) -> None:
        """Make room for all columns, categories and outputs that have appeared."""
        wanted = (self.columns.num_grown, num_outputs)
        if wanted != self._grown_for:
            self._grow(self.columns.kinds, self.columns.num_codes, num_outputs)
            self._grown_for = wanted

    def _grow(self, kinds_C: Ints, num_codes_C: Ints, num_outputs: int) -> None:
        self.pool.grow(kinds_C.tolist(), num_codes_C.tolist(), num_outputs)
        self._num_codes = num_codes_C
        self._num_moves += 1
        self._fresh = None
        self._make_room(1)

    def _process(self, mode: int, x_BC: Floats, *, is_fresh: bool = False) -> None:
        num_events = x_BC.shape[0]
        if self._mixed_BK.shape[0] != num_events:
            self._make_room(num_events)
        self.pool.process(
            mode,
            x_BC,
            self._view_BV,
            self._p_BEK,
            self._mixed_BK,
            self._target_B,
            self._weight_B,
            slower=1.0 + self.waiting.mean_delay / HALVING_DELAY,
            is_fresh=is_fresh,
        )

    def foresee(self, x_BC: Floats) -> Floats:
        """Answers (B, K) to events that are only asked about; nothing moves."""
        x_BC = self._fill(x_BC)
        self._process(FORESEE | MIX, x_BC)
        self._fresh = (x_BC.tobytes(), self._num_moves) if x_BC.shape[0] == 1 else None
        return self._mixed_BK.copy()

    def _fill(self, x_BC: Floats) -> Floats:
        """Rows as wide as the experts know columns: later ones are unknown to them yet."""
        width = self.pool.sizes.num_columns
        if x_BC.shape[1] == width:
            return x_BC
        filled = np.full((x_BC.shape[0], width), np.nan)
        most = min(width, x_BC.shape[1])
        filled[:, :most] = x_BC[:, :most]
        return filled

    def expect(self, x_1C: Floats, event_id: EventId) -> Floats:
        """Answer (1, K) to an event that has happened; it waits for its label.

        Raises:
            UnknownEvent: an event of that id waits already; nothing changed then.
        """
        self.waiting.check_new(event_id)
        x_1C = self._fill(x_1C)
        sizes = self.pool.sizes
        # Before the first label there is nothing to answer.
        self._process(FORESEE | MIX | TAKE_IN if sizes.num_outputs else TAKE_IN, x_1C)
        record = {
            "x": x_1C[0],
            "view": self._view_BV[0],
            "answers": self._p_BEK[0],
            "sizes": np.array([sizes.num_columns, sizes.num_numeric, sizes.num_inputs]),
        }
        self.num_events += 1
        self._num_moves += 1
        self.waiting.put(event_id, self.num_events, record)
        self.waiting.expire(self.num_events)
        self._fresh = None
        return self._mixed_BK.copy()

    def learn(self, x_BC: Floats, target_B: NDArray[Any], weight_B: Floats) -> Floats:
        """Learn events and their targets in their order; the answers that stood before (B, K)."""
        num_events = x_BC.shape[0]
        is_fresh = num_events == 1 and self._fresh == (x_BC.tobytes(), self._num_moves)
        if not is_fresh and self._mixed_BK.shape[0] != num_events:
            self._make_room(num_events)
        self._target_B[:], self._weight_B[:] = target_B, weight_B
        mode = TAKE_IN | LEARN if is_fresh else FORESEE | MIX | TAKE_IN | LEARN
        self._process(mode, x_BC, is_fresh=is_fresh)
        self.num_events += num_events
        self._num_moves += 1
        self._fresh = None
        return self._mixed_BK.copy()

    def learn_block(self, x_BC: Floats, target_B: NDArray[Any], weight_B: Floats) -> None:
        """Learn a block, bit for bit as its events one after the other.

        Args:
            x_BC: as encoded with room for all that the block brings.
            target_B: classes by number; in order of appearance, where they are new.
            weight_B: of the events.
        """
        start = 0
        for end, kinds_C, num_codes_C, num_outputs in self._find_growth(x_BC, target_B):
            if end > start:
                rows = np.ascontiguousarray(x_BC[start:end, : self.pool.sizes.num_columns])
                self.learn(rows, target_B[start:end], weight_B[start:end])
            self._grow(kinds_C, num_codes_C, num_outputs)
            start = end
        rows = np.ascontiguousarray(x_BC[start:, : self.pool.sizes.num_columns])
        self.learn(rows, target_B[start:], weight_B[start:])
        self._grown_for = (self.columns.num_grown, self.pool.sizes.num_outputs)

    def _find_growth(
        self, x_BC: Floats, target_B: NDArray[Any]
    ) -> Iterator[tuple[int, Ints, Ints, int]]:
        """Each event that brings columns, categories or classes, and how much there is then."""
        sizes = self.pool.sizes
        if self._grown_for[0] == self.columns.num_grown and (
            not self.pool.classifies or target_B.max() < sizes.num_outputs
        ):
            return
        kinds_C = self.columns.kinds
        known = ~np.isnan(x_BC)
        place_C = np.arange(x_BC.shape[1])
        width_B = np.maximum.accumulate(np.where(known, place_C + 1, 0).max(axis=1, initial=0))
        width_B = np.maximum(width_B, sizes.num_columns)
        codes_BC = np.where(known & (kinds_C == 1), x_BC + 1.0, 0.0).astype(np.int64)
        codes_BC = np.maximum.accumulate(codes_BC, axis=0)
        before = self._num_codes
        codes_BC[:, : before.size] = np.maximum(codes_BC[:, : before.size], before)
        outputs_B = np.full(len(x_BC), sizes.num_outputs)
        if self.pool.classifies:
            outputs_B = np.maximum(np.maximum.accumulate(target_B + 1), sizes.num_outputs)
        last = (sizes.num_columns, before.tolist(), sizes.num_outputs)
        for b in range(len(x_BC)):
            width, outputs = int(width_B[b]), int(outputs_B[b])
            now = (width, codes_BC[b, :width].tolist(), outputs)
            if now != last:
                yield b, kinds_C[:width], codes_BC[b, :width], outputs
                last = now

    def learn_late(self, record: Mapping[str, NDArray[Any]], target: float, weight: float) -> None:
        """Learn an event that waited, as it was seen when it was foreseen."""
        sizes = self.pool.sizes
        columns, numeric, inputs = (int(size) for size in record["sizes"])
        answers_EK = record["answers"]
        before = Sizes(columns, numeric, inputs, self.pool.count_outputs(answers_EK))
        self._make_room(1)
        x_1C = np.full((1, sizes.num_columns), np.nan)
        x_1C[0, :columns] = record["x"]
        mode = LEARN
        if before.num_outputs == 0:  # nothing was answered: no label had come yet
            mode |= FORESEE | MIX
        else:
            self._view_BV[0, locate_view(before, sizes)] = record["view"]
            self._p_BEK[0] = self.pool.pad_answers(answers_EK)
        self._target_B[0], self._weight_B[0] = target, weight
        self._process(mode, x_1C)
        self._num_moves += 1
        self._fresh = None
