"""Arrays by their addresses: a kernel is given one table in place of dozens of arrays.

To hand an array to a compiled function takes about a sixth of a microsecond, which for all arrays
of all experts is as long as their arithmetic. Whoever makes a table keeps its arrays alive, and
makes it anew when one of them is replaced.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]  # it is public
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from nestling.streams.kernels.compiled import compiled

Ints = NDArray[np.int64]
# Numbers in a table for each array: its address, and four lengths.
ROW = 5


def tabulate(arrays: Iterable[NDArray[Any]]) -> Ints:
    """Table of the addresses and shapes of arrays, in their order.

    Args:
        arrays: in one piece (C order), of at most 4 axes.

    Returns: (number of arrays * 5,) int64.

    >>> tabulate([np.zeros((2, 3))])[1:].tolist()
    [2, 3, 0, 0]
    """
    rows = []
    for array in arrays:
        assert array.flags.c_contiguous, "kernels read arrays that lie in one piece"
        rows.append([array.ctypes.data, *array.shape, *[0] * (ROW - 1 - array.ndim)])
    return np.array(rows, dtype=np.int64).reshape(-1)


def _type_pointer(typing_context: Any, address: Any) -> Any:  # noqa: ARG001  # numba's own form
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


_as_pointer: Any = intrinsic(_type_pointer)


@compiled
def array_1(table: Ints, at: int, dtype: Any) -> NDArray[Any]:
    """The array number `at` of a table: of one axis, of a numpy type such as np.float64."""
    at *= ROW
    return carray(_as_pointer(table[at]), (table[at + 1],), dtype)


@compiled
def array_2(table: Ints, at: int, dtype: Any) -> NDArray[Any]:
    """One of two axes."""
    at *= ROW
    return carray(_as_pointer(table[at]), (table[at + 1], table[at + 2]), dtype)


@compiled
def array_3(table: Ints, at: int, dtype: Any) -> NDArray[Any]:
    """One of three axes."""
    at *= ROW
    shape = (table[at + 1], table[at + 2], table[at + 3])
    return carray(_as_pointer(table[at]), shape, dtype)


@compiled
def array_4(table: Ints, at: int, dtype: Any) -> NDArray[Any]:
    """One of four axes."""
    at *= ROW
    shape = (table[at + 1], table[at + 2], table[at + 3], table[at + 4])
    return carray(_as_pointer(table[at]), shape, dtype)
