"""Labelled rows with the groups they belong to: patients of hospitals, people of the census."""

from nestling.data.groups.census_groups import balance_labels, load_census, plant_bias
from nestling.data.groups.grouped_rows import GroupedRows, join_rows
from nestling.data.groups.patient_groups import (
    HospitalPatients,
    apply_guideline,
    load_patients,
    split_hospitals,
)

__all__ = [
    "GroupedRows",
    "HospitalPatients",
    "apply_guideline",
    "balance_labels",
    "join_rows",
    "load_census",
    "load_patients",
    "plant_bias",
    "split_hospitals",
]
