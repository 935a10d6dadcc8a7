"""A watch for drift as data: which detector hears what, and which event it then says."""

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass

from nestling.core.checked import checked
from nestling.levels.gates import Name


@checked
@dataclass(frozen=True, config=ConfigDict(extra="forbid", defer_build=True))
class DriftWatch:
    """Watch level: a drift detector on the learner's own errors; says an event when they change.

    Levels with `Freeze(until=event)` are then released, and gates with `DriftGate(on=event)` open.
    What it hears are answers and losses of examples before they are learned.

    Args:
        name: the level's name.
        detector: kind of detector; see `nestling.judge.make_detector`.
        settings: of the detector, by name; empty for its defaults.
        of: "error": of each example, whether the read-out's answer was wrong (of values: its
            mean absolute distance); "loss": of each batch, the loss of the gradient levels.
        side: which changes count: "rise" (it got worse), "fall" (better) or "both".
        event: what is said.

    >>> DriftWatch("shift", "adwin", {"delta": 0.01}).event
    'drift'
    """

    name: Name
    detector: Literal["adwin", "page_hinkley", "kswin", "hddm_average", "hddm_weighted"] = "adwin"
    settings: Mapping[str, bool | int | float | str] = field(default_factory=dict, hash=False)
    of: Literal["error", "loss"] = "error"
    side: Literal["rise", "fall", "both"] = "rise"
    event: Name = "drift"
    kind: Literal["watch"] = "watch"

    @model_validator(mode="after")
    def _check(self) -> "DriftWatch":
        if self.of == "loss" and self.takes_shares:
            raise ValueError(
                f"watch {self.name!r}: {self.detector} takes values in [0, 1], which losses are "
                "not; of='error' works, or detector='adwin'"
            )
        return self

    @property
    def takes_shares(self) -> bool:
        """Whether its detector takes nothing but values in [0, 1]."""
        return self.detector.startswith("hddm")
