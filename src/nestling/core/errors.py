"""Exceptions: everything that can go wrong because of what the user gave.

NestlingError
├── SettingError            a plan, an argument or a knob that cannot be carried out
│   ├── UnclaimedParameter  a trainable parameter that no level claims
│   ├── IdlePattern         a pattern that claims nothing
│   ├── UnknownLevel        a name that no level has
│   ├── LateParameter       a parameter that appeared after the levels were assigned
│   └── ClockError          a clock that went back
├── DataError               data that cannot be learned from
│   ├── UnknownLabel        a label outside the declared classes
│   ├── UnknownEvent        a label for an event that does not wait for one
│   ├── NonFiniteInput      NaN or infinity in features or targets
│   └── ShapeMismatch       shapes or dtypes that do not fit together
├── ModelError              a model that cannot be made or loaded
├── JobError                a job file that cannot be carried out
├── MismatchedParameters    two name -> tensor mappings that differ in names or shapes
├── MergeError              two memories that cannot be merged
├── ProposalError           a change of the spine that may not be committed
├── ContractError           what a change contract does not allow
├── VersionError            a version that is not there, or cannot be gone back to
├── NotFitted               asked for an answer before anything was learned
├── SnapshotError           a snapshot that cannot be restored
│   ├── CorruptSnapshot     truncated, or with bytes that changed
│   └── ForeignSnapshot     of another model, plan or schema version
└── MissingExtra            an optional dependency that is not installed
"""

import difflib
from collections.abc import Iterable


class NestlingError(Exception):
    """Base class of the errors that nestling raises and a user can mend."""


class SettingError(NestlingError, ValueError):
    """A plan, an argument or a knob that cannot be carried out."""


class UnclaimedParameter(SettingError):
    """A trainable parameter that no level claims."""


class IdlePattern(SettingError):
    """A pattern that claims no parameter."""


class UnknownLevel(SettingError):
    """A name that no level of the plan has."""


class LateParameter(SettingError):
    """A parameter that appeared after the levels were assigned."""


class ClockError(SettingError):
    """A clock that went back, by which bounds per day are counted."""


class DataError(NestlingError):
    """Data that cannot be learned from."""


class UnknownLabel(DataError):
    """A label outside the declared classes."""


class UnknownEvent(DataError):
    """A label for an event that does not wait for one."""


class NonFiniteInput(DataError):
    """NaN or infinity in features or targets."""


class ShapeMismatch(DataError):
    """Shapes or dtypes that do not fit together."""


class ModelError(NestlingError):
    """A model that cannot be made or loaded."""


class JobError(NestlingError):
    """A job file that cannot be carried out."""


class MismatchedParameters(NestlingError):
    """Two name -> tensor mappings that differ in names or shapes."""


class MergeError(NestlingError):
    """Two memories that cannot be merged."""


class ProposalError(NestlingError):
    """A change of the spine that may not be committed."""


class ContractError(NestlingError):
    """What a change contract does not allow."""


class VersionError(NestlingError):
    """A version that is not there, or that cannot be made or gone back to."""


class NotFitted(NestlingError):
    """Asked for an answer before anything was learned."""


class SnapshotError(NestlingError):
    """A snapshot that cannot be restored."""


class CorruptSnapshot(SnapshotError):
    """A snapshot that is truncated or whose bytes changed."""


class ForeignSnapshot(SnapshotError):
    """A snapshot of another model, plan or schema version."""


class MissingExtra(NestlingError):
    """An optional dependency that is not installed."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Say which names are known and which of them is nearest to `name`.

    Args:
        name: what the user wrote.
        known: what would have worked.

    Returns: a clause to end an error message with.

    >>> suggest("trunck", ["head", "trunk", "spine"])
    "known: ['head', 'spine', 'trunk']; did you mean 'trunk'?"
    """
    names = sorted(known)
    shown = names if len(names) <= 12 else [*names[:12], f"... and {len(names) - 12} more"]
    near = difflib.get_close_matches(str(name), names, n=1)  # whatever it is that was given
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"known: {shown}{hint}"
