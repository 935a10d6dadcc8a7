"""A lock that survives the copying and pickling of what it guards."""

import threading
from types import TracebackType


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
