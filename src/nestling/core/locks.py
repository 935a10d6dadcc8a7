"""A lock that survives the copying and pickling of what it guards."""

import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Concatenate, ParamSpec, Protocol, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


class RemadeLock:
    """A re-entrant lock; a copy of it, or what comes out of a pickle, is a new and open one.

    >>> import copy
    >>> lock = RemadeLock()
    >>> with lock:
    ...     other = copy.deepcopy(lock)
    >>> other is lock
    False
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type["RemadeLock"], tuple[()]]:
        return (RemadeLock, ())


class Locked(Protocol):
    """What is guarded by a lock of its own."""

    _lock: RemadeLock


Owner = TypeVar("Owner", bound=Locked)


def locked(
    method: Callable[Concatenate[Owner, Given], Result],
) -> Callable[Concatenate[Owner, Given], Result]:
    """Let a method run while it holds `self._lock`, so that threads take turns."""

    @functools.wraps(method)
    def run(self: Owner, /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        with self._lock:
            return method(self, *args, **kwargs)

    return run
