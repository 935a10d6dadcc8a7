"""Predict numbers from events that come one by one, with drift, intervals and late targets."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nestling.core.errors import NonFiniteInput, SettingError
from nestling.core.locks import RemadeLock, locked
from nestling.levels import Held
from nestling.optim import OptimizerSpec
from nestling.protect.influence import SourceGuard
from nestling.streams.classifier import check_weight, choose_experts, read_weights
from nestling.streams.events.event_blocks import is_frame
from nestling.streams.experts.expert_arrays import VALUE_EXPERTS
from nestling.streams.late_labels import EventId
from nestling.streams.numba_extra import check_numba
from nestling.streams.restricted_stream import RestrictedStream
from nestling.streams.stream_readings import ConceptReading, StreamEvent
from nestling.streams.stream_sources import StreamSources, make_value_truth
from nestling.streams.stream_state import read_stream, remake_learner, to_plain, write_stream

if TYPE_CHECKING:
    from nestling.streams.experts.expert_levels import StreamLevels

Floats = NDArray[np.float64]


class StreamRegressor:
    """Online regression on event streams: learns from every event, follows drift, keeps the old.

    The experts of `StreamClassifier` answer values, in running deviations of the target; the gate
    mixes them by the loss that is wanted. `predict_interval_one` gives an interval whose coverage
    is followed and reported.

    Args:
        loss: "squared" foresees the mean, "absolute" the median, "quantile" a quantile.
        quantile: of the loss "quantile", in (0, 1).
        interval: share of targets that should lie in their intervals, in (0, 1).
        seed: of all that is drawn.
        without: experts that take no part; see `expert_names`.
        model: a torch module that is one more expert, "model": from numeric columns in running
            z-scores and one-hots of categories (B, D) to logits of the classes in the order in
            which they appear, or to one value; learned in place.
        optimizer: of that module; AdamW at 0.001 by default.
        max_waiting: most events that may wait for their targets.
        max_age: events after which one stops to wait.
        sources: bounds what one source of events can do; learning must then be told the source.

    Raises:
        MissingExtra: numba is not installed.
        SettingError: an argument outside its range.

    >>> learner = StreamRegressor()
    >>> for n in range(300):
    ...     learner.learn_one({"hour": n % 24}, y=2.0 * (n % 24))
    >>> round(learner.predict_one({"hour": 10}))
    20
    """

    def __init__(
        self,
        *,
        loss: Literal["squared", "absolute", "quantile"] = "squared",
        quantile: float = 0.5,
        interval: float = 0.9,
        seed: int = 0,
        without: Sequence[str] = (),
        model: nn.Module | None = None,
        optimizer: OptimizerSpec | None = None,
        max_waiting: int = 10_000,
        max_age: int = 100_000,
        sources: SourceGuard | None = None,
    ) -> None:
        if loss not in ("squared", "absolute", "quantile"):
            raise SettingError(f"loss {loss!r}; squared, absolute or quantile work")
        for name, share in (("quantile", quantile), ("interval", interval)):
            if not 0.0 < share < 1.0:
                raise SettingError(f"{name} {share}; a number between 0 and 1 works")
        # Kernels come with their learners, so that nobody else needs numba.
        check_numba()
        from nestling.streams.event_run import make_run

        self._lock = RemadeLock()
        self._arguments = {
            "loss": loss,
            "quantile": quantile,
            "interval": interval,
            "seed": seed,
            "without": tuple(without),
            "model": model,
            "optimizer": optimizer,
            "max_waiting": max_waiting,
            "max_age": max_age,
            "sources": sources,
        }
        self._sources = StreamSources(sources)
        self.loss = loss
        self._run = make_run(
            choose_experts(without, VALUE_EXPERTS),
            seed,
            max_waiting=max_waiting,
            max_age=max_age,
            model=model,
            optimizer=optimizer,
            classifies=False,
            quantile={"squared": None, "absolute": 0.5, "quantile": quantile}[loss],
            level=interval,
        )
        self._run.keeps_answers = sources is not None
        self.expert_names = self._run.pool.names

    @property
    def num_bytes(self) -> int:
        """Bytes of the state: experts, gate, and events that wait."""
        return self._run.pool.num_bytes + self._run.waiting.num_bytes

    @property
    def num_events(self) -> int:
        """Events that have happened."""
        return self._run.num_events

    @property
    def num_waiting(self) -> int:
        """Events that wait for their targets."""
        return self._run.waiting.num_waiting

    def is_waiting(self, id: EventId) -> bool:
        """Whether an event of this id waits for its target."""
        return id in self._run.waiting

    @property
    def mean_delay(self) -> float:
        """How many events late targets come, of late."""
        return self._run.waiting.mean_delay

    @property
    def coverage(self) -> float:
        """Share of targets that lay in their intervals, after the first hundred; NaN before."""
        return self._run.pool.read_coverage()

    @property
    def levels(self) -> "StreamLevels":
        """The experts as levels: read, control, digest each."""
        return self._run.levels

    def restricted_to(self, levels: Collection[str]) -> RestrictedStream:
        """Get what answers from some levels only, e.g. `["spine"]`."""
        return RestrictedStream(self._run, levels, self._lock)

    @locked
    def read_concepts(self) -> list[ConceptReading]:
        """The concepts that are kept, of each level the one in force first."""
        return self._run.read_concepts()

    @locked
    def read_events(self) -> list[StreamEvent]:
        """What happened to concepts and trees so far: new concepts, and restarts after drift."""
        return list(self._run.happened)

    @locked
    def take_events(self) -> list[Held]:
        """Take what was held since the last call: an event per source and rule, with its count."""
        return self._sources.take_events()

    @locked
    def predict_one(self, x: object = None, *, id: EventId | None = None) -> float:
        """The value of an event; 0 before the first target.

        Args:
            x: the event: a mapping of columns to values, or values by position.
            id: names the event, which then has happened and waits for its target; without one it
                is a query, which moves nothing.

        Raises:
            DataError: no event, or an id that waits already; nothing changed then.
        """
        run = self._run
        if id is None:
            row_C = run.columns.encode_one(x, grow=False)
            return float(run.foresee(row_C[None])[0, 0]) if run.pool.num_learned else 0.0
        run.waiting.check_new(id)
        row_C = run.columns.encode_one(x, grow=True)
        run.fit_sizes(1)
        return float(run.expect(row_C[None], id)[0, 0])

    @locked
    def predict_interval_one(self, x: object) -> tuple[float, float]:
        """Interval in which the target of an event should lie; without end before the first.

        Its bounds follow the errors, so that in the long run the share asked for lies inside
        whatever the stream does [Gibbs & Candes 2021]; see `coverage`.
        """
        if not self._run.pool.num_learned:
            return -float("inf"), float("inf")
        value = self.predict_one(x)
        low, high = self._run.pool.read_interval()
        return value + low, value + high

    @locked
    def learn_one(
        self,
        x: object = None,
        y: float | None = None,
        *,
        id: EventId | None = None,
        weight: float = 1.0,
        source: str | None = None,
    ) -> None:
        """Learn an event's target; see `StreamClassifier.learn_one`."""
        check_weight(weight)
        target = read_target(y)
        run = self._run
        names = self._sources.read(source, 1)
        if id is not None:
            record, _ = run.waiting.take(id)
            run.fit_sizes(1)
            if names is None:
                run.learn_late(record, target, weight)
            else:
                self._sources.learn_late(
                    run, record, names[0], weight, make_value_truth(run, target)
                )
            return
        row_C = run.columns.encode_one(x, grow=True)
        run.fit_sizes(1)
        if names is None:
            run.learn_event(row_C[None], target, float(weight))
        else:
            self._sources.learn_event(
                run, row_C[None], names[0], weight, make_value_truth(run, target)
            )

    @locked
    def predict_many(self, X: object) -> Any:
        """The value of each event of a block: an array; of a frame, a Series."""
        rows_NC = self._run.columns.encode_many(X, grow=False)
        values_N = np.zeros(len(rows_NC))
        if len(rows_NC) and self._run.pool.num_learned:
            values_N = self._run.foresee(rows_NC)[:, 0]
        if not is_frame(X):
            return values_N
        import pandas as pd

        return pd.Series(values_N, index=X.index)

    @locked
    def learn_many(
        self,
        X: object,
        y: Iterable[float],
        *,
        weights: Iterable[float] | None = None,
        source: str | Iterable[str] | None = None,
    ) -> None:
        """Learn a block of events in its order, bit for bit as `learn_one` would.

        Args:
            X: pandas frame, 2-D array or tensor, or a list of events.
            y: target of each.
            weights: of each, 1 unless given.
            source: of all events, or of each; see `StreamClassifier.learn_one`.
        """
        targets = [read_target(one) for one in y]
        weight_N = read_weights(X, targets, weights)
        names = self._sources.read(source, len(targets))
        if not targets:
            return
        run = self._run
        rows_NC = run.columns.encode_many(X, grow=True)
        if names is None:
            run.learn_block(rows_NC, np.array(targets), weight_N)
            return
        truths = [make_value_truth(run, one) for one in targets]
        self._sources.learn_block(run, rows_NC, names, weight_N, truths)

    @locked
    def state_dict(self) -> dict[str, Any]:
        """All that the next answer and the next update depend on; tensors are copies."""
        return self._sources.add_to({"loss": self.loss, "run": self._run.state_dict()})

    @locked
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken; see `StreamClassifier.load_state_dict`."""
        self._sources.load_with(state, lambda: self._run.load_state_dict(state["run"]))

    def snapshot(self, path: Path | str) -> None:
        """Save everything in a folder, atomically: JSON and safetensors, a file for each level."""
        write_stream(Path(path), self.state_dict())

    def restore(self, path: Path | str) -> None:
        """Go on exactly where `snapshot` was taken; see `StreamClassifier.restore`."""
        self.load_state_dict(read_stream(Path(path)))

    def __reduce__(self) -> tuple[Any, ...]:
        # Kernels and their arrays stay behind: what was learned is plain data.
        return remake_learner, (type(self), self._arguments, to_plain(self.state_dict()))


def read_target(y: object) -> float:
    """A target as a float.

    Raises:
        NonFiniteInput: no number, or none that is finite.

    >>> read_target(np.float32(1.5))
    1.5
    """
    try:
        value = float(y)  # type: ignore[arg-type]  # whatever cannot is refused
    except (TypeError, ValueError):
        value = float("nan")
    if not np.isfinite(value) or isinstance(y, str):
        raise NonFiniteInput(f"target {str(y)[:60]!r}; give a finite number")
    return value
