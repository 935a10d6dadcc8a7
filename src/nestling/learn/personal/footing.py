"""What a person's levels stand on, by digest: the frozen model that is read, and features of it."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nestling.answer.targets import TargetSpace
from nestling.core.params import digest_tensors
from nestling.levels.taps import FeatureReader

FeatureMap = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FixedFeatures:
    """The common memory's features, which never change.

    Args:
        widths: of what is read.
        num_outputs: D.
        digest: sha256 of what makes them.
        maps: d -> the map to d of them, made when first wanted.
    """

    widths: tuple[int, ...]
    num_outputs: int
    digest: str
    maps: dict[int, FeatureMap]


@dataclass(frozen=True)
class Footing:
    """What a person's levels stand on.

    Args:
        reader: sha256 of what is read: the frozen model and the places in it.
        features: sha256 of what makes the common memory's features.
        widths: of what is read.
        targets: what is predicted.
    """

    reader: str
    features: str
    widths: tuple[int, ...]
    targets: TargetSpace

    def state_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "reader": self.reader,
            "features": self.features,
            "widths": list(self.widths),
            "targets": self.targets.state_dict(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Footing":
        """What `state_dict` took apart."""
        targets = TargetSpace.from_state(state["targets"])
        return cls(state["reader"], state["features"], tuple(state["widths"]), targets)


def digest_reader(reader: FeatureReader) -> str:
    """The sha256 of what is read: the frozen model's weights and the places in it."""
    read = repr([None if tap is None else (tap.name, tap.side) for tap in reader.taps])
    weights = digest_tensors(reader.state_dict())
    return hashlib.sha256(f"{read} {weights}".encode()).hexdigest()


def digest_config(config: Mapping[str, object]) -> str:
    """The sha256 of what makes features, as their `read_config` gives it.

    >>> digest_config({"seed": 0}) == digest_config({"seed": 1})
    False
    """

    def flatten(value: object) -> object:
        if isinstance(value, Tensor):
            return value.tolist()
        if isinstance(value, Mapping):
            return {key: flatten(inner) for key, inner in value.items()}
        return value

    return hashlib.sha256(repr(flatten(config)).encode()).hexdigest()
