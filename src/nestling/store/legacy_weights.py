"""Files of other makers that hold pickle: trained weights, and arrays of arrays.

The one place in the package where pickle is read. Nothing is read before its sha256 is the one
that its caller has pinned, and then by a machine that knows a closed list of names: torch's own
for weights, one of four names for arrays. So a file can call nothing, whoever sent it.
"""

import hashlib
import io
import pickle  # noqa: TID251  # read below by a machine that finds four names, none a real one
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nestling.core.errors import DataError, ModelError, NestlingError

# Kinds of number in an array: little-endian, as most machines write them.
_NUMBERS = frozenset({"f8", "f4", "i8", "i4"})
_NAMES = frozenset(
    {
        "numpy.core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
        "_codecs encode",
    }
)


def read_torch_weights(content: bytes, *, sha256: str) -> dict[str, Tensor]:
    """Read weights by name from a file that `torch.save` wrote, also before torch 1.6.

    Args:
        content: bytes of the whole file.
        sha256: of the content, pinned by the caller; 64 hexadecimal digits.

    Returns: name -> tensor on the CPU that shares no memory with another.

    Raises:
        ModelError: another sha256, a cut file, or anything else in it than tensors by name.
    """
    _check_sha256(content, sha256, ModelError)
    try:
        # weights_only: no pickle is run; torch builds tensors and calls nothing that is named.
        found = torch.load(  # noqa: TID251
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
    except Exception as error:  # torch raises whatever its reader stumbles over
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"the weight file cannot be read as weights ({type(error).__name__}: {reason}); "
            "take one that holds tensors by name and nothing else"
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"the weight file holds a {type(found).__name__}, not tensors by name")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"the weight file holds a {type(value).__name__} as {name!r} where a tensor "
                "with a name should be"
            )
    return {name: value.detach().clone() for name, value in found.items()}


def read_object_array(content: bytes, *, sha256: str) -> dict[str, list[object]]:
    """Read arrays from a NumPy file of one pickled dictionary, without running the pickle.

    Args:
        content: bytes of the .npy file.
        sha256: of the content, pinned by the caller; 64 hexadecimal digits.

    Returns: name -> numbers or words or arrays, one per entry.

    Raises:
        DataError: another sha256, a cut file, or a name that plain arrays do not need.
    """
    _check_sha256(content, sha256, DataError)
    if content[:8] != b"\x93NUMPY\x01\x00":
        raise DataError("not a NumPy file of version 1.0")
    start = 10 + int.from_bytes(content[8:10], "little")
    try:
        stored = _settle(_ArrayReader(io.BytesIO(content[start:])).load())
    except DataError:
        raise
    except Exception as error:  # a damaged pickle fails in as many ways as there are bytes
        raise DataError(f"the arrays are cut or damaged, so refused: {error!r}") from error
    if isinstance(stored, list) and len(stored) == 1 and isinstance(stored[0], dict):
        return stored[0]
    raise DataError("the file holds something else than one dictionary")


def _check_sha256(content: bytes, wanted: str, kind: type[NestlingError]) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise kind(
            f"the file's content has sha256 {found}, not the pinned {wanted}; it is not read, "
            "fetch it again"
        )


class _ArrayReader(pickle.Unpickler):
    """Finds four names, and a stand-in for each: what the names mean elsewhere is never called."""

    def find_class(self, module: str, name: str) -> object:
        text = f"{module} {name}"
        if text not in _NAMES:
            raise DataError(f"the pickle asks for {text!r}: not needed for arrays, so refused")
        return _Name(text)

    def persistent_load(self, pid: object) -> object:
        raise DataError(f"the pickle asks for the object {pid!r} of elsewhere, so refused")


@dataclass
class _Array:
    """An array while it is put together; the pickle's memo holds it, so it is filled in place."""

    content: object = None

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, tuple(shape), _Number(kind), by_columns, bytes(raw)) if kind in _NUMBERS:
                flat = np.frombuffer(raw, f"<{kind}")
                self.content = flat.reshape(shape, order="F" if by_columns else "C")
            case (_, tuple(), _Number("O8"), _, list(items)):
                self.content = items
            case (_, _, _Number(kind), _, _):
                raise DataError(
                    f"an array of {kind!r}, so refused; known: {sorted(_NUMBERS)} and objects"
                )
            case _:
                raise DataError("the pickle builds something that is no array, so refused")


@dataclass
class _Number:
    """A type of numbers."""

    kind: str

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, "<" | "|", *_):
                return
        raise DataError(f"numbers of {state!r}, so refused; known: little-endian ones")


@dataclass(frozen=True)
class _Name:
    """A name that the pickle speaks of, and what is done where the pickle calls it."""

    text: str

    def __call__(self, *arguments: object) -> object:
        match self.text, arguments:
            case "_codecs encode", (str(letters), "latin1"):
                return letters.encode("latin1")
            case "numpy.core.multiarray _reconstruct", _:
                return _Array()
            case "numpy dtype", (str(kind), *_):
                return _Number(kind)
        raise DataError(f"the pickle calls {self.text!r}: not needed for arrays, so refused")

    def __setstate__(self, state: object) -> None:
        raise DataError(f"the pickle fills {self.text!r}, so refused")


def _settle(found: object) -> object:
    """Arrays in place of what stood for them."""
    if isinstance(found, _Array):
        return _settle(found.content)
    if isinstance(found, dict):
        return {name: _settle(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_settle(value) for value in found]
    return found
