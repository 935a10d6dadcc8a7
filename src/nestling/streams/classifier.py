"""Classify events that come one by one, with drift, new classes and late labels."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nestling.core.errors import DataError, ForeignSnapshot, SettingError, suggest
from nestling.core.locks import RemadeLock, locked
from nestling.levels import Held
from nestling.optim import OptimizerSpec
from nestling.protect.influence import SourceGuard
from nestling.streams.events.event_blocks import is_frame
from nestling.streams.experts.expert_arrays import CLASS_EXPERTS
from nestling.streams.labels import Label, SeenLabels, read_label
from nestling.streams.late_labels import EventId
from nestling.streams.numba_extra import check_numba
from nestling.streams.restricted_stream import RestrictedStream
from nestling.streams.stream_readings import ConceptReading, StreamEvent
from nestling.streams.stream_sources import StreamSources, make_label_truth
from nestling.streams.stream_state import read_stream, remake_learner, to_plain, write_stream

if TYPE_CHECKING:
    from nestling.streams.experts.expert_levels import StreamLevels

Floats = NDArray[np.float64]


def choose_experts(without: Sequence[str], known: Sequence[str] = CLASS_EXPERTS) -> tuple[str, ...]:
    """Names of the experts that take part.

    Args:
        without: those that do not.
        known: all of them.

    Raises:
        SettingError: one that there is not, or none is left.

    >>> choose_experts(["tree"], ["tree", "labels"])
    ('labels',)
    """
    for name in without:
        if name not in known:
            raise SettingError(f"no expert {name!r}; {suggest(name, known)}")
    names = tuple(name for name in known if name not in without)
    if not names:
        raise SettingError("no expert is left; leave out fewer")
    return names


class StreamClassifier:
    """Online classifier for event streams: learns from every event, follows drift, keeps the old.

    Eleven experts of different speeds answer each event, and a gate that hears of every label
    mixes them; see `docs/streams.md`. One default, no setting per stream.

    Args:
        classes: labels that are known to come, so that the first events can be answered before the
            first label; others are learned as they appear all the same.
        seed: of all that is drawn.
        without: experts that take no part; see `expert_names`.
        model: a torch module that is one more expert, "model": from numeric columns in running
            z-scores and one-hots of categories (B, D) to logits of the classes in the order in
            which they appear, or to one value; learned in place.
        optimizer: of that module; AdamW at 0.001 by default.
        max_waiting: most events that may wait for their labels.
        max_age: events after which one stops to wait.
        sources: bounds what one source of events can do; learning must then be told the source.

    Raises:
        MissingExtra: numba is not installed.
        SettingError: an expert that there is not.

    >>> learner = StreamClassifier()
    >>> for n in range(200):
    ...     x = {"amount": float(n % 10), "country": "de" if n % 3 else "fr"}
    ...     learner.learn_one(x, y=n % 10 > 5)
    >>> learner.predict_one({"amount": 8.0, "country": "fr"})
    True
    """

    def __init__(
        self,
        *,
        classes: Iterable[Label] = (),
        seed: int = 0,
        without: Sequence[str] = (),
        model: nn.Module | None = None,
        optimizer: OptimizerSpec | None = None,
        max_waiting: int = 10_000,
        max_age: int = 100_000,
        sources: SourceGuard | None = None,
    ) -> None:
        # Kernels come with their learners, so that nobody else needs numba.
        check_numba()
        from nestling.streams.event_run import make_run

        self._lock = RemadeLock()
        self._arguments = {
            "classes": (known := tuple(classes)),
            "seed": seed,
            "without": tuple(without),
            "model": model,
            "optimizer": optimizer,
            "max_waiting": max_waiting,
            "max_age": max_age,
            "sources": sources,
        }
        self._sources = StreamSources(sources)
        self._seen = SeenLabels()
        for label in known:
            self._seen.admit(label)
        self._run = make_run(
            choose_experts(without),
            seed,
            model=model,
            optimizer=optimizer,
            max_waiting=max_waiting,
            max_age=max_age,
        )
        self._run.keeps_answers = sources is not None
        self.expert_names = self._run.pool.names

    @property
    def classes(self) -> list[Label]:
        """Classes seen, in the order in which they appeared."""
        return self._seen.labels

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
        """Events that wait for their labels."""
        return self._run.waiting.num_waiting

    def is_waiting(self, id: EventId) -> bool:
        """Whether an event of this id waits for its label."""
        return id in self._run.waiting

    @property
    def mean_delay(self) -> float:
        """How many events late labels come, of late."""
        return self._run.waiting.mean_delay

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
    def predict_proba_one(
        self, x: object = None, *, id: EventId | None = None
    ) -> dict[Label, float]:
        """Probabilities of the classes seen so far; empty before the first label.

        Args:
            x: the event: a mapping of columns to values, or values by position.
            id: names the event, which then has happened and waits for its label; without one it is
                a query, which moves nothing.

        Raises:
            DataError: no event, or an id that waits already; nothing changed then.
        """
        row = self._foresee_one(x, id)
        if not len(row):
            return {}
        return dict(zip(self._seen.labels, row.tolist(), strict=True))

    @locked
    def predict_one(self, x: object = None, *, id: EventId | None = None) -> Label | None:
        """The most probable class; None before the first label. See `predict_proba_one`."""
        row = self._foresee_one(x, id)
        return self._seen[int(row.argmax())] if len(row) else None

    def _foresee_one(self, x: object, event_id: EventId | None) -> Floats:
        run = self._run
        if event_id is not None:
            run.waiting.check_new(event_id)
        row_C = run.columns.encode_one(x, grow=event_id is not None)
        if event_id is None:
            if not run.pool.sizes.num_outputs:
                return np.full(len(self._seen), 1.0 / max(len(self._seen), 1))
            return cast(Floats, run.foresee(row_C[None])[0])
        run.fit_sizes(len(self._seen))
        return cast(Floats, run.expect(row_C[None], event_id)[0])

    @locked
    def learn_one(
        self,
        x: object = None,
        y: object = None,
        *,
        id: EventId | None = None,
        weight: float = 1.0,
        source: str | None = None,
    ) -> None:
        """Learn an event's label.

        Args:
            x: the event; leave it out where `id` names one that waits.
            y: its label: str, int or bool.
            id: of an event that was predicted with an id: what was seen then is learned.
            weight: how often the example counts.
            source: where the label comes from; with a guard (`sources`) the event may be held.

        Raises:
            DataError: no label, an unknown id, an event that cannot be read; nothing changed then.
            SettingError: there is a guard, and no source.
        """
        check_weight(weight)
        label = read_label(y)
        run = self._run
        names = self._sources.read(source, 1)
        if id is not None:
            record, _ = run.waiting.take(id)
            if names is not None:
                truth = make_label_truth(run, self._seen, label)
                self._sources.learn_late(run, record, names[0], weight, truth)
                return
            place = self._seen.admit(label)
            run.fit_sizes(len(self._seen))
            run.learn_late(record, place, weight)
            return
        row_C = run.columns.encode_one(x, grow=True)
        if names is not None:
            run.fit_sizes(run.pool.sizes.num_outputs)
            truth = make_label_truth(run, self._seen, label)
            self._sources.learn_event(run, row_C[None], names[0], weight, truth)
            return
        place = self._seen.admit(label)
        run.fit_sizes(len(self._seen))
        run.learn_event(row_C[None], float(place), float(weight))

    @locked
    def predict_proba_many(self, X: object) -> Any:
        """Probabilities of a block of events (N, K), classes in the order of `classes`.

        Args:
            X: pandas frame, 2-D array or tensor, or a list of events.

        Returns: an array; of a frame, a frame with the same index and the classes as columns.
        """
        p_NK = self._foresee_many(X)
        if not is_frame(X):
            return p_NK
        import pandas as pd

        return pd.DataFrame(p_NK, index=X.index, columns=pd.Index(self._seen.labels, dtype=object))

    def _foresee_many(self, X: object) -> Floats:
        rows_NC = self._run.columns.encode_many(X, grow=False)
        if not self._run.pool.sizes.num_outputs or not len(rows_NC):
            num_classes = len(self._seen)
            return np.full((len(rows_NC), num_classes), 1.0 / max(num_classes, 1))
        return self._run.foresee(rows_NC)

    @locked
    def predict_many(self, X: object) -> Any:
        """The most probable class of each event of a block: a list; of a frame, a Series."""
        p_NK, labels = self._foresee_many(X), self._seen.labels
        found = [labels[k] if labels else None for k in p_NK.argmax(axis=1)] if len(labels) else []
        found = found if labels else [None] * len(p_NK)
        if not is_frame(X):
            return found
        import pandas as pd

        return pd.Series(found, index=X.index, dtype=object)

    @locked
    def learn_many(
        self,
        X: object,
        y: Iterable[object],
        *,
        weights: Iterable[float] | None = None,
        source: str | Iterable[str] | None = None,
    ) -> Floats:
        """Learn a block of events in its order, bit for bit as `learn_one` would.

        Args:
            X: pandas frame, 2-D array or tensor, or a list of events.
            y: label of each.
            weights: of each, 1 unless given.
            source: of all events, or of each; see `learn_one`.

        Returns: (N, K) what was answered to each event before it was learned, classes in the order
            of `classes`: test then learn in one go. 0 for classes that came later.
        """
        labels = [read_label(one) for one in y]
        weight_N = read_weights(X, labels, weights)
        names = self._sources.read(source, len(labels))
        if not labels:
            return np.zeros((0, len(self._seen)))
        rows_NC = self._run.columns.encode_many(X, grow=True)
        if names is not None:
            truths = [make_label_truth(self._run, self._seen, one) for one in labels]
            return self._sources.learn_block(self._run, rows_NC, names, weight_N, truths)
        place_N = np.array([float(self._seen.admit(one)) for one in labels])
        return self._run.learn_block(rows_NC, place_N, weight_N)

    @locked
    def state_dict(self) -> dict[str, Any]:
        """All that the next answer and the next update depend on; tensors are copies."""
        state = {"labels": self._seen.state_dict(), "run": self._run.state_dict()}
        return self._sources.add_to(state)

    @locked
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            ForeignSnapshot: of other experts, another seed or guard; nothing changed then.
        """
        if "labels" not in state:
            raise ForeignSnapshot("the state has no labels; it is not of a StreamClassifier")
        seen = SeenLabels()
        seen.load_state_dict(state["labels"])
        self._sources.load_with(state, lambda: self._run.load_state_dict(state["run"]))
        self._seen = seen

    def snapshot(self, path: Path | str) -> None:
        """Save everything in a folder, atomically: JSON and safetensors, a file for each level."""
        write_stream(Path(path), self.state_dict())

    def restore(self, path: Path | str) -> None:
        """Go on exactly where `snapshot` was taken, in a learner made with the same arguments.

        Raises:
            SnapshotError: missing, damaged, or of another learner; nothing changed then.
        """
        self.load_state_dict(read_stream(Path(path)))

    def __reduce__(self) -> tuple[Any, ...]:
        # Kernels and their arrays stay behind: what was learned is plain data.
        return remake_learner, (type(self), self._arguments, to_plain(self.state_dict()))


def check_weight(weight: float) -> None:
    """Raise DataError unless an example may count so often."""
    if not (math.isfinite(weight) and weight >= 0.0):
        raise DataError(f"weight {weight}; a finite number from 0 works")


def read_weights(X: object, targets: Sized, weights: Iterable[float] | None) -> Floats:
    """Weights of a block of events, 1 unless given.

    Raises:
        DataError: not as many as events and targets, or one that is negative or not finite.
    """
    weight_N = np.ones(len(targets)) if weights is None else np.array(list(weights), dtype=float)
    num_events = len(X) if isinstance(X, Sized) else -1
    if not num_events == len(targets) == len(weight_N):
        raise DataError(
            f"{num_events} events, {len(targets)} targets and {len(weight_N)} weights; give one "
            "for each"
        )
    for weight in weight_N.tolist():
        check_weight(weight)
    return weight_N
