"""Stream learners as River's estimators: its pipelines, its evaluation, its checks."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nestling.core.errors import MissingExtra, UnknownEvent
from nestling.streams.classifier import StreamClassifier
from nestling.streams.labels import Label
from nestling.streams.late_labels import EventId
from nestling.streams.regressor import StreamRegressor

try:
    from river.base import MiniBatchClassifier, MiniBatchRegressor
except ImportError:
    raise MissingExtra(
        "RiverStreamClassifier and RiverStreamRegressor need River 0.22 or newer: "
        "pip install 'nestling[compat]'"
    ) from None

if TYPE_CHECKING:
    import pandas as pd

Features = Mapping[Any, Any]


class _NewColumns:
    """Bring new columns in the order of their names, as River's features have no order."""

    def __init__(self) -> None:
        self._known: set[object] = set()

    def sort(self, x: Features) -> Features:
        """The same features, in the order in which a learner shall meet them."""
        names = self._sort_names(x)
        return x if names is None else {name: x[name] for name in names}

    def sort_frame(self, X: "pd.DataFrame") -> "pd.DataFrame":
        """The same block, its columns in the order in which a learner shall meet them."""
        names = self._sort_names(X.columns)
        return X if names is None else X[names]

    def _sort_names(self, names: Collection[Any]) -> list[Any] | None:
        if self._known.issuperset(names):
            return None
        self._known.update(names)
        return sorted(names, key=lambda name: (str(type(name)), str(name)))


class RiverStreamClassifier(MiniBatchClassifier):
    """River classifier that follows drift and keeps what is old: `StreamClassifier` within.

    It is a `river.base.MiniBatchClassifier`: `clone`, pipelines, `progressive_val_score`, `w=`.
    Late labels: with `delay=`, River gives the features again, and they are learned as if they
    had come then. Where each event of the dataset is a triple `(x, y, {"id": ...})`, an event
    waits under its id from its prediction on, and what was seen then is learned.

    Args:
        seed, without, max_waiting, max_age: see `StreamClassifier`.

    Attributes:
        learner: the `StreamClassifier` at work.

    >>> from river import datasets, evaluate, metrics
    >>> events = datasets.Phishing().take(300)
    >>> score = evaluate.progressive_val_score(events, RiverStreamClassifier(), metrics.Accuracy())
    >>> score.get() > 0.8
    True
    """

    def __init__(
        self,
        seed: int = 0,
        without: Sequence[str] | None = None,
        max_waiting: int = 10_000,
        max_age: int = 100_000,
    ) -> None:
        # River reads the arguments back from attributes of the same names, and stumbles over
        # an empty tuple among them.
        self.seed, self.without = seed, without or None
        self.max_waiting, self.max_age = max_waiting, max_age
        self._columns = _NewColumns()
        self.learner = StreamClassifier(
            seed=seed, without=without or (), max_waiting=max_waiting, max_age=max_age
        )

    @property
    def _multiclass(self) -> bool:
        return True

    @property
    def _raw_memory_usage(self) -> int:
        # River would count an array again for each view of it.
        return self.learner.num_bytes

    @classmethod
    def _unit_test_params(cls) -> Iterator[dict[str, Any]]:
        yield {}

    # River passes on what a signature names; we name it instead of taking anything.
    def predict_proba_one(  # type: ignore[override]
        self, x: Features, *, id: EventId | None = None
    ) -> dict[Label, float]:
        """Probabilities of the classes seen so far; empty before the first label.

        Args:
            x: features.
            id: names the event, which then waits for its label.
        """
        if id is not None:
            x = self._columns.sort(x)
        return self.learner.predict_proba_one(x, id=id)

    def predict_one(  # type: ignore[override]
        self, x: Features, *, id: EventId | None = None
    ) -> Label | None:
        """The most probable class; None before the first label. See `predict_proba_one`."""
        if id is not None:
            x = self._columns.sort(x)
        return self.learner.predict_one(x, id=id)

    def learn_one(
        self, x: Features, y: Label, w: float = 1.0, *, id: EventId | None = None
    ) -> None:
        """Learn an event's label.

        Args:
            x: features.
            y: label.
            w: how often the example counts.
            id: of an event that waits; one that waits no more is learned as it is given here.
        """
        if id is not None:
            with contextlib.suppress(UnknownEvent):
                self.learner.learn_one(id=id, y=y, weight=w)
                return
        self.learner.learn_one(self._columns.sort(x), y, weight=w)

    def predict_proba_many(self, X: "pd.DataFrame") -> "pd.DataFrame":
        """Probabilities of a block of events, one column per class."""
        p_NK: pd.DataFrame = self.learner.predict_proba_many(X)
        return p_NK

    def predict_many(self, X: "pd.DataFrame") -> "pd.Series[Any]":
        """The most probable class of each event of a block."""
        found: pd.Series[Any] = self.learner.predict_many(X)
        return found

    def learn_many(
        self, X: "pd.DataFrame", y: "pd.Series[Any]", w: "float | pd.Series[float]" = 1.0
    ) -> None:
        """Learn a block of events in its order, bit for bit as `learn_one` would."""
        self.learner.learn_many(
            self._columns.sort_frame(X), y, weights=np.broadcast_to(np.asarray(w, float), len(y))
        )


