"""What lies on disk: whole files, snapshots of a state, and others' files that hold pickle."""

from nestling.store.legacy_weights import read_object_array, read_torch_weights
from nestling.store.snapshots import read_part, read_snapshot, write_snapshot
from nestling.store.whole_files import sync_folder, write_whole

__all__ = [
    "read_object_array",
    "read_part",
    "read_snapshot",
    "read_torch_weights",
    "sync_folder",
    "write_snapshot",
    "write_whole",
]
