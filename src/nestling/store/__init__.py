"""What lies on disk: files that are there whole or not at all."""

from nestling.store.whole_files import sync_folder, write_whole

__all__ = ["sync_folder", "write_whole"]
