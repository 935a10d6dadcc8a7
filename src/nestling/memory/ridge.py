"""Online ridge regression: solved exactly from sums; no example is stored.

Letters: N examples, D features, M outputs.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from nestling.core.errors import MergeError, NotFitted, SettingError
from nestling.core.modes import in_own_modes
from nestling.memory.checks import (
    check_codes,
    check_inputs,
    check_ridge,
    check_rows,
    check_saved,
    check_task,
    check_weights,
    count_classes,
    encode_one_hot,
)
from nestling.memory.exact.calibrate import Calibration, calibrate
from nestling.memory.exact.clocked import ClockedStatistics
from nestling.memory.exact.fresh import FreshSolution
from nestling.memory.exact.integer_sums import IntegerSums, is_whole
from nestling.memory.exact.reach import (
    Reach,
    compute_familiarity,
    compute_novelty,
    measure_reach,
)
from nestling.memory.exact.solve import Solution, factorise_solved, solve_ridge
from nestling.memory.exact.statistics import Statistics
from nestling.memory.features import Features

Task = Literal["classification", "regression"]


class RidgeMemory:
    """Online ridge regression on fixed features: exact at any time, examples can be removed.

    min_W sum_i w_i 2^(-age_i / h) |y_i - phi(x_i) W - b|^2 + n lambda |W|^2,

    features scaled to unit variance over the memory's life, classes as one-hot targets, lambda by
    generalised cross-validation, a quarter of it for classes. With an infinite half-life the answer
    is a function of the set of examples: any order and any cutting into blocks or shards give the
    same up to rounding in float64. With a finite one it depends on the order by its definition, and
    on nothing else: scaling, strength and calibration come from the statistics, never from first
    data. Statistics live on the CPU; the solution is computed when it is asked for.

    With features in codes (`nestling.memory.coded`), an infinite half-life, classes, and weights
    that are whole numbers, sums are integers: equal bit for bit in any order and cutting, merged
    or removed (`read_sums`). Otherwise they are kept in float64, from the first other weight on.
    Codes share a scale, and lambda for classes is `choose_code_strength`'s.

    Args:
        num_inputs: width of x.
        task: "classification" (y: integers >= 0 (N,)) or "regression" (y: floats (N,), (N, M)).
        num_outputs: classes or outputs; None: classes grow, the first targets fix the outputs.
        features: made of x before anything is learned; None for x itself.
        half_life: h in examples, > 0; an example's weight halves every h examples after it.
        ridge: lambda relative to features of unit variance; None for cross-validation.
        takes_codes: without `features`, x is codes already, as int8.

    Raises:
        SettingError: an argument outside its range.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> memory = RidgeMemory(1, task="regression", ridge=1e-8)
    >>> memory.add(x, 2 * x + 1)
    0
    >>> round(memory.predict(torch.tensor([[10.0]])).item(), 3)
    21.0
    """

    def __init__(
        self,
        num_inputs: int,
        *,
        task: Task = "classification",
        num_outputs: int | None = None,
        features: Features | None = None,
        half_life: float = math.inf,
        ridge: float | None = None,
        takes_codes: bool = False,
    ) -> None:
        check_task(task)
        check_ridge(ridge)
        if num_inputs < 1 or (num_outputs is not None and num_outputs < 1):
            raise SettingError(f"{num_inputs} inputs and {num_outputs} outputs; 1 or more works")
        if features is not None and features.num_inputs != num_inputs:
            raise SettingError(f"features of {features.num_inputs} inputs for {num_inputs} inputs")
        self.num_inputs = num_inputs
        self.task: Task = task
        self.num_outputs = num_outputs
        self.features = features
        self.ridge = ridge
        width = features.num_outputs if features is not None else num_inputs
        self.is_coded = takes_codes if features is None else features.is_coded
        has_integers = self.is_coded and task == "classification" and half_life == math.inf
        self._sums: ClockedStatistics | IntegerSums = (
            IntegerSums(width, num_outputs or 0)
            if has_integers
            else ClockedStatistics(width, num_outputs or 0, half_life)
        )
        self._statistics: Statistics | None = None
        self._held: tuple[float, float] | None = None
        self._solution: Solution | None = None
        self._calibration: Calibration | None = None
        self._reach: Reach | None = None

    @property
    def half_life(self) -> float:
        """Half-life h, in examples."""
        return self._sums.half_life if isinstance(self._sums, ClockedStatistics) else math.inf

    @property
    def clock(self) -> int:
        """Examples that arrived so far; removing one does not turn it back."""
        return self._sums.clock

    @property
    def num_classes(self) -> int:
        """K, the columns of `predict`: the declared outputs, or the largest label + 1."""
        return self._sums.num_outputs

    @property
    def is_empty(self) -> bool:
        """Whether nothing is remembered."""
        return self._sums.weight <= 0.0

    @property
    def num_bytes(self) -> int:
        """Size of the statistics; it does not grow with the number of examples."""
        return self._sums.num_bytes

    @property
    def weight(self) -> float:
        """Weight of all that is remembered, faded."""
        return self._sums.weight

    @property
    def num_features(self) -> int:
        """D, what it makes of an input."""
        return self._sums.num_features

    @property
    def follows_codes(self) -> bool:
        """Whether its strength is that of classes on codes, see `choose_code_strength`."""
        return self.is_coded and self.task == "classification" and self.ridge is None

    @property
    def life_targets(self) -> Tensor:
        """Weight of each class, or sum of each output, over the memory's whole life: (M,)."""
        return self._sums.life_targets

    @property
    def num_effective(self) -> float:
        """The number of equally weighted examples that know as much."""
        return self._sums.num_effective

    @property
    def statistics(self) -> Statistics:
        """The sufficient statistics about their mean, in float64; read only."""
        if isinstance(self._sums, ClockedStatistics):
            return self._sums.values
        if self._statistics is None:
            self._statistics = self._sums.values
        return self._statistics

    def select_statistics(self, chosen: Tensor) -> Statistics:
        """Statistics of some of the features: their indices, rising."""
        return self._sums.select(chosen)

    def read_sums(self) -> dict[str, Tensor]:
        """Copies of the exact sums: "gram" (D, D), "cross" (M, D), "counts" (M,), int64.

        Raises:
            SettingError: they are kept in float64.
        """
        if isinstance(self._sums, ClockedStatistics):
            raise SettingError(
                "this memory keeps its sums in float64; features in codes, classes, an infinite "
                "half-life and whole weights give integers"
            )
        return self._sums.read()

    @property
    def solution(self) -> Solution:
        """The current solution, computed if something changed; NotFitted while empty."""
        solution = self._solution
        if solution is None:
            if self.is_empty:
                raise NotFitted("the memory is empty; add(x, y) first")
            strength, freedom = self._held or (self.ridge, None)
            is_regression = self.task == "regression"
            solution = solve_ridge(
                self.statistics, strength, freedom, is_regression, coded=self.is_coded
            )
            self._solution = solution
        return solution

    @property
    def calibration(self) -> Calibration:
        """From scores to logits of class probabilities; see `calibrate`."""
        calibration = self._calibration
        if calibration is None:
            calibration = calibrate(self.statistics, self.solution)
            self._calibration = calibration
        return calibration

    @property
    def reach(self) -> Reach:
        """Leverage statistics of what was learned, renewed after changes; NotFitted while empty."""
        reach = self._reach
        if reach is None:
            if self.is_empty:
                raise NotFitted("the memory is empty; add(x, y) first")
            reach = measure_reach(self.statistics)
            self._reach = reach
        return reach

    @in_own_modes
    def make_fresh(self, *, with_reach: bool = False) -> FreshSolution:
        """The current solution in a form that takes in further examples; NotFitted while empty.

        Args:
            with_reach: it is asked for novelty, too.
        """
        solution = factorise_solved(self.statistics, self.solution)
        self._solution = solution
        return FreshSolution(
            self.statistics,
            solution,
            self.reach if with_reach else None,
            classifies=self.task == "classification",
            follows_codes=self.follows_codes,
        )

    @in_own_modes
    def add(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> int:
        """Learn a block of examples, in order; the same as one by one up to rounding.

        Args:
            x: (N, num_inputs) finite floats; N = 0 is a no-op, the clock stands.
            y: labels (N,), or targets (N,) or (N, M).
            weight: (N,) >= 0; None for ones.

        Returns: the clock of the block, for `remove`: how many examples had arrived before it.

        Raises:
            NonFiniteInput: NaN or infinity.
            ShapeMismatch: shapes or dtypes that do not fit.
            UnknownLabel: a label below 0, outside the declared classes, or far beyond all others.
            DataError: inputs or targets beyond 1e70, weights below 0 or beyond 1e20.
        """
        x, y_NM, weight_N = self._check(x, y, weight)
        return self.add_features(self.compute_features(x), y_NM, weight_N)

    @in_own_modes
    def add_features(self, phi_ND: Tensor, y_NM: Tensor, weight_N: Tensor) -> int:
        """As `add`, for features and dense targets that were checked already.

        Args:
            phi_ND: (N, D), what `compute_features` gives.
            y_NM: (N, M) float64: values, or one-hot labels.
            weight_N: (N,) float64.
        """
        clock = self.clock
        if phi_ND.shape[0]:
            self.grow(y_NM.shape[1])
            sums = self._sums_for(weight_N)
            if isinstance(sums, IntegerSums):
                sums.add(phi_ND, y_NM.argmax(dim=1), weight_N.long())
            else:
                sums.add(phi_ND.double(), y_NM, weight_N)
            self._sums = sums
            self._forget_solution()
        return clock

    def _sums_for(self, weight_N: Tensor) -> "ClockedStatistics | IntegerSums":
        """The sums as they can take in or give up a block: in float64 if weights are not whole."""
        sums = self._sums
        if isinstance(sums, ClockedStatistics) or is_whole(weight_N, sums.weight):
            return sums
        return ClockedStatistics.of(sums.values, sums.clock)

    @in_own_modes
    def remove(self, x: Tensor, y: Tensor, weight: Tensor | None = None, *, clock: int) -> None:
        """Take examples away again, as if they had never been seen (the clock stands).

        Exact up to rounding, relative to what was there.

        Args:
            x, y, weight: as added.
            clock: what `add` returned, plus the rows of the block that stood before these.

        Raises:
            DataError: more is removed than there is, of all or of one class, or at a clock that
                has not been yet; and as in `add`. Nothing is changed then.
        """
        x, y_NM, weight_N = self._check(x, y, weight)
        if x.shape[0]:
            phi_ND, is_classes = self.compute_features(x), self.task == "classification"
            sums = self._sums_for(weight_N)
            if isinstance(sums, IntegerSums):
                sums.remove(phi_ND, y_NM.argmax(dim=1), weight_N.long(), clock)
            else:
                sums.remove(phi_ND.double(), y_NM, weight_N, clock, one_hot=is_classes)
            self._sums = sums
            self._forget_solution()

    @in_own_modes
    def merge(self, other: "RidgeMemory") -> None:
        """Learn all that another memory has learned; exact up to rounding.

        Both are brought to the later clock: an example's age grows by what its memory lags behind.

        Raises:
            MergeError: other features, half-life, task, outputs or strength. Nothing changed.
        """
        for name in ("num_inputs", "task", "num_outputs", "features", "half_life", "ridge"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise MergeError(
                    f"cannot merge memories of {name} {mine!r} and {theirs!r}; they must be equal"
                )
        mine, theirs = self._sums, other._sums
        may_grow = self.task == "classification"
        if isinstance(mine, IntegerSums) and isinstance(theirs, IntegerSums):
            mine.merge(theirs, may_grow)
        else:
            mine, theirs = _in_floats(mine), _in_floats(theirs)
            mine.merge(theirs, may_grow)
        self._sums = mine
        self._forget_solution()

    def scores(self, x: Tensor) -> Tensor:
        """Raw linear outputs (N, M), float64; NotFitted while empty."""
        solution = self.solution
        phi_ND = self.compute_features(self._check_inputs(x)).double()
        return torch.addmm(solution.intercept, phi_ND, solution.weights)

    def predict(self, x: Tensor) -> Tensor:
        """Calibrated class probabilities (N, K) or means (N, M), float64.

        A class never seen has probability 0. NotFitted while empty; else errors as in `add`.
        """
        scores_NM = self.scores(x)
        if self.task == "regression":
            return scores_NM
        calibration = self.calibration
        logits = torch.addmm(calibration.offset, scores_NM, calibration.matrix)
        return torch.softmax(logits, dim=1)

    def novelty(self, x: Tensor) -> Tensor:
        """Novelty of inputs, (N,), from their leverage: about 0 +- 1 for the like, above 2 for
        what is new; see `compute_novelty`. Errors as in `predict`."""
        phi_ND = self.compute_features(self._check_inputs(x)).double()
        return compute_novelty(self.reach, phi_ND)

    def familiarity(self, x: Tensor) -> Tensor:
        """Familiarity of inputs, (N,) in [0, 1), from their leverage: near 0 for what is unlike all
        that it has learned, or while that is little. Errors as in `predict`.

        >>> memory = RidgeMemory(2)
        >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> memory.add(x, (x[:, 0] > 0).long())
        0
        >>> near, far = memory.familiarity(torch.tensor([[0.5, 0.5], [9.0, 9.0]])).tolist()
        >>> near > 0.8, far < 0.01
        (True, True)
        """
        return compute_familiarity(self.novelty(x), self.reach.num_effective)

    def variance(self) -> Tensor:
        """Variance (M,) of a new example's residual, by generalised cross-validation."""
        return self.solution.residual_variance.clone()

    def tune(self) -> None:
        """Choose the strength now and hold it until the next call; no-op for a fixed `ridge`,
        and for classes on codes, whose strength costs nothing.

        Opt-in: solving then costs a tenth, but the answer depends on when this was called.
        """
        if self.ridge is None and not self.follows_codes:
            self._held = None
            self._forget_solution()
            self._held = (self.solution.strength, self.solution.freedom)

    @in_own_modes
    def grow(self, num_outputs: int) -> None:
        """Make room for so many classes or outputs."""
        if num_outputs > self._sums.num_outputs:
            self._sums.grow(num_outputs)
            self._forget_solution()

    def compute_features(self, x: Tensor) -> Tensor:
        """phi(x), (N, D) in float64 or codes, for inputs that were checked."""
        if self.features is not None:
            return self.features(x)
        return x if self.is_coded else x.to(torch.float64)

    def check_rows(self, y: Tensor, num_examples: int) -> Tensor:
        """y as labels (N,) or targets (N, M) that this memory takes; errors as in `add`."""
        known = self._sums.num_outputs
        fixed = self.num_outputs or (known if self.task == "regression" else 0)
        return check_rows(y, num_examples, self.task, fixed or None, known)

    def copy(self) -> "RidgeMemory":
        """An independent memory with the same content."""
        twin = copy.copy(self)
        twin._sums = self._sums.copy()
        return twin

    def state_dict(self) -> dict[str, object]:
        """All that it knows and how it was built; solving again gives the same bits."""
        return {
            "config": self._read_config(),
            "held": None if self._held is None else list(self._held),
            "is_whole": isinstance(self._sums, IntegerSums),
            "statistics": self._sums.state_dict(),
        }

    @in_own_modes
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the memory that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._read_config(), "memory")
        sums = self._sums
        if state["is_whole"] != isinstance(sums, IntegerSums):
            D, M = sums.num_features, sums.num_outputs
            sums = IntegerSums(D, M) if state["is_whole"] else ClockedStatistics(D, M)
        sums.load_state_dict(state["statistics"])
        self._sums = sums
        held = state["held"]
        self._held = None if held is None else (held[0], held[1])
        self._forget_solution()

    def _read_config(self) -> dict[str, object]:
        return {
            "num_inputs": self.num_inputs,
            "task": self.task,
            "num_outputs": self.num_outputs,
            "half_life": self.half_life,
            "ridge": self.ridge,
            "features": self.features.read_config() if self.features is not None else None,
        }

    def _check(self, x: Tensor, y: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        x = self._check_inputs(x)
        y = self.check_rows(y, x.shape[0])
        if self.task == "classification":
            y = encode_one_hot(y, max(self._sums.num_outputs, count_classes(y)))
        return x, y, check_weights(weight, x.shape[0])

    def _check_inputs(self, x: Tensor) -> Tensor:
        if self.is_coded and self.features is None:
            return check_codes(x, self.num_inputs)
        return check_inputs(x, self.num_inputs)

    def _forget_solution(self) -> None:
        self._statistics = None
        self._solution = None
        self._calibration = None
        self._reach = None


def _in_floats(sums: ClockedStatistics | IntegerSums) -> ClockedStatistics:
    if isinstance(sums, ClockedStatistics):
        return sums
    return ClockedStatistics.of(sums.values, sums.clock)
