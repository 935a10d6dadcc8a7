"""Benchmarks: suites that measure, and tables of results.

Suites are modules, imported when they run: `overhead`, `spine_cost`, `demo`, in `promises` those
of memories, and in `personal` that of persons.
"""

from nestling.bench.result import SuiteResult, read_figures, write_result
from nestling.bench.suites.encoding import encode_suite
from nestling.bench.table import build_table, format_markdown
from nestling.bench.timing import median_ratio, time_calls, time_rounds

__all__ = [
    "SuiteResult",
    "build_table",
    "encode_suite",
    "format_markdown",
    "median_ratio",
    "read_figures",
    "time_calls",
    "time_rounds",
    "write_result",
]
