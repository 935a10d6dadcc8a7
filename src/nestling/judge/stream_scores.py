"""Running scores of a stream that is answered before it is learned (prequential, test-then-train).

Axis letters: K classes in the order of their first appearance, B bins.
"""

import math
from collections.abc import Hashable, Mapping

import numpy as np
from numpy.typing import NDArray

from nestling.core.errors import DataError, NonFiniteInput, SettingError

LEAST_PROBABILITY = 1e-6  # of the label, in the log-loss
_NUM_CONFIDENCES = 15  # bins of the calibration error, as in Guo 2017
# Probabilities are kept by their logit in so many bins from -_MAX_LOGIT to _MAX_LOGIT: what two
# answers differ by less than .008 in the logit counts as a tie of the area under the curve.
_NUM_LOGITS, _MAX_LOGIT = 4096, 16.0


class StreamScores:
    """Prequential accuracy, kappas, AUC, log-loss and calibration error of a stream of classes.

    What is kept does not grow with the events but for one number per window of the curve:
    class counts, and of every class a histogram of its probabilities. Probabilities are divided
    by their sum; the class of the greatest is the answer, the first of several; no probabilities
    at all are a wrong answer.

    Args:
        window: events per point of the curve, at least 1.

    Raises:
        SettingError: a window below 1.

    >>> scores = StreamScores(window=2)
    >>> [scores.update(y, p) for y, p in [("a", {}), ("a", {"a": 1.0}), ("b", {"a": 0.75})]]
    [False, True, False]
    >>> scores.accuracy, scores.curve
    (0.3333333333333333, [0.5])
    """

    def __init__(self, window: int = 1000) -> None:
        if window < 1:
            raise SettingError(f"window {window}; 1 event or more, e.g. 1000")
        self.window = window
        self.num_events = 0
        self.curve: list[float] = []
        self._num_right = self._num_right_here = 0
        self._num_repeated = self._num_majority = 0
        self._places: dict[Hashable, int] = {}
        self._true_K = np.zeros(0, np.int64)
        self._answered_K = np.zeros(0, np.int64)
        self._histograms_K2B = np.zeros((0, 2, _NUM_LOGITS), np.int64)
        self._sum_log_loss = 0.0
        self._confidences_3B = np.zeros((3, _NUM_CONFIDENCES))  # count, sum, right ones
        # Of the events before; nothing is known of the first one.
        self._last: int | None = None
        self._majority: int | None = None

    def update(self, label: Hashable, probabilities: Mapping[Hashable, float]) -> bool:
        """Count one answer, given before its label was learned.

        Args:
            label: the truth.
            probabilities: of the labels, not below 0; those that are not named are 0.

        Returns: whether the answer was right.

        Raises:
            NonFiniteInput: a probability that is below 0, NaN or infinite; nothing is counted.
        """
        total = 0.0
        for value in probabilities.values():
            if not 0.0 <= value < math.inf:
                raise NonFiniteInput(f"probability {value!r}; finite values of 0 or more work")
            total += value
        for name in (*probabilities, label):
            if name not in self._places:
                self._add_class(name)
        p_K = np.zeros(len(self._places))
        for name, value in probabilities.items():
            p_K[self._places[name]] = value / total if total else 0.0
        best: Hashable = None
        if total:
            best = max(probabilities, key=probabilities.__getitem__)
        return self._count(self._places[label], p_K, None if not total else self._places[best])

    def _count(self, label: int, p_K: NDArray[np.float64], answer: int | None) -> bool:
        right = answer == label
        self._num_repeated += self._last == label
        self._num_majority += self._majority == label
        self._last = label
        self.num_events += 1
        self._num_right += right
        self._num_right_here += right
        self._true_K[label] += 1
        # By strictly more only, so that the order in which classes are named does not count.
        if self._majority is None or self._true_K[label] > self._true_K[self._majority]:
            self._majority = label
        if answer is not None:
            self._answered_K[answer] += 1
            confidence = float(p_K[answer])
            place = min(int(confidence * _NUM_CONFIDENCES), _NUM_CONFIDENCES - 1)
            self._confidences_3B[:, place] += (1.0, confidence, right)
        self._sum_log_loss -= math.log(max(float(p_K[label]), LEAST_PROBABILITY))
        is_label_K = np.zeros(len(p_K), np.int64)
        is_label_K[label] = 1
        self._histograms_K2B[np.arange(len(p_K)), is_label_K, _find_bins(p_K)] += 1
        if self.num_events % self.window == 0:
            self.curve.append(self._num_right_here / self.window)
            self._num_right_here = 0
        return right

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self._num_right / self._require()

    @property
    def kappa(self) -> float:
        """Cohen's kappa: over answers by chance with the same shares; NaN if chance is sure.

        (p - p_e)/(1 - p_e),  p_e = sum_k true_k answered_k / n^2   [Cohen 1960]
        """
        count = self._require()
        return _improve(self.accuracy, float(self._true_K @ self._answered_K) / count**2)

    @property
    def kappa_m(self) -> float:
        """Kappa-M: over always answering the majority class of the events before [Bifet 2015]."""
        return _improve(self.accuracy, self._num_majority / self._require())

    @property
    def kappa_t(self) -> float:
        """Kappa-T: over repeating the last label [Zliobaite 2015]; below 0 is worse than that."""
        return _improve(self.accuracy, self._num_repeated / self._require())

    @property
    def auc(self) -> float:
        """Area under the ROC curve: of each class against all others, mean over the classes.

        Classes count alike; one without events, or with all of them, does not. For two classes
        this is the usual area. Ties count half. NaN if no class counts.
        """
        areas = []
        for without_B, with_B in self._histograms_K2B:
            pairs = int(with_B.sum()) * int(without_B.sum())
            if pairs:
                below_B = np.cumsum(without_B) - without_B
                areas.append(float(with_B @ (below_B + 0.5 * without_B)) / pairs)
        return sum(areas) / len(areas) if areas else math.nan

    @property
    def log_loss(self) -> float:
        """Mean of -ln p(label), p at least LEAST_PROBABILITY, in nats."""
        return self._sum_log_loss / self._require()

    @property
    def ece(self) -> float:
        """Expected calibration error of the answer's probability, 15 equal bins [Guo 2017]."""
        _, sums_B, rights_B = self._confidences_3B
        return float(np.abs(sums_B - rights_B).sum()) / self._require()

    def to_figures(self) -> dict[str, float]:
        """All scores by name."""
        return {
            "accuracy": self.accuracy,
            "kappa": self.kappa,
            "kappa_m": self.kappa_m,
            "kappa_t": self.kappa_t,
            "auc": self.auc,
            "log_loss": self.log_loss,
            "ece": self.ece,
        }

    def _require(self) -> int:
        if not self.num_events:
            raise DataError("scores of no events; update them with one or more")
        return self.num_events

    def _add_class(self, name: Hashable) -> None:
        self._places[name] = len(self._places)
        self._true_K = np.append(self._true_K, 0)
        self._answered_K = np.append(self._answered_K, 0)
        row_12B = np.zeros((1, 2, _NUM_LOGITS), np.int64)
        row_12B[0, 0, 0] = self.num_events  # until now it had no probability
        self._histograms_K2B = np.concatenate([self._histograms_K2B, row_12B])


