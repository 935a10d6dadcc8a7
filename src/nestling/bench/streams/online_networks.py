"""A plain network that learns a stream event by event, as most would write it: the rival.

Numeric columns are standardised by what came so far, categories one-hot as they appear, two
hidden layers of 64 ReLU, one step per event. In numpy, where a step costs less than torch's
calls. Axis letters: D inputs, H hidden units, K classes, N rows.
"""

import itertools
import math
from collections.abc import Hashable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rule = Literal["sgd", "adamw"]

NUM_HIDDEN = 64
SGD_RATE = 0.05
ADAMW_RATE, DECAY, BETAS, EPSILON = 0.001, 0.01, (0.9, 0.999), 1e-8  # torch's defaults
BATCH = 32  # rows of a step with replay: the event, and others that were drawn


class GrowingColumns:
    """Columns of numbers made of events: z-scores by Welford, and one-hots that are found."""

    def __init__(self) -> None:
        self._places: dict[Hashable, int] = {}
        self._count = np.zeros(0)
        self._mean = np.zeros(0)
        self._spread = np.zeros(0)

    @property
    def num_columns(self) -> int:
        """Columns found so far."""
        return len(self._mean)

    def observe(self, x: Mapping[Any, Any]) -> None:
        """Take an event into the means and spreads, and its words into the columns."""
        for name, value in x.items():
            is_word = isinstance(value, str)
            key = (name, value) if is_word else (name,)
            if key not in self._places:
                self._places[key] = self.num_columns
                self._count, self._mean, self._spread = (
                    np.append(one, 0.0) for one in (self._count, self._mean, self._spread)
                )
            if not is_word:
                place = self._places[key]
                self._count[place] += 1.0
                apart = float(value) - self._mean[place]
                self._mean[place] += apart / self._count[place]
                self._spread[place] += apart * (float(value) - self._mean[place])

    def encode(self, x: Mapping[Any, Any]) -> Array:
        """The columns of an event, (D,); what was never seen has none."""
        row_D = np.zeros(self.num_columns)
        for name, value in x.items():
            is_word = isinstance(value, str)
            place = self._places.get((name, value) if is_word else (name,))
            if place is None:
                continue
            if is_word:
                row_D[place] = 1.0
            elif self._spread[place] > 0.0:
                deviation = math.sqrt(self._spread[place] / self._count[place])
                row_D[place] = (float(value) - self._mean[place]) / deviation
        return row_D


