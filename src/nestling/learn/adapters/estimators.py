"""Nested learning with scikit-learn's interface: `fit`, `partial_fit`, `predict`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nestling.core.errors import DataError, MissingExtra, ModelError, SettingError, UnknownLabel
from nestling.core.seeds import make_generator
from nestling.learn.learner import Learner
from nestling.levels import Plan
from nestling.models import mlp

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise MissingExtra(
        "NestedClassifier and NestedRegressor need scikit-learn 1.6 or newer: "
        "pip install 'nestling[data]'"
    ) from None

Array = NDArray[Any]
ModuleFactory = Callable[[int, int], nn.Module]

_ANSWERED_AT_ONCE = 8192  # rows; bounds the memory that random features of many rows take


class _NestedEstimator(BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """What both estimators share; see `NestedClassifier`."""

    def __init__(
        self,
        module: ModuleFactory | None = None,
        plan: Plan | None = None,
        *,
        hidden_sizes: Sequence[int] = (64,),
        epochs: int = 10,
        batch_size: int = 32,
        replay: int = 0,
        random_state: Any = None,
    ) -> None:
        # Kept as they are, since `clone` wants the very objects back; `_start` checks them.
        self.module = module
        self.plan = plan
        self.hidden_sizes = hidden_sizes
        self.epochs = epochs
        self.batch_size = batch_size
        self.replay = replay
        self.random_state = random_state

    def _start(self, X: Array, num_outputs: int) -> None:
        """A new learner; inputs are scaled by what is known of them now."""
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}={getattr(self, name)}; 1 or more works")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.learner_ = self._make_learner(X.shape[1], num_outputs, seed)
        self.mean_, self.scale_ = _measure_scale(X)
        self.num_outputs_, self.seed_ = num_outputs, seed

    def _make_learner(self, num_inputs: int, num_outputs: int, seed: int) -> Learner:
        with _own_randomness(seed, "weights"):
            if self.module is None:
                model: nn.Module = mlp([num_inputs, *self.hidden_sizes, num_outputs])
            else:
                model = self.module(num_inputs, num_outputs)
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"module gave a {type(model).__name__}; a function (number of inputs, number of "
                "outputs) -> torch.nn.Module works"
            )
        # In float64, so that an answer does not depend on which rows are asked together.
        return Learner(model.double(), self.plan, replay=self.replay, seed=seed)

    def _learn(self, X: Array, target: Tensor, epochs: int) -> None:
        # The clock is a salt: what is drawn differs from call to call, but not from run to run.
        clock = self.learner_.counts.num_examples
        order = make_generator(self.seed_, "order", clock)
        batches = _ShuffledBatches(self._read(X), target, self.batch_size, order)
        with _own_randomness(self.seed_, "dropout", clock):
            self.learner_.fit(batches, epochs=epochs)

    def _read(self, X: Array) -> Tensor:
        return torch.from_numpy((X - self.mean_) / self.scale_)

    def _answer(self, X: Array, method: Literal["predict", "predict_proba"]) -> Array:
        check_is_fitted(self, "learner_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        ask = getattr(self.learner_, method)
        parts = self._read(X).split(_ANSWERED_AT_ONCE)
        return torch.cat([ask(rows) for rows in parts]).double().numpy()

    def __getstate__(self) -> dict[str, Any]:
        # A module that its user makes need not be picklable; what was learned is plain data.
        state = dict(super().__getstate__())
        if "learner_" in state:
            state["learner_"] = state["learner_"].state_dict()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.get("learner_")
        super().__setstate__({name: value for name, value in state.items() if name != "learner_"})
        if saved is not None:
            self.learner_ = self._make_learner(len(self.mean_), self.num_outputs_, self.seed_)
            with _own_randomness(self.seed_):  # a learner's state brings torch's generator along
                self.learner_.load_state_dict(saved)


class NestedClassifier(ClassifierMixin, _NestedEstimator):  # type: ignore[misc]
    """scikit-learn classifier that keeps learning with `partial_fit` without forgetting.

    Inputs are scaled to mean 0 and variance 1 by the data of `fit`, or of the first
    `partial_fit`: make that a block with more rows than a few. Torch's global random numbers
    are neither used nor changed.

    Args:
        module: (number of inputs, number of outputs) -> network of float inputs
            (N, inputs) and logits (N, outputs); None for a perceptron. Becomes float64.
        plan: see `Learner`; None for the default plan.
        hidden_sizes: units per hidden layer of the perceptron; not used with `module`.
        epochs: passes over the data in `fit`; `partial_fit` makes one.
        batch_size: examples per step, at most.
        replay: examples that may be stored; 0 for none.
        random_state: seed, a NumPy RandomState, or None for NumPy's global one.

    Attributes:
        classes_: the labels seen or declared so far, ascending.
        learner_: the `Learner` at work, on scaled inputs and labels numbered by arrival.
        n_features_in_: number of inputs.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = NestedClassifier(random_state=0).fit(X[::2], y[::2])
    >>> bool(model.score(X[1::2], y[1::2]) > 0.9)
    True
    """

    def fit(self, X: Array, y: Array) -> Self:
        """Learn from scratch: X (n, features) numbers, y (n,) labels of any kind.

        Raises:
            ValueError: scikit-learn cannot read X or y.
            SettingError: a parameter of the estimator, or the plan, cannot be carried out.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        classes, index = np.unique(y, return_inverse=True)
        self._open(X, classes, is_declared=False)
        self._learn(X, torch.from_numpy(index.astype(np.int64)), self.epochs)
        return self

    def partial_fit(self, X: Array, y: Array, classes: Array | None = None) -> Self:
        """Learn more, on top of what is known, in one pass; the first call is `fit` in one.

        Args:
            X: (n, features) numbers.
            y: (n,) labels.
            classes: at the first call, all labels that will ever come; others are errors then.
                None: new labels may come at any time.

        Raises:
            UnknownLabel: a label outside the declared classes; nothing is changed.
            DataError: labels of another kind; likewise.
            SettingError: other classes than before; likewise.
        """
        is_first = not hasattr(self, "learner_")
        X, y = validate_data(self, X, y, dtype=np.float64, reset=is_first)
        check_classification_targets(y)
        known, new = admit_labels(
            y,
            None if is_first else self.classes_,
            declared=classes,
            is_closed=not is_first and self.is_declared_,
        )
        if is_first:
            self._open(X, known, is_declared=classes is not None)
        if len(new):
            self._number(np.concatenate([self.labels_, new]))
        index = self.columns_[np.searchsorted(self.classes_, y)]
        self._learn(X, torch.from_numpy(index), epochs=1)
        return self

    def predict_proba(self, X: Array) -> Array:
        """Class probabilities (n, classes), columns as in `classes_`; each row sums to 1."""
        answer = self._answer(X, "predict_proba")
        # A memory has no column for classes that never came; a network has two outputs or more.
        num_missing = max(0, len(self.classes_) - answer.shape[1])
        wide = np.pad(answer, ((0, 0), (0, num_missing)))[:, self.columns_]
        total = wide.sum(axis=1, keepdims=True)
        shares = np.full_like(wide, 1.0 / wide.shape[1])
        np.divide(wide, total, out=shares, where=total > 0.0)
        return shares

    def predict(self, X: Array) -> Array:
        """The most probable label of each row, (n,)."""
        best: Array = self.predict_proba(X).argmax(axis=1)
        return np.take(self.classes_, best)

    def _open(self, X: Array, classes: Array, *, is_declared: bool) -> None:
        self._start(X, max(2, len(classes)))
        self.is_declared_ = is_declared
        self._number(classes)

    def _number(self, labels: Array) -> None:
        """Number labels by arrival, as the learner does, and show them in ascending order."""
        self.labels_, self.classes_ = labels, np.sort(labels)
        self.columns_ = np.argsort(labels)  # the learner's number of each of `classes_`


