"""Who answers, as data: the read-out of a plan that mixes several levels."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from nestling.core.checked import checked
from nestling.levels.gates import Name

_CONFIG = ConfigDict(extra="forbid", defer_build=True)
_AsTuple = AfterValidator(tuple)


@checked
@dataclass(frozen=True, config=_CONFIG)
class Mix:
    """Read-out that mixes the answers of several levels; see `mix`."""

    mix: Annotated[Sequence[Name], _AsTuple]
    weights: Annotated[Sequence[Annotated[float, Field(ge=0.0)]], _AsTuple] | None = None
    switch_rate: Annotated[float, Field(ge=0.0, lt=1.0)] = 1e-3
    outside: Name | None = None

    @model_validator(mode="after")
    def _check(self) -> "Mix":
        if len(set(self.mix)) != len(self.mix) or len(self.mix) < 2:
            raise ValueError(f"mix {self.mix} needs two or more different names")
        if self.weights is not None and len(self.weights) != len(self.mix):
            raise ValueError(f"mix has {len(self.mix)} names and {len(self.weights)} weights")
        if self.weights is not None and sum(self.weights) <= 0:
            raise ValueError(f"mix weights {self.weights} sum to zero")
        if self.outside is not None and self.outside not in self.mix:
            raise ValueError(f"outside {self.outside!r} is not among {list(self.mix)}; add it")
        if self.outside is not None and self.weights is not None:
            raise ValueError("outside needs a gate; leave the weights out")
        return self


def mix(
    *names: str,
    weights: Sequence[float] | None = None,
    switch_rate: float = 1e-3,
    outside: str | None = None,
) -> Mix:
    """Read-out that mixes the answers of several levels, by fixed weights or a learned gate.

    Args:
        names: levels, or "live" for the model as it is now.
        weights: fixed weights >= 0, one per name, normalised; None for a gate that follows
            the loss of each (fixed share).
        switch_rate: probability per example that the best one changes, for the gate.
        outside: a copy level that is asked about what the first memory has not seen, such as the
            model as it was given; see `nestling.answer.outside`.

    >>> mix("recent", "live").mix
    ('recent', 'live')
    """
    return Mix(mix=names, weights=weights, switch_rate=switch_rate, outside=outside)
