"""`import nestling as nl` gives every public room as `nl.ROOM`, and imports none before."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nestling as nl

SOURCE = Path(str(nl.__file__)).parent
# Rooms that nobody imports by name: the command line, and what all the others stand on.
INNER = {"cli", "core"}
ROOMS = {path.parent.name for path in SOURCE.glob("*/__init__.py")} - INNER


def run_fresh(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(SOURCE.parent), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_room_is_there_without_a_prior_import() -> None:
    names = ", ".join(f"nl.{room}.__name__" for room in sorted(ROOMS))
    code = f"import nestling as nl; nl.protect.EWC(1.0); print(*({names},))"
    assert run_fresh(code).split() == [f"nestling.{room}" for room in sorted(ROOMS)]


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, nestling; print(*(m for m in sys.modules if m.split('.')[0] == 'nestling'))"
    assert run_fresh(code).split() == ["nestling"]
    assert "torch" not in run_fresh("import sys, nestling; print(*sys.modules)").split()


def test_a_room_comes_without_what_it_does_not_need() -> None:
    code = "import sys, nestling as nl; nl.memory; print(*sys.modules)"
    loaded = run_fresh(code).split()
    assert "nestling.memory" in loaded
    assert not {"nestling.learn", "nestling.protect", "matplotlib", "sklearn"} & set(loaded)


@pytest.mark.parametrize("asked_first", ["nl.Level", "nl.mix", "nl.Learner", "nl.levels"])
def test_no_public_name_hides_a_room(asked_first: str) -> None:
    code = f"import nestling as nl; {asked_first}; print(nl.levels.__name__, nl.learn.__name__)"
    assert run_fresh(code).split() == ["nestling.levels", "nestling.learn"]


def test_dir_lists_them_and_type_checkers_see_them() -> None:
    assert set(dir(nl)) == {*nl.__all__, *ROOMS}
    seen = {
        alias.asname
        for node in ast.walk(ast.parse((SOURCE / "__init__.py").read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "nestling"
        for alias in node.names
    }
    assert seen == ROOMS


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'nestling' has no attribute 'protct'"):
        _ = nl.protct  # type: ignore[attr-defined]
