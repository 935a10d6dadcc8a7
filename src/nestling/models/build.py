"""Models by name: the built-in ones, and the user's own functions."""

import inspect
from collections.abc import Callable, Mapping

import torch
from torch import nn

from nestling.core.arguments import LEAST_SEED, MOST_SEED, check_seed
from nestling.core.errors import ModelError, NestlingError, SettingError, suggest
from nestling.core.imports import import_function
from nestling.models.continuum.stacking import StackedLevels
from nestling.models.convnet import ConvNet
from nestling.models.mlp import mlp
from nestling.models.transformer import TransformerClassifier

_BUILT_IN: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "convnet": ConvNet,
    "transformer": TransformerClassifier,
}


def list_models() -> list[str]:
    """Names of the built-in models that `build_model` knows.

    >>> list_models()
    ['convnet', 'mlp', 'transformer']
    """
    return sorted(_BUILT_IN)


def build_model(
    source: str, options: Mapping[str, object] | None = None, *, seed: int = 0
) -> nn.Module:
    """Build a built-in model by name, or call the user's own function.

    Args:
        source: one of `list_models()`, or "module:function".
        options: arguments by name, e.g. {"sizes": [64, 128, 10]}.
        seed: of the initial weights; torch's global generator is put back afterwards.

    Raises:
        ModelError: no such model, module or function; unknown or wrong options; the
            function returns something else than an nn.Module.

    >>> build_model("mlp", {"sizes": [4, 2]})
    Sequential(
      (flatten): Flatten(start_dim=1, end_dim=-1)
      (trunk): Sequential()
      (head): Linear(in_features=4, out_features=2, bias=True)
    )
    """
    if ":" in source:
        return load_model(source, options, seed=seed)
    if source not in _BUILT_IN:
        raise ModelError(
            f"model {source!r}: {suggest(source, _BUILT_IN)}; "
            "your own model is given as 'module:function'"
        )
    return _make(source, _BUILT_IN[source], options or {}, seed)


def build_subject(
    source: str, options: Mapping[str, object] | None = None, *, seed: int = 0
) -> nn.Module | StackedLevels:
    """As `build_model`, but the user's function may also return stacked levels.

    Args:
        source: as in `build_model`.
        options: as in `build_model`.
        seed: as in `build_model`.

    Raises:
        ModelError: see `build_model`.

    >>> build_subject("torch.nn:Identity")
    Identity()
    """
    if ":" not in source:
        return build_model(source, options, seed=seed)
    made = _call(source, _find_function(source), options or {}, seed)
    return made if isinstance(made, StackedLevels) else _check_module(source, made)


def load_model(
    source: str, options: Mapping[str, object] | None = None, *, seed: int = 0
) -> nn.Module:
    """Import the user's own function and build the model that it returns.

    Args:
        source: "module:function"; the function returns an nn.Module.
        options: arguments by name.
        seed: as in `build_model`.

    Raises:
        ModelError: see `build_model`.

    >>> load_model("torch.nn:Identity")
    Identity()
    """
    return _make(source, _find_function(source), options or {}, seed)


def _find_function(source: str) -> Callable[..., object]:
    """The user's own function."""
    try:
        return import_function(source)
    except SettingError as error:
        raise ModelError(str(error)) from error


def _make(
    source: str, function: Callable[..., object], options: Mapping[str, object], seed: int
) -> nn.Module:
    return _check_module(source, _call(source, function, options, seed))


def _call(
    source: str, function: Callable[..., object], options: Mapping[str, object], seed: int
) -> object:
    """What the function returns, its weights drawn by the seed."""
    _check_options(source, function, options)
    seed = check_seed(seed)
    if not LEAST_SEED <= seed <= MOST_SEED:
        raise ModelError(
            f"seed={seed} is out of torch's range; a whole number from -2**63 to 2**64 - 1 works, "
            "e.g. 0"
        )
    # torch's layers draw their first weights from the global generator: fork it, so that the
    # seed decides and the caller's random numbers stay what they were.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return function(**options)
        except NestlingError:
            raise
        except Exception as error:
            shown = ", ".join(f"{name} = {value!r}" for name, value in options.items())
            raise ModelError(
                f"model {source!r} with options ({shown}) could not be made: "
                f"{type(error).__name__}: {error}"
            ) from error


def _check_module(source: str, model: object) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model {source!r} returned {type(model).__name__}; the function must return "
            "a torch.nn.Module"
        )
    return model


def _check_options(
    source: str, function: Callable[..., object], options: Mapping[str, object]
) -> None:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions written in C have no signature
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in options:
        if name not in parameters:
            raise ModelError(f"model {source!r}, option {name!r}: {suggest(name, parameters)}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            if parameter.kind is parameter.VAR_POSITIONAL:
                continue
            raise ModelError(f"model {source!r} needs the option {name!r}; give it in its options")
