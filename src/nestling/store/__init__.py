"""Files on disk: atomic writes, snapshots, and weights that others wrote."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nestling.store.whole_files import append_whole, write_whole

if TYPE_CHECKING:
    from nestling.store.legacy_weights import read_object_array, read_torch_weights
    from nestling.store.manifest import read_kind
    from nestling.store.snapshots import (
        link_snapshot,
        list_parts,
        read_listed,
        read_part,
        read_snapshot,
        write_snapshot,
    )

# Looked up when they are first used, so that whoever writes a file does not wait for torch.
_HOMES = {
    "link_snapshot": "snapshots",
    "list_parts": "snapshots",
    "read_kind": "manifest",
    "read_listed": "snapshots",
    "read_object_array": "legacy_weights",
    "read_part": "snapshots",
    "read_snapshot": "snapshots",
    "read_torch_weights": "legacy_weights",
    "write_snapshot": "snapshots",
}

__all__ = [
    "append_whole",
    "link_snapshot",
    "list_parts",
    "read_kind",
    "read_listed",
    "read_object_array",
    "read_part",
    "read_snapshot",
    "read_torch_weights",
    "write_snapshot",
    "write_whole",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"nestling.store.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'nestling.store' has no attribute {name!r}")
