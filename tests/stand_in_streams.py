"""Small learners with the words of the stream learner, for tests of what drives it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


class StandIn:
    """Says the last label with .8 and the most frequent ones with the rest."""

    expert_names = ("last", "often")
    num_bytes = 1_000

    def __init__(self, *, seed: int = 0, without: Sequence[str] = ()) -> None:
        self.seed = seed
        self.without = tuple(without)
        self.counts: Counter[Any] = Counter()
        self.last: Any = None
        self.waiting: dict[int, Mapping[Any, Any]] = {}
        self.learned: list[tuple[Any, Any]] = []

    def predict_proba_one(self, x: Mapping[Any, Any], *, id: int | None = None) -> dict[Any, float]:
        if id is not None:
            self.waiting[id] = dict(x)
        total = sum(self.counts.values())
        if not total:
            return {}
        share = 0.0 if "last" in self.without else 0.8
        found = {label: (1.0 - share) * count / total for label, count in self.counts.items()}
        found[self.last] += share
        return found

    def learn_one(
        self, x: Mapping[Any, Any] | None = None, y: Any = None, *, id: int | None = None
    ) -> None:
        if id is not None:
            x = self.waiting.pop(id)
        assert x is not None
        self.learned.append((dict(x), y))
        self.counts[y] += 1
        self.last = y

    def predict_proba_many(self, rows: Sequence[Mapping[Any, Any]]) -> list[dict[Any, float]]:
        return [self.predict_proba_one(x) for x in rows]

    def learn_many(self, rows: Sequence[Mapping[Any, Any]], labels: Sequence[Any]) -> None:
        for x, y in zip(rows, labels, strict=True):
            self.learn_one(x, y)


class StandInValues:
    """Says the mean of what came."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self.total = 0.0
        self.count = 0

    def predict_one(self, _: Mapping[Any, Any]) -> float:
        return self.total / self.count if self.count else 0.0

    def predict_interval_one(self, x: Mapping[Any, Any]) -> tuple[float, float]:
        middle = self.predict_one(x)
        return middle - 180.0, middle + 180.0

    def learn_one(self, _: Mapping[Any, Any], y: float) -> None:
        self.total += y
        self.count += 1


class Failing(StandIn):
    """Cannot divide."""

    def predict_proba_one(self, x: Mapping[Any, Any], *, id: int | None = None) -> dict[Any, float]:
        raise ZeroDivisionError(f"nothing to divide by in {len(x)} values, {id}")
