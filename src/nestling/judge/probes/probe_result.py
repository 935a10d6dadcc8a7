"""What a probe measured: a figure with its interval, and the figures of its parts."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

# Answers of a model or of some levels: inputs of N rows -> probabilities (N, K) or values (N, M).
Answering = Callable[[Any], Tensor]
Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class ProbePart:
    """Figure of a group or a slice of a probe's data.

    Attributes:
        name: such as "sex=female".
        value: the figure; NaN where there are too few rows.
        low, high: its confidence interval; NaN where there are too few rows.
        num_examples: rows that it is of.
    """

    name: str
    value: float
    low: float
    high: float
    num_examples: int


@dataclass(frozen=True)
class ProbeResult:
    """Result of a probe: figure, confidence interval, parts, and what could not be judged.

    Attributes:
        probe: its name.
        metric: what was measured.
        value: the figure; NaN where it could not be judged.
        low, high: its confidence interval; NaN where none can be given.
        num_examples: rows that it is of.
        confidence: of the intervals, two-sided.
        better: whether "higher" or "lower" figures are better.
        data_digest: sha256 of the data, so that figures of other data are not compared.
        parts: of its groups or slices.
        too_few: what has fewer rows than the least sample size, in words: said, never passed.
        notes: what else there is to say, such as how many answers were not finite.
    """

    probe: str
    metric: str
    value: float
    low: float
    high: float
    num_examples: int
    confidence: float
    better: Direction
    data_digest: str
    parts: tuple[ProbePart, ...] = ()
    too_few: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_judged(self) -> bool:
        """Whether there is a figure, of all parts that were asked for."""
        return math.isfinite(self.value) and not self.too_few

    def to_record(self) -> dict[str, Any]:
        """As plain data; numbers that are not finite become None."""

        def plain(value: Any) -> Any:
            if isinstance(value, float) and not math.isfinite(value):
                return None
            if isinstance(value, Mapping):
                return {key: plain(entry) for key, entry in value.items()}
            if isinstance(value, list | tuple):
                return [plain(entry) for entry in value]
            return value

        record: dict[str, Any] = plain(asdict(self))
        return record


class Probe(Protocol):
    """A measurement of behaviour: a name, a metric, a digest of its data, and one call.

    Attributes:
        name: by which clauses of a contract name it.
        metric: what it measures.
        better: whether "higher" or "lower" figures are better.
    """

    name: str
    metric: str
    better: Direction

    @property
    def data_digest(self) -> str:
        """SHA-256 digest of its data."""

    def measure(self, answer: Answering, before: Answering | None = None) -> ProbeResult:
        """Measure who answers; `before` answers as the last validated version did, for flips."""
