"""Objects that a text names: "module:function", as job files and plans write it."""

import importlib
import os
from collections.abc import Callable
from types import ModuleType

from nestling.core.errors import SettingError, suggest


def import_function(source: str) -> Callable[..., object]:
    """Import the function or class that "module:function" names.

    Raises:
        SettingError: no colon, no such module, no such function, or not callable.

    >>> import_function("math:sqrt")(9.0)
    3.0
    """
    module_name, _, function_name = source.partition(":")
    if not module_name or not function_name:
        raise SettingError(f"{source!r}: write 'module:function', e.g. 'my_models:make_net'")
    module = _import_module(module_name, source)
    function = getattr(module, function_name, None)
    if function is None:
        known = [name for name in vars(module) if callable(getattr(module, name))]
        known = [name for name in known if not name.startswith("_")]
        raise SettingError(
            f"{source!r}: module {module_name!r} has no function {function_name!r}; "
            + suggest(function_name, known)
        )
    if not callable(function):
        raise SettingError(
            f"{source!r} is a {type(function).__name__}; name a function that can be called"
        )
    return function  # type: ignore[no-any-return]  # getattr gives Any


def _import_module(name: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise SettingError(
                f"{source!r}: no module {name!r} in {os.getcwd()} or among the installed packages"
            ) from error
        raise SettingError(f"{source!r}: its module needs {error.name!r}, not installed") from error
    except (Exception, SystemExit) as error:
        raise SettingError(
            f"{source!r}: importing {name!r} failed: {type(error).__name__}: {error}"
        ) from error
