"""Data: experiences, continual-learning scenarios, your own tables, data sets by name."""

from nestling.data.archives import list_datasets, load
from nestling.data.digits import demo_experiences, load_digits, restyle_digits
from nestling.data.drifts import drifting, iterate_stream, relabelled, task_free
from nestling.data.experiences import (
    Experience,
    domain_incremental,
    list_classes,
    split_by_class,
    task_incremental,
)
from nestling.data.scenarios import (
    blurred,
    class_incremental,
    multi_task,
    repeating,
)
from nestling.data.sources import Source, fetch_source, find_folder, list_sources
from nestling.data.suites import Suite, list_suite_sources, list_suites, make_suite
from nestling.data.table_encoding import TableEncoding, fit_encoding
from nestling.data.table_files import RawTable, Targets, from_arrays, read_columns, read_table

__all__ = [
    "Experience",
    "RawTable",
    "Source",
    "Suite",
    "TableEncoding",
    "Targets",
    "blurred",
    "class_incremental",
    "demo_experiences",
    "domain_incremental",
    "drifting",
    "fetch_source",
    "find_folder",
    "fit_encoding",
    "from_arrays",
    "iterate_stream",
    "list_classes",
    "list_datasets",
    "list_sources",
    "list_suite_sources",
    "list_suites",
    "load",
    "load_digits",
    "make_suite",
    "multi_task",
    "read_columns",
    "read_table",
    "relabelled",
    "repeating",
    "restyle_digits",
    "split_by_class",
    "task_free",
    "task_incremental",
]
