"""Experiences, splits, the user's own tables, and data sets by name."""

from nestling.data.archives import Dataset, fetch, find_folder, list_datasets, load
from nestling.data.digits import demo_experiences, load_digits, restyle_digits
from nestling.data.experiences import (
    Experience,
    domain_incremental,
    list_classes,
    split_by_class,
    task_incremental,
)
from nestling.data.tables import from_arrays, read_table

__all__ = [
    "Dataset",
    "Experience",
    "demo_experiences",
    "domain_incremental",
    "fetch",
    "find_folder",
    "from_arrays",
    "list_classes",
    "list_datasets",
    "load",
    "load_digits",
    "read_table",
    "restyle_digits",
    "split_by_class",
    "task_incremental",
]
