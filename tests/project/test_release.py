"""What a release promises: version, change log, pins and licences."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKED = [
    line.split("==")[0]
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if "==" in line and not line.startswith("#")
]
# Copyleft that reaches only the files of the package itself, so that depending on it is no
# obligation for us: the Mozilla licence. Nothing under the GPL or the LGPL is allowed.
WEAK_COPYLEFT = {"certifi", "hypothesis", "pathspec", "tqdm"}


def test_version_is_the_newest_in_the_change_log() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == project["version"] == metadata.version("nestling")


def test_the_lock_pins_torch() -> None:
    assert "torch==2.13.0" in (ROOT / "requirements.lock").read_text().splitlines()


def test_the_lock_pins_every_line() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    loose = [line for line in lines if line and not line.startswith("#") and "==" not in line]
    assert not loose


def test_the_lock_holds_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = list(project["dependencies"])
    for group in project["optional-dependencies"].values():
        asked += [entry for entry in group if not entry.startswith("nestling")]
    names = {re.split(r"[<>=\[; ]", entry)[0].lower().replace("_", "-") for entry in asked}
    assert names <= {name.lower().replace("_", "-") for name in LOCKED}


def read_licence(package: str) -> str:
    """Everything that a package says of its licence, except the licence's own long text."""
    about = metadata.metadata(package)
    said = [
        line.split("\n")[0]
        for key in ("License-Expression", "License")
        for line in about.get_all(key) or []
    ]
    said += [line for line in about.get_all("Classifier") or [] if line.startswith("License")]
    return " | ".join(part for part in said if part)


def has_gpl(licence: str) -> bool:
    """Whether every choice that the licence leaves is of the GPL family."""
    choices = re.split(r"\bOR\b", licence)
    return all(re.search(r"GPL|General Public Licen[cs]e", choice) for choice in choices)


def test_has_gpl_knows_one_when_it_sees_one() -> None:
    assert has_gpl("GPL-3.0-only")
    assert has_gpl("License :: OSI Approved :: GNU General Public License v3 (GPLv3)")
    assert not has_gpl("MIT OR GPL-2.0")
    assert not has_gpl("BSD-3-Clause")


def find_fault(package: str) -> str | None:
    """What stands against a package's licence, in a few words; None for nothing."""
    licence = read_licence(package)
    if not licence:
        return f"{package} says nothing of its licence"
    is_weak = "MPL" in licence or "Mozilla" in licence
    if has_gpl(licence) or (is_weak and package not in WEAK_COPYLEFT):
        return f"{package}: {licence}"
    return None


def test_no_gpl_among_the_dependencies() -> None:
    assert len(LOCKED) > 100
    assert [fault for package in LOCKED if (fault := find_fault(package))] == []


@pytest.mark.parametrize(
    ("licence", "is_fault"),
    [("", True), ("LGPL-3.0-or-later", True), ("MPL-2.0", True), ("Apache-2.0", False)],
)
def test_a_licence_that_may_not_be_is_a_fault(
    licence: str, is_fault: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.read_licence", lambda _: licence)
    assert (find_fault("some-package") is not None) is is_fault
    assert find_fault("certifi") is None or licence != "MPL-2.0"
