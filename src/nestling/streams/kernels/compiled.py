"""Kernels that numba compiles: loops over arrays, cached, free of the interpreter's lock."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from nestling.core.errors import MissingExtra

# Beside the folders kernels and trees, this file holds kernels, which call all others.
STEP = "experts/event_step.py"
Kernel = TypeVar("Kernel", bound=Callable[..., object])

# Sums may be reordered and fused, so that they become vectors; NaN and infinity keep their meaning.
FAST = frozenset({"reassoc", "contract", "nsz", "arcp"})


def compiled(function: Kernel) -> Kernel:
    """Compile a function over arrays and numbers by numba, at its first call.

    Modules that use it import numba when they are imported: import them where a stream learner is
    made, never from a room's `__init__`.

    Args:
        function: loops over numpy arrays; it calls nothing but numpy and other kernels.

    Returns:
        the same function, compiled: one machine code for each set of argument types.

    Raises:
        MissingExtra: numba is not installed.
    """
    try:
        import numba
    except ImportError as error:
        raise MissingExtra(
            "a stream learner needs numba: pip install 'nestling[streams]'"
        ) from error
    decorate: Any = numba.njit
    kernel = decorate(
        cache=True,
        nogil=True,
        error_model="numpy",
        fastmath=set(FAST),
        boundscheck=False,
        no_cfunc_wrapper=True,  # nobody calls them from C, and each takes time to compile
    )(function)
    # numba looks whether a kernel's own file has changed, not those of the kernels that it calls:
    # what is cached would go on with their old code.
    cached = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
    if cached is not None and hasattr(cached, "_source_stamp"):
        cached._source_stamp = stamp_kernels()
    return cast(Kernel, kernel)


@functools.cache
def stamp_kernels() -> str:
    """A digest of all files that hold kernels."""
    digest = hashlib.sha256()
    room = Path(__file__).parents[1]
    for path in sorted([*room.glob("kernels/*.py"), *room.glob("trees/*.py"), room / STEP]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
