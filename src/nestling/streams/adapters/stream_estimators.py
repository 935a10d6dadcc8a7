"""Stream learners with scikit-learn's interface: `partial_fit` event by event, in their order."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

# It says which extra is missing where there is no scikit-learn.
from nestling.learn.adapters.estimators import admit_labels  # isort: skip
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from nestling.streams.classifier import StreamClassifier
from nestling.streams.events.event_blocks import is_frame
from nestling.streams.regressor import StreamRegressor

Array = NDArray[Any]


class _StreamEstimator(BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """What both estimators share; see `NestedStreamClassifier`."""

    def _check(
        self, X: Any, y: Any, sample_weight: Any, *, is_first: bool, is_numeric: bool
    ) -> tuple[Any, Array, Array]:
        """Events, targets (n,) and weights (n,)."""
        if _has_other_than_numbers(X):
            validate_data(self, X, y, reset=is_first, skip_check_array=True)
            y = column_or_1d(y, warn=True, dtype=np.float64 if is_numeric else None)
            check_consistent_length(X, y)
            X = _number_columns(X)
        else:
            checks = {"dtype": np.float64, "ensure_all_finite": "allow-nan"}
            X, y = validate_data(self, X, y, reset=is_first, y_numeric=is_numeric, **checks)
        weight_N = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        return X, y, weight_N

    def _read(self, X: Any) -> Any:
        """Events to be answered."""
        check_is_fitted(self, "learner_")
        if _has_other_than_numbers(X):
            validate_data(self, X, reset=False, skip_check_array=True)
            return _number_columns(X)
        checks = {"dtype": np.float64, "ensure_all_finite": "allow-nan"}
        return validate_data(self, X, reset=False, **checks)

    def _draw_seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class NestedStreamClassifier(ClassifierMixin, _StreamEstimator):  # type: ignore[misc]
    """scikit-learn classifier for streams: learns event by event, follows drift, keeps the old.

    Rows are learned in the order in which they stand, each once. X holds numbers, NaN where one
    is missing; a frame may hold text, categories, booleans and dates as well. Late labels need
    ids, which scikit-learn has no word for: use `StreamClassifier` for them.

    Args:
        without: experts that take no part; see `StreamClassifier`.
        random_state: seed, a NumPy RandomState, or None for NumPy's global one.

    Attributes:
        classes_: the labels seen or declared so far, ascending.
        learner_: the `StreamClassifier` at work, on labels numbered by arrival.
        n_features_in_: number of columns.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> order = np.random.default_rng(0).permutation(150)
    >>> model = NestedStreamClassifier(random_state=0).fit(X[order[:100]], y[order[:100]])
    >>> bool(model.score(X[order[100:]], y[order[100:]]) > 0.9)
    True
    """

    classes_: Array
    labels_: Array  # by the numbers that the learner knows them by
    is_declared_: bool
    learner_: StreamClassifier

    def __init__(self, *, without: Sequence[str] = (), random_state: Any = None) -> None:
        self.without = without
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from scratch: X (n, features), y (n,) labels of any kind, in their order.

        Raises:
            ValueError: scikit-learn cannot read X or y.
            SettingError: an expert that there is not.
        """
        return self._learn(X, y, None, sample_weight, is_first=True)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn more, on top of what is known; the first call is `fit`.

        Args:
            X: (n, features).
            y: (n,) labels.
            classes: at the first call, all labels that will ever come; others are errors then.
                None: new labels may come at any time.
            sample_weight: (n,) how often each example counts; None for 1.

        Raises:
            UnknownLabel: a label outside the declared classes; nothing is changed.
            DataError: labels of another kind; likewise.
            SettingError: other classes than before; likewise.
        """
        return self._learn(X, y, classes, sample_weight, is_first=not hasattr(self, "learner_"))

    def _learn(self, X: Any, y: Any, classes: Any, sample_weight: Any, *, is_first: bool) -> Self:
        X, y, weight_N = self._check(X, y, sample_weight, is_first=is_first, is_numeric=False)
        check_classification_targets(y)
        known, new = admit_labels(
            y,
            None if is_first else self.classes_,
            declared=classes,
            is_closed=not is_first and self.is_declared_,
        )
        # Numbered by arrival, so that a number stays when more labels come.
        labels = known if is_first else np.concatenate([self.labels_, new])
        order = np.argsort(labels)
        index = order[np.searchsorted(labels[order], y)]
        learner = None if is_first else self.learner_
        if learner is None:
            learner = StreamClassifier(seed=self._draw_seed(), without=self.without)
        learner.learn_many(X, index.tolist(), weights=weight_N)
        self.learner_, self.labels_, self.classes_ = learner, labels, labels[order]
        if is_first:
            self.is_declared_ = classes is not None
        return self

    def predict_proba(self, X: Any) -> Array:
        """Class probabilities (n, classes), columns as in `classes_`; each row sums to 1."""
        events = self._read(X)
        answer = np.asarray(self.learner_.predict_proba_many(events))
        wide = np.zeros((len(answer), len(self.classes_)))
        # A declared class that never came has no probability yet.
        places = np.searchsorted(self.classes_, self.labels_[np.array(self.learner_.classes)])
        wide[:, places] = answer
        return wide

    def predict(self, X: Any) -> Array:
        """The most probable label of each row, (n,)."""
        best: Array = self.predict_proba(X).argmax(axis=1)
        return np.take(self.classes_, best)


class NestedStreamRegressor(RegressorMixin, _StreamEstimator):  # type: ignore[misc]
    """scikit-learn regressor for streams, with `partial_fit`; see `NestedStreamClassifier`.

    Args:
        loss, quantile: see `StreamRegressor`.
        without: experts that take no part.
        random_state: seed, a NumPy RandomState, or None for NumPy's global one.

    >>> from sklearn.datasets import load_iris
    >>> X, _ = load_iris(return_X_y=True)
    >>> order = np.random.default_rng(0).permutation(150)
    >>> train, test = X[order[:100]], X[order[100:]]
    >>> model = NestedStreamRegressor(random_state=0).fit(train[:, :3], train[:, 3])
    >>> bool(model.score(test[:, :3], test[:, 3]) > 0.8)
    True
    """

    learner_: StreamRegressor

    def __init__(
        self,
        *,
        loss: Literal["squared", "absolute", "quantile"] = "squared",
        quantile: float = 0.5,
        without: Sequence[str] = (),
        random_state: Any = None,
    ) -> None:
        self.loss = loss
        self.quantile = quantile
        self.without = without
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from scratch: X (n, features), y (n,); errors as of `NestedStreamClassifier`."""
        return self._learn(X, y, sample_weight, is_first=True)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn more, on top of what is known; the first call is `fit`."""
        return self._learn(X, y, sample_weight, is_first=not hasattr(self, "learner_"))

    def _learn(self, X: Any, y: Any, sample_weight: Any, *, is_first: bool) -> Self:
        X, y, weight_N = self._check(X, y, sample_weight, is_first=is_first, is_numeric=True)
        learner = None if is_first else self.learner_
        if learner is None:
            learner = StreamRegressor(
                loss=self.loss,
                quantile=self.quantile,
                seed=self._draw_seed(),
                without=self.without,
            )
        learner.learn_many(X, y, weights=weight_N)
        self.learner_ = learner
        return self

    def predict(self, X: Any) -> Array:
        """Values (n,), in units of the targets."""
        events = self._read(X)
        return np.asarray(self.learner_.predict_many(events))


def _has_other_than_numbers(X: object) -> bool:
    """Whether it is a frame with columns that the learner reads better than scikit-learn."""
    return is_frame(X) and not all(
        isinstance(dtype, np.dtype) and dtype.kind in "fiub" for dtype in X.dtypes
    )


def _number_columns(X: Any) -> Any:
    """A frame with its columns named by their places, as those of arrays are."""
    return X.set_axis(range(X.shape[1]), axis=1)