class ValueScores:
    """Prequential errors of a stream of numbers, and the share that prediction intervals hold.

    >>> scores = ValueScores()
    >>> scores.update(3.0, 2.0, (1.0, 4.0)); scores.update(5.0, 5.0, (5.5, 6.0))
    >>> scores.mean_absolute_error, scores.coverage, scores.mean_width
    (0.5, 0.5, 1.75)
    """

    def __init__(self) -> None:
        self.num_events = 0
        self._sum_absolute = self._sum_squares = self._sum_widths = 0.0
        self._mean = self._spread = 0.0
        self._num_intervals = self._num_inside = 0

    def update(
        self, label: float, answer: float, interval: tuple[float, float] | None = None
    ) -> None:
        """Count one answer, given before its label was learned.

        Args:
            label: the truth.
            answer: in its units.
            interval: from, to; None where none is given.

        Raises:
            NonFiniteInput: NaN or infinity; nothing is counted.
        """
        given = (label, answer, *(interval or ()))
        if not all(math.isfinite(value) for value in given):
            raise NonFiniteInput(f"label, answer and interval {given}; finite numbers work")
        self.num_events += 1
        self._sum_absolute += abs(label - answer)
        self._sum_squares += (label - answer) ** 2
        apart = label - self._mean
        self._mean += apart / self.num_events
        self._spread += apart * (label - self._mean)
        if interval is not None:
            self._num_intervals += 1
            self._num_inside += interval[0] <= label <= interval[1]
            self._sum_widths += interval[1] - interval[0]

    @property
    def mean_absolute_error(self) -> float:
        """Mean absolute error, in units of the label."""
        return self._sum_absolute / self._require()

    @property
    def root_mean_squared_error(self) -> float:
        """Root of the mean squared error, in units of the label."""
        return math.sqrt(self._sum_squares / self._require())

    @property
    def r_squared(self) -> float:
        """1 - sum (y - f)^2 / sum (y - mean y)^2; NaN for labels that are all the same."""
        self._require()
        return 1.0 - self._sum_squares / self._spread if self._spread else math.nan

    @property
    def coverage(self) -> float:
        """Share of labels within their interval; NaN without intervals."""
        return self._num_inside / self._num_intervals if self._num_intervals else math.nan

    @property
    def mean_width(self) -> float:
        """Mean width of the intervals, in units of the label; NaN without intervals."""
        return self._sum_widths / self._num_intervals if self._num_intervals else math.nan

    def to_figures(self) -> dict[str, float]:
        """All scores by name."""
        return {
            "mae": self.mean_absolute_error,
            "rmse": self.root_mean_squared_error,
            "r_squared": self.r_squared,
            "coverage": self.coverage,
            "width": self.mean_width,
        }

    def _require(self) -> int:
        if not self.num_events:
            raise DataError("scores of no events; update them with one or more")
        return self.num_events


def _find_bins(p_K: NDArray[np.float64]) -> NDArray[np.int64]:
    with np.errstate(divide="ignore"):
        logits_K = np.log(p_K) - np.log1p(-p_K)
    share_K = np.clip(logits_K, -_MAX_LOGIT, _MAX_LOGIT) / (2.0 * _MAX_LOGIT) + 0.5
    bins_K: NDArray[np.int64] = (share_K * _NUM_LOGITS).astype(np.int64)
    return np.minimum(bins_K, _NUM_LOGITS - 1, out=bins_K)


def _improve(accuracy: float, reference: float) -> float:
    return (accuracy - reference) / (1.0 - reference) if reference < 1.0 else math.nan
