"""Arguments that are not what they should be: said in one line, before anything is done."""

import operator
from collections.abc import Iterator
from typing import cast

import torch
from torch import nn

from nestling.core.errors import SettingError

# What torch's own generators take.
LEAST_SEED, MOST_SEED = -(2**63), 2**64 - 1


def name_kind(value: object) -> str:
    """What a value is, in words for an error message.

    >>> name_kind(3), name_kind(nn.Linear), name_kind(None)
    ('an int', 'the class Linear', 'None')
    """
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeiouAEIO' else 'a'} {name}"


def check_model(model: object, caller: str) -> nn.Module:
    """The model, if it is one.

    Args:
        model: what was given.
        caller: class that it was given to, for the error.

    Raises:
        SettingError: its parameters, its class, a plan or anything else.
    """
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, type) and issubclass(model, nn.Module):
        remedy = f"make one first: {model.__name__}(...)"
    elif isinstance(model, Iterator | list | tuple | dict):
        remedy = f"give the whole model, not its parameters: {caller}(model, plan)"
    else:
        remedy = f"give a torch.nn.Module first: {caller}(model, plan)"
    raise SettingError(f"the model is {name_kind(model)}; {remedy}")


def check_whole(name: str, value: object, least: int, remedy: str) -> int:
    """A whole number of `least` or more; numbers of NumPy count, true and false do not.

    Raises:
        SettingError: anything else; `remedy` says what works.

    >>> check_whole("epochs", 3, 1, "1 or more works")
    3
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < least:
        raise SettingError(f"{name}={value!r}; {remedy}")
    return number


def check_seed(seed: object) -> int:
    """A seed as a plain integer of any size or sign; SettingError if it is none."""
    try:
        return int(operator.index(seed))  # type: ignore[arg-type]
    except TypeError:
        raise SettingError(f"seed={seed!r}; a whole number works, e.g. 0") from None


def check_callable(name: str, value: object, example: str) -> None:
    """Raise SettingError unless a setting is None or can be called."""
    if value is not None and not callable(value):
        raise SettingError(f"{name}={value!r}; a function works, e.g. {example}, or None")


def check_device(device: object) -> torch.device | None:
    """A device of this machine, or None; SettingError if there is none of that name."""
    if device is None:
        return None
    try:
        found = torch.device(cast(torch.device | str, device))
        torch.empty(0, dtype=torch.float32, device=found)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        here = ["cpu"] + ["cuda"] * torch.cuda.is_available()
        here += ["mps"] * torch.backends.mps.is_available()
        reason = str(error).splitlines()[0][:80]
        raise SettingError(
            f"device={device!r} cannot be used here ({reason}); known: {here}"
        ) from None
    return found