class NestedRegressor(RegressorMixin, _NestedEstimator):  # type: ignore[misc]
    """scikit-learn regressor that keeps learning with `partial_fit`; see `NestedClassifier`.

    Targets are scaled as inputs are, by the data of `fit` or of the first `partial_fit`.

    >>> from sklearn.datasets import load_iris
    >>> X, _ = load_iris(return_X_y=True)
    >>> model = NestedRegressor(random_state=0).fit(X[::2, :3], X[::2, 3])
    >>> bool(model.score(X[1::2, :3], X[1::2, 3]) > 0.9)
    True
    """

    def fit(self, X: Array, y: Array) -> Self:
        """Learn from scratch: X (n, features), y (n,) or (n, outputs); errors as above."""
        return self._fit(X, y, self.epochs, is_first=True)

    def partial_fit(self, X: Array, y: Array) -> Self:
        """Learn more, on top of what is known, in one pass; DataError for other outputs."""
        return self._fit(X, y, 1, is_first=not hasattr(self, "learner_"))

    def predict(self, X: Array) -> Array:
        """Values (n,) or (n, outputs), as the targets were given first."""
        values = self._answer(X, "predict") * self.target_scale_ + self.target_mean_
        return values[:, 0] if self.is_flat_ else values

    def _fit(self, X: Array, y: Array, epochs: int, *, is_first: bool) -> Self:
        checks = {"dtype": np.float64, "multi_output": True, "y_numeric": True}
        X, y = validate_data(self, X, y, reset=is_first, **checks)
        target = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        if is_first:
            self._start(X, target.shape[1])
            self.is_flat_ = np.ndim(y) == 1
            self.target_mean_, self.target_scale_ = _measure_scale(target)
        elif target.shape[1] != self.num_outputs_:
            raise DataError(f"y has {target.shape[1]} outputs; it had {self.num_outputs_} before")
        scaled = (target - self.target_mean_) / self.target_scale_
        self._learn(X, torch.from_numpy(scaled), epochs)
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def admit_labels(
    y: Array, known: Array | None, *, declared: Array | None, is_closed: bool
) -> tuple[Array, Array]:
    """Which labels of a call of `partial_fit` are known, and which come new.

    Args:
        y: (n,) labels.
        known: of the calls before, ascending; None at the first.
        declared: the argument `classes` of this call.
        is_closed: `classes` was given at the first call: no others may come.

    Returns: those known, ascending (at the first call: all), and the new ones.
    Raises:
        UnknownLabel: a label outside the declared classes.
        DataError: labels of another kind.
        SettingError: other classes than before.
    """
    found, given = np.unique(y), None if declared is None else np.unique(np.asarray(declared))
    if known is None:
        known = found if given is None else given
    if given is not None and not np.array_equal(given, known):
        raise SettingError(
            f"classes={given.tolist()} but they were {known.tolist()} before; leave them out"
        )
    if isinstance(found[0], str) != isinstance(known[0], str):
        raise DataError(
            f"labels such as {found.tolist()[0]!r} among {known.tolist()}; keep one kind"
        )
    new = np.setdiff1d(found, known)
    if len(new) and (given is not None or is_closed):
        raise UnknownLabel(
            f"label {new.tolist()[0]!r} is not in classes {known.tolist()}; declare it in the "
            "first call of partial_fit, or give no classes there"
        )
    return known, new


class _ShuffledBatches:
    """Batches (x, y) in a new order at every pass.

    All are about equally long: a last batch of one row could not pass batch norm.
    """

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator) -> None:
        self.x, self.y, self.generator = x, y, generator
        self.num_batches = -(-len(x) // batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=self.generator, device="cpu")
        for rows in order.tensor_split(self.num_batches):
            yield self.x[rows], self.y[rows]


def _measure_scale(values: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each column (n, columns); 1 where a column is constant."""
    mean, spread = values.mean(axis=0), values.std(axis=0)
    # Not by the spread alone: the mean of equal numbers rounds, so that theirs is not quite 0.
    is_constant = (np.ptp(values, axis=0) <= 1e-14 * np.abs(mean)) | (spread == 0.0)
    return mean, np.where(is_constant, 1.0, spread)


@contextmanager
def _own_randomness(seed: int, *salts: str | int) -> Iterator[None]:
    """Torch's own generator (initial weights, dropout) seeded inside, untouched outside."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(make_generator(seed, *salts).get_state())
        yield
