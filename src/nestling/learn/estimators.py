"""Nested learning with scikit-learn's interface: `fit`, `partial_fit`, `predict`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nestling.core.errors import MissingExtra
from nestling.learn.learner import Learner
from nestling.learn.saving import export_learner_state, import_learner_state
from nestling.levels import Plan
from nestling.models import mlp

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise MissingExtra(
        "NestedClassifier needs scikit-learn: pip install 'nestling[data]'"
    ) from None

Array = NDArray[Any]
ModuleFactory = Callable[[int, int], nn.Module]


class _NestedEstimator(BaseEstimator):  # type: ignore[misc]
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
        self.module = module
        self.plan = plan
        self.hidden_sizes = hidden_sizes
        self.epochs = epochs
        self.batch_size = batch_size
        self.replay = replay
        self.random_state = random_state

    def _start(self, X: Array, num_outputs: int) -> None:
        """A new learner; inputs are scaled by what is known of them now."""
        self.mean_ = X.mean(axis=0)
        spread = X.std(axis=0)
        self.scale_ = np.where(spread > 0.0, spread, 1.0)
        self.num_outputs_ = num_outputs
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.learner_ = self._make_learner()

    def _make_learner(self) -> Learner:
        num_inputs, num_outputs = len(self.mean_), self.num_outputs_
        with _own_randomness(self.seed_):
            if self.module is None:
                model: nn.Module = mlp([num_inputs, *self.hidden_sizes, num_outputs])
            else:
                model = self.module(num_inputs, num_outputs)
        # In float64, so that an answer does not depend on which rows are asked together.
        return Learner(model.double(), self.plan, replay=self.replay, seed=self.seed_, quiet=True)

    def _learn(self, X: Array, y: Tensor, epochs: int) -> None:
        data = torch.utils.data.TensorDataset(self._read(X), y)
        shuffle = torch.Generator().manual_seed(self.seed_ + self.learner_.num_examples)
        loader = torch.utils.data.DataLoader(
            data, batch_size=self.batch_size, shuffle=True, generator=shuffle
        )
        with _own_randomness(self.seed_ + self.learner_.num_examples):
            self.learner_.fit(loader, epochs=epochs)

    def _read(self, X: Array) -> Tensor:
        return torch.from_numpy((X - self.mean_) / self.scale_)

    def _answer(self, X: Array) -> Array:
        check_is_fitted(self, "learner_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        answer: Array = self.learner_.predict(self._read(X)).double().numpy()
        return answer

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "learner_" in state:
            state["learner_"] = export_learner_state(state["learner_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("learner_", None)
        super().__setstate__(state)
        if saved is not None:
            self.learner_ = self._make_learner()
            import_learner_state(self.learner_, saved)


class NestedClassifier(ClassifierMixin, _NestedEstimator):  # type: ignore[misc]
    """A classifier that keeps learning with `partial_fit` and does not forget.

    Inputs are scaled to mean 0 and variance 1 by the data of `fit`, or of the first
    `partial_fit` (that much depends on the order; nothing else of the memory does).

    Args:
        module: (number of inputs, number of classes) -> network; None for a perceptron.
        plan: see `Learner`; None for the default plan.
        hidden_sizes: of the perceptron.
        epochs: passes over the data in `fit`; `partial_fit` makes one.
        batch_size: examples per step.
        replay: examples that may be stored; 0 for none.
        random_state: seed, or a NumPy RandomState.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = NestedClassifier(epochs=1, random_state=0).fit(X[:1000], y[:1000])
    >>> bool(model.score(X[1000:], y[1000:]) > 0.9)
    True
    """

    def fit(self, X: Array, y: Array) -> Self:
        """Learn from scratch: X (n, features), y (n,) labels of any kind."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        self._start(X, max(2, len(self.classes_)))
        self._learn(X, torch.from_numpy(index.astype(np.int64)), self.epochs)
        return self

    def partial_fit(self, X: Array, y: Array, classes: Array | None = None) -> Self:
        """Learn more: as `fit`, but on top of what is known.

        Args:
            X: (n, features).
            y: (n,) labels.
            classes: all labels that will ever come; needed at the first call only.
        """
        is_first = not hasattr(self, "learner_")
        X, y = validate_data(self, X, y, dtype=np.float64, reset=is_first)
        check_classification_targets(y)
        if is_first:
            if classes is None:
                raise ValueError("classes must be given at the first call of partial_fit")
            self.classes_ = np.unique(np.asarray(classes))
            self._start(X, max(2, len(self.classes_)))
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"label {unknown[0]!r} is not in classes {self.classes_.tolist()}")
        index = np.searchsorted(self.classes_, y).astype(np.int64)
        self._learn(X, torch.from_numpy(index), epochs=1)
        return self

    def predict_proba(self, X: Array) -> Array:
        """Class probabilities (n, classes), columns as in `classes_`."""
        answer = self._answer(X)
        wide = np.zeros((len(answer), len(self.classes_)))
        width = min(answer.shape[1], len(self.classes_))
        wide[:, :width] = answer[:, :width]
        total = wide.sum(axis=1, keepdims=True)
        return np.where(total > 0.0, wide / np.where(total > 0.0, total, 1.0), 1.0 / wide.shape[1])

    def predict(self, X: Array) -> Array:
        """The most probable label of each row, (n,)."""
        best: Array = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return best


class NestedRegressor(RegressorMixin, _NestedEstimator):  # type: ignore[misc]
    """A regressor that keeps learning with `partial_fit`; arguments of `NestedClassifier`.

    Targets are scaled as inputs are.
    """

    def fit(self, X: Array, y: Array) -> Self:
        """Learn from scratch: X (n, features), y (n,) or (n, outputs)."""
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        return self._fit(X, y, self.epochs, is_first=True)

    def partial_fit(self, X: Array, y: Array) -> Self:
        """Learn more: as `fit`, but on top of what is known; one pass."""
        is_first = not hasattr(self, "learner_")
        X, y = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, reset=is_first
        )
        return self._fit(X, y, 1, is_first=is_first)

    def _fit(self, X: Array, y: Array, epochs: int, *, is_first: bool) -> Self:
        targets = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        if is_first:
            self.is_flat_ = np.ndim(y) == 1
            self.target_mean_ = targets.mean(axis=0)
            spread = targets.std(axis=0)
            self.target_scale_ = np.where(spread > 0.0, spread, 1.0)
            self._start(X, targets.shape[1])
        scaled = (targets - self.target_mean_) / self.target_scale_
        self._learn(X, torch.from_numpy(scaled), epochs)
        return self

    def predict(self, X: Array) -> Array:
        """Values (n,) or (n, outputs), as the targets were given."""
        values = self._answer(X) * self.target_scale_ + self.target_mean_
        return values[:, 0] if self.is_flat_ else values


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Torch's own generator (initial weights, dropout) seeded inside, untouched outside."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield
