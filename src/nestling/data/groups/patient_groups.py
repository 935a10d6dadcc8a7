"""Patients of four hospitals with their sex and age group, and a guideline that changes labels.

The guideline is made up for the example. It is no medical advice.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.data.groups.grouped_rows import GroupedRows
from nestling.data.sources import obtain
from nestling.data.sources.table_archives import list_heart_rows, read_heart

HOSPITALS = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
# The younger and the older half of all patients, about.
OLD_AGE = 55.0
LEAST_DEPRESSION = 1.0
REFERRED = "referred"


@dataclass(frozen=True, eq=False)
class HospitalPatients:
    """Patients of one hospital, split into those to learn from and those to test on.

    Attributes:
        name: of the hospital.
        trained: to learn from.
        tested: never learned.
    """

    name: str
    trained: GroupedRows
    tested: GroupedRows


def load_patients(folder: Path | None = None, *, offline: bool = False) -> GroupedRows:
    """Heart disease in four hospitals: 918 patients with sex, age group, hospital, guideline.

    Label 1 is disease. The columns are "sex" (female, male), "age group" ("under 55", "55 and
    over"), "hospital", and "guideline" ("referred" or "as before", see `apply_guideline`).

    Args:
        folder: where data are kept; None for the usual one.
        offline: fetch nothing.

    Raises:
        DataError: the source cannot be had.
    """
    return read_patients(*obtain("heart", folder, offline=offline))


def read_patients(path: Path) -> GroupedRows:
    """As `load_patients`, from the archive of the source `heart`."""
    table, rows = read_heart(path), list_heart_rows(path)
    columns = {
        "sex": tuple(row["sex"].lower() for row in rows),
        "age group": tuple(
            "55 and over" if float(row["age"]) >= OLD_AGE else "under 55" for row in rows
        ),
        "hospital": table.groups,
        "guideline": tuple(REFERRED if _asks_for(row) else "as before" for row in rows),
    }
    return GroupedRows(table.x, table.y, columns)


def split_hospitals(
    patients: GroupedRows, seed: int, *, tested: float = 0.4
) -> list[HospitalPatients]:
    """The four hospitals in sequence, each split into patients to learn from and to test on.

    The split is stratified by sex and label: as many women with disease are tested on with one
    seed as with another, and of each hospital `round(tested * N)` of its N patients.

    Args:
        patients: of `load_patients`.
        seed: draws who is tested on.
        tested: share of each hospital's patients, in (0, 1).

    Raises:
        SettingError: no such share.
    """
    if not 0.0 < tested < 1.0:
        raise SettingError(f"tested={tested}; a share between 0 and 1 works, e.g. 0.4")
    hospitals = []
    for name in HOSPITALS:
        own = patients.select(patients.find({"hospital": name})).shuffle(seed, name)
        is_tested = _draw_strata(own, tested)
        hospitals.append(HospitalPatients(name, own.select(~is_tested), own.select(is_tested)))
    return hospitals


def _draw_strata(patients: GroupedRows, share: float) -> Tensor:
    """Which rows are the share of each stratum of sex and label, (N,) bool.

    Rows of a stratum stand together, in the order given, and every 1 / share-th of all is taken.
    What a small stratum's share leaves over goes on to the next, so that the sum is right.
    """
    strata = list(zip(patients.columns["sex"], patients.y.tolist(), strict=True))
    order = sorted(range(len(patients)), key=strata.__getitem__)  # stable: shuffled within one
    is_tested = torch.zeros(len(patients), dtype=torch.bool, device="cpu")
    for place, row in enumerate(order):
        is_tested[row] = round(share * (place + 1)) > round(share * place)
    return is_tested


def apply_guideline(patients: GroupedRows) -> GroupedRows:
    """Patients whom the new guideline refers, as label 1, whatever their label was.

    It refers whoever has an ST depression of 1 mm or more under exercise though the chest pain is
    not "asymptomatic": 108 of the 918 patients, of whom the data call 49 diseased. This guideline
    is made up, so that there is one behaviour that must change; it is no medical advice.

    Args:
        patients: of `load_patients`, or some of them.

    Returns: those whom it refers, alone.
    """
    found = patients.select(patients.find({"guideline": REFERRED}))
    return found.relabel(torch.ones_like(found.y))


def _asks_for(row: dict[str, str]) -> bool:
    depression = float(row["oldpeak"] or "nan")  # not measured: NaN is not >= anything
    return row["cp"] != "asymptomatic" and depression >= LEAST_DEPRESSION
