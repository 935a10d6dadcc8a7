"""Drift detectors: the small interface that they share, their alarms, and their saved state."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import ConfigDict, Field

from nestling.core.arguments import name_kind
from nestling.core.errors import DataError, MismatchedParameters, NonFiniteInput

CONFIG = ConfigDict(extra="forbid", defer_build=True)
Count = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(gt=0.0, lt=1.0)]
# Of larger numbers the squares, and sums of many squares, would not be finite.
LARGEST = 1e100


@dataclass(frozen=True)
class Drift:
    """Alarm of a drift detector: the values have changed.

    Attributes:
        at: values seen so far, this one included.
        is_rise: whether they went up; of an error: whether it got worse.
    """

    at: int
    is_rise: bool


class DriftDetector(Protocol):
    """Protocol of drift detectors: one number in, an alarm out when the numbers have changed.

    After an alarm a detector begins anew: what was before the change says nothing of the next one.

    Attributes:
        kind: its name in plans and states.
        num_seen: values so far; a drift does not set it back.
        num_drifts: alarms so far.
    """

    kind: ClassVar[str]
    num_seen: int
    num_drifts: int

    def update(self, value: float) -> Drift | None:
        """Take in the next value, e.g. an error (0 or 1) or a loss.

        Returns: the alarm if the values have changed, else None.

        Raises:
            DataError: it is no finite number, or out of the detector's range; nothing is changed.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that the next alarm depends on, as plain data that JSON can hold; copies."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            MismatchedParameters: it is of another kind or of other settings; nothing is changed.
        """


def read_value(kind: str, value: object, low: float = -LARGEST, high: float = LARGEST) -> float:
    """The value as a float, if a detector can take it in.

    Args:
        kind: of the detector.
        value: anything.
        low, high: bounds, both included.

    Raises:
        DataError: no number, or beyond the bounds.
        NonFiniteInput: NaN or infinity.

    >>> read_value("adwin", True)
    1.0
    """
    if type(value) is float and low <= value <= high:  # what nearly all of them are
        return value
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever it is that was given
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{kind} got {name_kind(value)}; a number works") from None
    if isinstance(value, str | bytes):
        raise DataError(f"{kind} got the text {value!r}; a number works")
    if low <= number <= high:
        return number
    if not math.isfinite(number):
        raise NonFiniteInput(f"{kind} got {number}; leave out what is not finite")
    raise DataError(f"{kind} got {number:g}; numbers from {low:g} to {high:g} work")


def export_state(detector: DriftDetector, names: Sequence[str]) -> dict[str, Any]:
    """A detector's kind, settings and the attributes `names`, as plain data."""
    course = {name: copy.deepcopy(getattr(detector, name)) for name in names}
    return {"kind": detector.kind, "settings": _list_settings(detector), **course}


def import_state(detector: DriftDetector, state: Mapping[str, Any], names: Sequence[str]) -> None:
    """Take over what `export_state` gave; raises MismatchedParameters with nothing changed."""
    kind, settings = detector.kind, _list_settings(detector)
    if not isinstance(state, Mapping) or state.get("kind") != kind:
        raise MismatchedParameters(f"the state is of no {kind}; give it that of a {kind} detector")
    if state.get("settings") != settings:
        raise MismatchedParameters(
            f"the state is of {kind} with {state.get('settings')}, this one has {settings}; "
            "make one with the same settings"
        )
    for name in names:
        if not _fits(getattr(detector, name), state.get(name)):
            raise MismatchedParameters(
                f"the state of {kind} has no {name}; give it a whole state_dict()"
            )
    for name in names:
        setattr(detector, name, copy.deepcopy(state[name]))


def _list_settings(detector: DriftDetector) -> dict[str, Any]:
    return asdict(detector)  # type: ignore[call-overload, no-any-return]  # all are data classes


def _fits(own: object, saved: object) -> bool:
    """Whether a saved attribute may stand in the place of a live one."""
    if isinstance(own, float):
        return isinstance(saved, int | float) and math.isfinite(saved)
    return type(saved) is type(own)
