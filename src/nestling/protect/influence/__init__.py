"""Bounded influence of one source: how many rows, how far out, how much at odds with the rest."""

from nestling.protect.influence.admission import Admission
from nestling.protect.influence.influence_rules import (
    find_disagreement,
    find_far_rows,
    find_surplus,
    measure_row_errors,
    wilson_low,
)
from nestling.protect.influence.source_guard import SourceGuard

__all__ = [
    "Admission",
    "SourceGuard",
    "find_disagreement",
    "find_far_rows",
    "find_surplus",
    "measure_row_errors",
    "wilson_low",
]
