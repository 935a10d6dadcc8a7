"""What a metric is asked for, and the figure that it gives, or why it gives none."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from nestling.core.checked import checked
from nestling.core.seeds import make_generator
from nestling.judge.contract.clauses import CONFIG
from nestling.judge.probes.probe_result import ProbePart
from nestling.judge.probes.score_intervals import wilson_interval


@checked
@dataclass(frozen=True, config=CONFIG)
class MetricSettings:
    """Settings of a metric, as a contract writes them.

    Args:
        slice: the figure is of this slice alone.
        positive: class of recall, precision, rates and gaps; column of monotonicity.
        bins: of confidence, for calibration.
        crossed: groups are combinations of all columns, not of each column by itself.
        tolerance: of invariance, the most that a number of the answer may move, instead of the
            class; of monotonicity, the most that it may go the wrong way.
        direction: of monotonicity: the answer must not fall ("up") or not rise ("down").
        resamples: of the bootstrap, where the interval comes from one.
        better: of a function of the user's own, which figures are better.
    """

    slice: str = ""
    positive: Annotated[int, Field(ge=0)] = 1
    bins: Annotated[int, Field(ge=1, le=1000)] = 15
    crossed: bool = False
    tolerance: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    direction: Literal["up", "down"] = "up"
    resamples: Annotated[int, Field(ge=20, le=100_000)] = 1000
    better: Literal["higher", "lower"] = "higher"


@plain_dataclass(frozen=True)
class MetricRequest:
    """What is asked of a metric beside the rows.

    Attributes:
        settings: of the metric.
        groups: columns whose values are compared.
        confidence: of intervals, two-sided.
        least: rows that a figure needs.
        seed: text from which the bootstrap draws: the digest of the data.
    """

    settings: MetricSettings
    groups: Sequence[str]
    confidence: float
    least: int
    seed: str

    def make_generator(self) -> torch.Generator:
        """A generator for the bootstrap: the same rows are drawn for the same data."""
        salt = hashlib.sha256(self.seed.encode()).hexdigest()
        return make_generator(0, "probe bootstrap", salt)


@plain_dataclass(frozen=True)
class MetricFigure:
    """Figure of a metric with its interval, or in words why there is none.

    Attributes:
        value: NaN where it cannot be judged.
        low, high: of its interval; NaN for none.
        num_examples: rows that it is of.
        parts: of its groups.
        too_few: what has too few rows.
        notes: what else there is to say.
    """

    value: float
    low: float
    high: float
    num_examples: int
    parts: tuple[ProbePart, ...] = ()
    too_few: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge_proportion(num: int, of: int, rows: str, request: MetricRequest) -> MetricFigure:
    """A proportion with its Wilson interval, if it is of enough rows.

    Args:
        num: of successes.
        of: rows.
        rows: what they are, e.g. "positives".
        request: says how many are enough.
    """
    if of < request.least:
        return refuse_few(of, rows, request)
    return MetricFigure(num / of, *wilson_interval(num, of, request.confidence), of)


def refuse_few(count: int, rows: str, request: MetricRequest) -> MetricFigure:
    """No figure: too few rows."""
    return refuse(count, f"{count} {rows}, fewer than the least {request.least}")


def refuse(count: int, reason: str) -> MetricFigure:
    """No figure, for a reason."""
    return MetricFigure(math.nan, math.nan, math.nan, count, too_few=(reason,))
