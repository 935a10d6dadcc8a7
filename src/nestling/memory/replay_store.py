"""Replay buffers: small stores of examples, to be learned again.

Letters: N examples of a batch, C capacity.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nestling.core.errors import ShapeMismatch
from nestling.core.seeds import export_generator, import_generator, make_generator
from nestling.memory.checks import check_saved
from nestling.memory.tensor_slots import Columns, ExampleStore


class ReservoirReplay:
    """Reservoir sampling replay buffer: a uniform sample of all examples seen.

    The t-th example (from 1) takes a place while there is one, then a random one of t places of
    which only the first C exist: each example so far is kept with probability C / t
    [Vitter 1985, algorithm R].

    Args:
        capacity: C >= 1 examples.
        seed: of the own generator.

    Raises:
        SettingError: a capacity below 1.

    >>> replay = ReservoirReplay(2, seed=0)
    >>> replay.add({"x": torch.arange(4.0), "y": torch.tensor([0, 0, 1, 1])})
    >>> len(replay), sorted(replay.sample(2))
    (2, ['x', 'y'])
    """

    def __init__(self, capacity: int, *, seed: int) -> None:
        self.store = ExampleStore(capacity)
        self.seed = seed
        self.num_seen = 0
        self.generator = make_generator(seed, "reservoir replay")

    def __len__(self) -> int:
        return len(self.store)

    @property
    def capacity(self) -> int:
        """Largest number of stored examples, C."""
        return self.store.capacity

    @property
    def num_bytes(self) -> int:
        """Size of what is stored."""
        return self.store.num_bytes

    def add(self, batch: Mapping[str, Tensor]) -> None:
        """Offer a batch, in order; nothing of it is aliased.

        Args:
            batch: name -> (N, ...), e.g. "x", "y", "logits"; names, shapes behind N and dtypes
                are those of the first batch.

        Raises:
            ShapeMismatch: other names, shapes, dtypes or lengths. Nothing is changed then.
        """
        places: list[int | None] = []
        for _ in range(self.store.check(batch)):
            place = self.num_seen
            self.num_seen += 1
            if place >= self.capacity:
                place = _draw(self.num_seen, self.generator)
            places.append(place if place < self.capacity else None)
        self.store.write(batch, places)

    def sample(self, num_examples: int) -> Columns:
        """Draw different examples at random.

        Args:
            num_examples: wanted; fewer come back if fewer are stored.

        Returns: name -> (min(num_examples, len(self)), ...), copies.

        Raises:
            NotFitted: nothing is stored.
        """
        return self.store.sample(num_examples, self.generator)

    def read_all(self) -> Columns:
        """Everything that is stored, in the order of its places; copies."""
        return self.store.read_all()

    def state_dict(self) -> dict[str, object]:
        """What is stored, and the generator."""
        return {
            "config": {"kind": "reservoir", "capacity": self.capacity, "seed": self.seed},
            "num_seen": self.num_seen,
            "store": self.store.state_dict(),
            "generator": export_generator(self.generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the memory that was saved; ForeignSnapshot if it was built otherwise."""
        config = {"kind": "reservoir", "capacity": self.capacity, "seed": self.seed}
        check_saved(state["config"], config, "replay memory")
        self.num_seen = state["num_seen"]
        self.store.load_state_dict(state["store"])
        import_generator(self.generator, state["generator"])


class BalancedReplay:
    """Class-balanced replay buffer: as equal a number of each class as can be.

    A new example of a class that was never the largest takes the place of a random example of the
    largest class; one of a class that was takes a random place of its own class, with the
    probability that keeps that class uniformly sampled [Chrysakis & Moens 2020, Algorithm 1].
    The labels are the column "y", integers (N,).

    Args:
        capacity: C >= 1 examples.
        seed: of the own generator.

    Raises:
        SettingError: a capacity below 1.

    >>> replay = BalancedReplay(4, seed=0)
    >>> replay.add({"y": torch.tensor([0] * 9 + [1] * 2)})
    >>> replay.read_all()["y"].bincount()
    tensor([2, 2])
    """

    def __init__(self, capacity: int, *, seed: int) -> None:
        self.store = ExampleStore(capacity)
        self.seed = seed
        self._generator = make_generator(seed, "balanced replay")
        self._seen: dict[int, int] = {}
        self._full: set[int] = set()

    def __len__(self) -> int:
        return len(self.store)

    @property
    def capacity(self) -> int:
        """Largest number of stored examples, C."""
        return self.store.capacity

    @property
    def num_seen(self) -> int:
        """Examples offered so far."""
        return sum(self._seen.values())

    @property
    def num_bytes(self) -> int:
        """Size of what is stored."""
        return self.store.num_bytes

    def add(self, batch: Mapping[str, Tensor]) -> None:
        """Offer a batch, in order; arguments and errors of `ReservoirReplay.add`."""
        if "y" not in batch or batch["y"].ndim != 1 or batch["y"].is_floating_point():
            raise ShapeMismatch("balanced replay needs integer labels (N,) under the name 'y'")
        self.store.check(batch)
        kept = self.store.read_all()["y"].tolist() if len(self.store) else []
        places: list[int | None] = []
        for label in batch["y"].tolist():
            self._seen[label] = self._seen.get(label, 0) + 1
            places.append(self._choose_place(label, kept))
        self.store.write(batch, places)

    def sample(self, num_examples: int) -> Columns:
        """Draw different examples at random; as `ReservoirReplay.sample`."""
        return self.store.sample(num_examples, self._generator)

    def read_all(self) -> Columns:
        """Everything that is stored, in the order of its places; copies."""
        return self.store.read_all()

    def state_dict(self) -> dict[str, object]:
        """What is stored, the counts of each class, and the generator."""
        return {
            "config": {"kind": "balanced", "capacity": self.capacity, "seed": self.seed},
            "seen": {str(label): count for label, count in self._seen.items()},
            "full": sorted(self._full),
            "store": self.store.state_dict(),
            "generator": export_generator(self._generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the memory that was saved; ForeignSnapshot if it was built otherwise."""
        config = {"kind": "balanced", "capacity": self.capacity, "seed": self.seed}
        check_saved(state["config"], config, "replay memory")
        self._seen = {int(label): count for label, count in state["seen"].items()}
        self._full = set(state["full"])
        self.store.load_state_dict(state["store"])
        import_generator(self._generator, state["generator"])

    def _choose_place(self, label: int, kept: list[int]) -> int | None:
        """The place of one example; `kept` holds the class at each place and is changed."""
        if len(kept) < self.capacity:
            kept.append(label)
            return len(kept) - 1
        counts = Counter(kept)
        largest = max(counts.values())
        leaders = sorted(other for other, count in counts.items() if count == largest)
        # A class that was once the largest is full: it is sampled from then on, not collected.
        self._full.update(leaders)
        victim = leaders[_draw(len(leaders), self._generator)]
        if label in self._full:
            if _draw(self._seen[label], self._generator) >= counts[label]:
                return None
            victim = label
        held = [place for place, other in enumerate(kept) if other == victim]
        place = held[_draw(len(held), self._generator)]
        kept[place] = label
        return place


def _draw(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator, device="cpu"))
