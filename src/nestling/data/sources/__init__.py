"""Data sources: licences, checksums, downloading, and a reader per archive."""

from nestling.data.sources.catalogue import find_source, list_sources
from nestling.data.sources.fetching import fetch_source, find_cache, find_folder, obtain
from nestling.data.sources.source import Source, SourceFile

__all__ = [
    "Source",
    "SourceFile",
    "fetch_source",
    "find_cache",
    "find_folder",
    "find_source",
    "list_sources",
    "obtain",
]
