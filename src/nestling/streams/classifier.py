"""Classify events that come one by one, with drift, new classes and late labels."""

from collections.abc import Iterable, Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestling.core.errors import DataError, SettingError, suggest
from nestling.streams.event_run import EventRun
from nestling.streams.events.event_columns import EventColumns
from nestling.streams.expert_arrays import EXPERTS
from nestling.streams.labels import Label, SeenLabels, read_label
from nestling.streams.late_labels import EventId, WaitingEvents

Floats = NDArray[np.float64]


class StreamClassifier:
    """Online classifier for event streams: learns from every event, follows drift, keeps the old.

    Fourteen experts of different speeds answer each event, and a gate that hears of every label
    mixes them; see `docs/streams.md`. One default, no setting per stream.

    Args:
        seed: of all that is drawn.
        without: experts that take no part; see `expert_names`.
        max_waiting: most events that may wait for their labels.
        max_age: events after which one stops to wait.

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
        seed: int = 0,
        without: Sequence[str] = (),
        max_waiting: int = 10_000,
        max_age: int = 100_000,
    ) -> None:
        for name in without:
            if name not in EXPERTS:
                raise SettingError(f"no expert {name!r}; {suggest(name, EXPERTS)}")
        self.expert_names = tuple(name for name in EXPERTS if name not in without)
        if not self.expert_names:
            raise SettingError("no expert is left; leave out fewer")
        from nestling.streams.expert_pool import ExpertPool

        self._seen = SeenLabels()
        self._pool = ExpertPool(self.expert_names, seed)
        waiting = WaitingEvents(max_events=max_waiting, max_age=max_age)
        self._run = EventRun(EventColumns(), self._pool, waiting)

    @property
    def classes(self) -> list[Label]:
        """Classes seen, in the order in which they appeared."""
        return self._seen.labels

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
        if not len(self._seen):
            return {}
        return dict(zip(self._seen.labels, row.tolist(), strict=True))

    def predict_one(self, x: object = None, *, id: EventId | None = None) -> Label | None:
        """The most probable class; None before the first label. See `predict_proba_one`."""
        row = self._foresee_one(x, id)
        return self._seen[int(row.argmax())] if len(self._seen) else None

    def _foresee_one(self, x: object, event_id: EventId | None) -> Floats:
        run = self._run
        row_C = run.columns.encode_one(x, grow=event_id is not None)
        if event_id is None:
            if not len(self._seen):
                return np.zeros(0)
            return run.foresee(row_C[None])[0]
        run.fit_sizes(len(self._seen))
        return run.expect(row_C[None], event_id)[0]

    def learn_one(
        self,
        x: object = None,
        y: object = None,
        *,
        id: EventId | None = None,
        weight: float = 1.0,
    ) -> None:
        """Learn an event's label.

        Args:
            x: the event; leave it out where `id` names one that waits.
            y: its label: str, int or bool.
            id: of an event that was predicted with an id: what was seen then is learned.
            weight: how often the example counts.

        Raises:
            DataError: no label, an unknown id, an event that cannot be read; nothing changed then.
        """
        _check_weight(weight)
        run = self._run
        if id is not None:
            read_label(y)
            record, _ = run.waiting.take(id)
            label = self._seen.admit(y)
            run.fit_sizes(len(self._seen))
            run.learn_late(record, label, weight)
            return
        read_label(y)
        row_C = run.columns.encode_one(x, grow=True)
        label = self._seen.admit(y)
        run.fit_sizes(len(self._seen))
        run.learn(row_C[None], np.array([float(label)]), np.array([weight]))

    def predict_proba_many(self, X: object) -> Any:
        """Probabilities of a block of events (N, K); a frame with classes as columns for a frame.

        Args:
            X: pandas frame, 2-D array or tensor, or a list of events.
        """
        rows_NC = self._run.columns.encode_many(X, grow=False)
        if not len(self._seen):
            return np.zeros((len(rows_NC), 0))
        return self._run.foresee(rows_NC)

    def predict_many(self, X: object) -> list[Label | None]:
        """The most probable class of each event of a block."""
        p_NK = self.predict_proba_many(X)
        if not p_NK.shape[1]:
            return [None] * len(p_NK)
        labels = self._seen.labels
        return [labels[k] for k in p_NK.argmax(axis=1).tolist()]

    def learn_many(
        self, X: object, y: Iterable[object], *, weights: Iterable[float] | None = None
    ) -> None:
        """Learn a block of events in its order, bit for bit as `learn_one` would."""
        labels = list(y)
        for one in labels:
            read_label(one)
        run = self._run
        weight_N = np.ones(len(labels)) if weights is None else np.array(list(weights), dtype=float)
        for weight in weight_N.tolist():
            _check_weight(weight)
        num_events = len(X) if isinstance(X, Sized) else -1
        if not num_events == len(labels) == len(weight_N):
            raise DataError(
                f"{num_events} events, {len(labels)} labels and {len(weight_N)} weights; "
                "give one for each"
            )
        if not labels:
            return
        rows_NC = run.columns.encode_many(X, grow=True)
        label_N = np.array([float(self._seen.admit(one)) for one in labels])
        run.learn_block(rows_NC, label_N, weight_N)


def _check_weight(weight: float) -> None:
    if not (np.isfinite(weight) and weight >= 0.0):
        raise DataError(f"weight {weight}; a finite number from 0 works")
