"""Any torch optimizer as a level's update rule: a function from parameters to an optimizer."""

import inspect
import sys
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.core.imports import import_function

# Function from a list of parameters to a `torch.optim.Optimizer`, or such a class.
OptimizerFactory = Callable[[list[Tensor]], torch.optim.Optimizer]
_WORKS = "lambda params: torch.optim.RMSprop(params, lr=0.01) works"


@dataclass(frozen=True, eq=False)
class CustomOptimizer:
    """Any torch optimizer for a level, given by the function that makes it.

    Two are equal if their functions are; of `functools.partial`, if function and arguments are.

    Args:
        make: from a list of parameters to a torch optimizer over them, with one group of them.
        name: what it is called in files and messages, "module:qualname".

    >>> CustomOptimizer.wrap(torch.optim.RMSprop).name
    'torch.optim.rmsprop:RMSprop'
    >>> CustomOptimizer.wrap(partial(torch.optim.Adagrad, lr=0.1)).name
    'torch.optim.adagrad:Adagrad(lr=0.1)'
    """

    make: OptimizerFactory
    name: str

    @classmethod
    def wrap(cls, make: OptimizerFactory, name: str | None = None) -> "CustomOptimizer":
        """Wrap a function; it is named by where it was defined, or by `name` if not found there."""
        own = _describe(make)
        return cls(make, own if name is None or _is_found(own, make) else name)

    @classmethod
    def load(cls, name: str) -> "CustomOptimizer":
        """Import the function that "module:function" names; raises SettingError."""
        return cls.wrap(import_function(name), name)  # type: ignore[arg-type]  # checked by build

    @property
    def is_importable(self) -> bool:
        """Whether its name can be written to a file and imported by another process."""
        return _is_found(self.name, self.make) and not self.name.startswith("__main__:")

    def build(self, params: Iterable[Tensor]) -> torch.optim.Optimizer:
        """Make the torch optimizer over `params`.

        Raises:
            SettingError: it fails or makes no optimizer, one that needs a closure, one over
                other parameters, or one with several groups of them.
        """
        params = list(params)
        try:
            inner = self.make(list(params))
        except Exception as error:
            told = " ".join(str(error).split())
            raise SettingError(
                f"optimizer {self.name!r} failed, {type(error).__name__}: {told}; {_WORKS}"
            ) from error
        if not isinstance(inner, torch.optim.Optimizer):
            raise SettingError(
                f"optimizer {self.name!r} gave {type(inner).__name__}, which is no "
                f"torch.optim.Optimizer; {_WORKS}"
            )
        if _needs_closure(inner):
            raise SettingError(
                f"optimizer {self.name!r} gave {type(inner).__name__}, whose step needs a closure; "
                "a level hands over one gradient per update: take one that needs none, as nl.adamw"
            )
        if len(inner.param_groups) != 1:
            raise SettingError(
                f"optimizer {self.name!r} made {len(inner.param_groups)} parameter groups; make "
                "one, and give what learns differently a level of its own"
            )
        held = [id(param) for param in inner.param_groups[0]["params"]]
        if held != [id(param) for param in params]:
            raise SettingError(
                f"optimizer {self.name!r} holds {len(held)} parameters that are not the "
                f"{len(params)} given, in their order; hand params over as they come: {_WORKS}"
            )
        return inner

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CustomOptimizer):
            return NotImplemented
        return _find_parts(self.make) == _find_parts(other.make)

    def __hash__(self) -> int:
        # Arguments of a partial need not be hashable.
        return hash(_find_parts(self.make)[0])

    def __repr__(self) -> str:
        return f"CustomOptimizer({self.name!r})"


def _find_parts(make: OptimizerFactory) -> tuple[Hashable, object]:
    if isinstance(make, partial):
        return make.func, (make.args, make.keywords)
    return make if isinstance(make, Hashable) else id(make), None


def _describe(make: object) -> str:
    if isinstance(make, partial):
        given = [_show(value) for value in make.args]
        given += [f"{name}={_show(value)}" for name, value in make.keywords.items()]
        return f"{_describe(make.func)}({', '.join(given)})"
    # An object that can be called is shown as its class.
    owner = make if hasattr(make, "__qualname__") else type(make)
    return f"{owner.__module__}:{owner.__qualname__}"


def _show(value: object) -> str:
    # The address that others print changes from process to process.
    is_plain = isinstance(value, int | float | str | bool | tuple | list | None)
    return repr(value) if is_plain else type(value).__name__


def _is_found(name: str, make: object) -> bool:
    module_name, _, function_name = name.partition(":")
    return getattr(sys.modules.get(module_name), function_name, None) is make


def _needs_closure(inner: torch.optim.Optimizer) -> bool:
    return any(
        parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in inspect.signature(inner.step).parameters.values()
    )
