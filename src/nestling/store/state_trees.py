"""A nested state as a JSON tree plus named tensors, and back, without losing a bit."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nestling.core.errors import SnapshotError

# In the tree a tensor is {"$tensor": pointer} and a float that JSON lacks is {"$float": "inf"};
# a user's key that begins with "$" gets a second one.
MARK = "$"


def encode_tree(state: object) -> tuple[object, dict[str, Tensor]]:
    """Split a state into what JSON can hold and tensors named by JSON pointer (RFC 6901).

    Args:
        state: nested str-keyed dicts, lists, tuples, JSON scalars and strided tensors.

    Returns: the tree, and pointer -> contiguous CPU tensor; no two share memory.

    Raises:
        SnapshotError: a key is not a string, or a value is of another type; says where.

    >>> encode_tree({"bias": torch.zeros(1), "best": math.inf})
    ({'bias': {'$tensor': '/bias'}, 'best': {'$float': 'inf'}}, {'/bias': tensor([0.])})
    """
    tensors: dict[str, Tensor] = {}
    return _encode(state, "", tensors, set()), tensors


def decode_tree(tree: object, tensors: Mapping[str, Tensor]) -> object:
    """Undo `encode_tree`; KeyError if the tree names a tensor that is not there."""
    if isinstance(tree, list):
        return [decode_tree(value, tensors) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return tensors[tree["$tensor"]]
    if "$float" in tree:
        return float(tree["$float"])
    return {key.removeprefix(MARK): decode_tree(value, tensors) for key, value in tree.items()}


def _encode(value: object, pointer: str, tensors: dict[str, Tensor], seen: set[int]) -> object:
    if isinstance(value, Tensor):
        tensors[pointer] = _copy_to_cpu(value, pointer, seen)
        return {"$tensor": pointer}
    if isinstance(value, Mapping):
        return {
            _escape_key(key, pointer): _encode(item, f"{pointer}/{_escape(key)}", tensors, seen)
            for key, item in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [
            _encode(item, f"{pointer}/{index}", tensors, seen) for index, item in enumerate(value)
        ]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(float(value))}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise SnapshotError(
        f"cannot store the {type(value).__name__} at '{pointer or '/'}' of a snapshot; "
        "use dicts, lists, strings, numbers, None and tensors"
    )


def _escape_key(key: object, pointer: str) -> str:
    if not isinstance(key, str):
        raise SnapshotError(
            f"cannot store the key {key!r} ({type(key).__name__}) at '{pointer or '/'}' of a "
            f"snapshot; use the string {str(key)!r}"
        )
    return MARK + key if key.startswith(MARK) else key


def _escape(key: str) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")


def _copy_to_cpu(tensor: Tensor, pointer: str, seen: set[int]) -> Tensor:
    """Contiguous on the CPU; copied where memory would be shared, which safetensors refuses."""
    is_dense = tensor.layout == torch.strided and not tensor.is_meta
    if not is_dense or tensor.is_quantized or tensor.dtype == torch.complex128:
        raise SnapshotError(
            f"cannot store the tensor at '{pointer or '/'}' of a snapshot: {tensor.dtype}, "
            f"{tensor.layout}, on {tensor.device}; use a dense tensor that has values, of a real "
            "dtype or complex64"
        )
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    address = plain.untyped_storage().data_ptr()
    if address in seen:
        plain = plain.clone()
        address = plain.untyped_storage().data_ptr()
    seen.add(address)
    return plain