class OnlineNetwork:
    """D - 64 - 64 - K ReLU network by SGD .05 or AdamW .001, with or without replay.

    Args:
        rule: of the step.
        seed: of weights and draws.
        replay: events of the reservoir; 0 for none. With it a step takes the event and 31 others.
    """

    def __init__(self, rule: Rule, seed: int, replay: int = 0) -> None:
        self._rule = rule
        self._random = np.random.default_rng(seed)
        self._columns = GrowingColumns()
        self._classes: dict[Hashable, int] = {}
        sizes = (0, NUM_HIDDEN, NUM_HIDDEN, 0)
        self._weights = [self._draw(a, b, a) for a, b in itertools.pairwise(sizes)]
        self._weights += [self._draw(1, b, a)[0] for a, b in itertools.pairwise(sizes)]
        self._first = [np.zeros_like(one) for one in self._weights]
        self._second = [np.zeros_like(one) for one in self._weights]
        self._num_steps = 0
        self._replay = replay
        self._num_seen = 0
        self._held: list[tuple[dict[Any, Any], int]] = []

    def predict_proba_one(self, x: Mapping[Any, Any]) -> dict[Any, float]:
        """Probabilities of the labels seen so far; empty before the first."""
        if not self._classes:
            return {}
        p_K = self.answer(self._columns.encode(x)[None])[0]
        return dict(zip(self._classes, p_K.tolist(), strict=True))

    def learn_one(self, x: Mapping[Any, Any], y: Hashable) -> None:
        """One step on the event, with replay on 31 others besides."""
        self._columns.observe(x)
        self._classes.setdefault(y, len(self._classes))
        self._grow()
        rows = [(dict(x), self._classes[y])]
        if self._held:
            drawn = self._random.integers(len(self._held), size=BATCH - 1)
            rows += [self._held[place] for place in drawn]
        x_ND = np.stack([self._columns.encode(one) for one, _ in rows])
        self.step(x_ND, np.array([label for _, label in rows]))
        self._hold(rows[0])

    def answer(self, x_ND: Array) -> Array:
        """Probabilities, (N, K)."""
        return self._forward(x_ND)[-1]

    def measure_gradients(self, x_ND: Array, y_N: NDArray[np.int64]) -> list[Array]:
        """Gradients of the mean cross-entropy: three matrices, then three biases."""
        first_NH, second_NH, p_NK = self._forward(x_ND)
        error_NK = p_NK.copy()
        error_NK[np.arange(len(y_N)), y_N] -= 1.0
        error_NK /= len(y_N)
        error_2_NH = (error_NK @ self._weights[2].T) * (second_NH > 0.0)
        error_1_NH = (error_2_NH @ self._weights[1].T) * (first_NH > 0.0)
        return [
            x_ND.T @ error_1_NH,
            first_NH.T @ error_2_NH,
            second_NH.T @ error_NK,
            error_1_NH.sum(axis=0),
            error_2_NH.sum(axis=0),
            error_NK.sum(axis=0),
        ]

    def step(self, x_ND: Array, y_N: NDArray[np.int64]) -> None:
        """One step of the rule on rows whose columns are known."""
        gradients = self.measure_gradients(x_ND, y_N)
        self._num_steps += 1
        if self._rule == "sgd":
            for weight, gradient in zip(self._weights, gradients, strict=True):
                weight -= SGD_RATE * gradient
            return
        unbias_1, unbias_2 = (1.0 - beta**self._num_steps for beta in BETAS)
        for weight, gradient, first, second in zip(
            self._weights, gradients, self._first, self._second, strict=True
        ):
            first += (1.0 - BETAS[0]) * (gradient - first)
            second += (1.0 - BETAS[1]) * (gradient * gradient - second)
            weight *= 1.0 - ADAMW_RATE * DECAY
            weight -= ADAMW_RATE / unbias_1 * first / (np.sqrt(second / unbias_2) + EPSILON)

    def _forward(self, x_ND: Array) -> tuple[Array, Array, Array]:
        w_1, w_2, w_3, b_1, b_2, b_3 = self._weights
        # A column that the event brings is not among the weights before it is learned.
        first_NH = np.maximum(x_ND[:, : len(w_1)] @ w_1 + b_1, 0.0)
        second_NH = np.maximum(first_NH @ w_2 + b_2, 0.0)
        logits_NK = second_NH @ w_3 + b_3
        p_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
        return first_NH, second_NH, p_NK / p_NK.sum(axis=1, keepdims=True)

    def _draw(self, num_in: int, num_out: int, fan_in: int) -> Array:
        bound = 1.0 / math.sqrt(max(1, fan_in))  # torch's default of a linear layer
        return self._random.uniform(-bound, bound, (num_in, num_out))

    def _grow(self) -> None:
        """Rows for columns, and columns for classes, that the network does not have yet."""
        num_columns, num_classes = self._columns.num_columns, len(self._classes)
        new = num_columns - len(self._weights[0])
        if new:
            self._extend(0, self._draw(new, NUM_HIDDEN, num_columns), axis=0)
        new = num_classes - self._weights[2].shape[1]
        if new:
            self._extend(2, self._draw(NUM_HIDDEN, new, NUM_HIDDEN), axis=1)
            self._extend(5, self._draw(1, new, NUM_HIDDEN)[0], axis=0)

    def _extend(self, place: int, more: Array, axis: int) -> None:
        self._weights[place] = np.concatenate([self._weights[place], more], axis)
        for moments in (self._first, self._second):
            moments[place] = np.concatenate([moments[place], np.zeros_like(more)], axis)

    def _hold(self, row: tuple[dict[Any, Any], int]) -> None:
        """Reservoir: every event of the stream is held with the same chance [Vitter 1985]."""
        self._num_seen += 1
        if len(self._held) < self._replay:
            self._held.append(row)
        elif self._replay:
            place = int(self._random.integers(self._num_seen))
            if place < self._replay:
                self._held[place] = row