class RiverStreamRegressor(MiniBatchRegressor):
    """River regressor that follows drift and keeps what is old: `StreamRegressor` within.

    See `RiverStreamClassifier` for late targets.

    Args:
        loss, quantile, interval, seed, without, max_waiting, max_age: see `StreamRegressor`.

    Attributes:
        learner: the `StreamRegressor` at work.

    >>> from river import datasets, evaluate, metrics
    >>> events = datasets.TrumpApproval().take(300)
    >>> score = evaluate.progressive_val_score(events, RiverStreamRegressor(), metrics.MAE())
    >>> score.get() < 1.0
    True
    """

    def __init__(
        self,
        loss: Literal["squared", "absolute", "quantile"] = "squared",
        quantile: float = 0.5,
        interval: float = 0.9,
        seed: int = 0,
        without: Sequence[str] | None = None,
        max_waiting: int = 10_000,
        max_age: int = 100_000,
    ) -> None:
        self.loss: Literal["squared", "absolute", "quantile"] = loss
        self.quantile, self.interval = quantile, interval
        self.seed, self.without = seed, without or None
        self.max_waiting, self.max_age = max_waiting, max_age
        self._columns = _NewColumns()
        self.learner = StreamRegressor(
            loss=loss,
            quantile=quantile,
            interval=interval,
            seed=seed,
            without=without or (),
            max_waiting=max_waiting,
            max_age=max_age,
        )

    @property
    def _raw_memory_usage(self) -> int:
        return self.learner.num_bytes

    @classmethod
    def _unit_test_params(cls) -> Iterator[dict[str, Any]]:
        yield {}
        yield {"loss": "quantile", "quantile": 0.8}

    def predict_one(self, x: Features, *, id: EventId | None = None) -> float:
        """The value of an event; 0 before the first target.

        Args:
            x: features.
            id: names the event, which then waits for its target.
        """
        if id is not None:
            x = self._columns.sort(x)
        return self.learner.predict_one(x, id=id)

    def learn_one(
        self, x: Features, y: float, w: float = 1.0, *, id: EventId | None = None
    ) -> None:
        """Learn an event's target; see `RiverStreamClassifier.learn_one`."""
        if id is not None:
            with contextlib.suppress(UnknownEvent):
                self.learner.learn_one(id=id, y=y, weight=w)
                return
        self.learner.learn_one(self._columns.sort(x), y, weight=w)

    def predict_many(self, X: "pd.DataFrame") -> "pd.Series[float]":
        """The value of each event of a block."""
        found: pd.Series[float] = self.learner.predict_many(X)
        return found

    def learn_many(
        self, X: "pd.DataFrame", y: "pd.Series[float]", w: "float | pd.Series[float]" = 1.0
    ) -> None:
        """Learn a block of events in its order, bit for bit as `learn_one` would."""
        self.learner.learn_many(
            self._columns.sort_frame(X), y, weights=np.broadcast_to(np.asarray(w, float), len(y))
        )
