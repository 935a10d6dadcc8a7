"""docs/reference.md is what docstrings say and holds every public name; the index, every page."""

import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "nestling"


def load_recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_reference", ROOT / "recipes" / "make_reference.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECIPE = load_recipe()
# Found by files, not by the recipe: a room that the recipe overlooks is a fault.
ROOMS = sorted(
    ".".join(["nestling", *path.parent.relative_to(PACKAGE).parts])
    for path in PACKAGE.rglob("__init__.py")
    if "__all__" in path.read_text()
)


def list_public(room: str) -> list[str]:
    module = importlib.import_module(room)
    return [name for name in module.__all__ if not name.startswith("__")]


def read_section(room: str) -> str:
    text = RECIPE.PAGE.read_text()
    found = re.search(rf"^## {re.escape(room)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found is not None, f"docs/reference.md has no room {room}; run `make reference`"
    return found.group(1)


def test_the_page_is_up_to_date() -> None:
    assert RECIPE.PAGE.read_text() == RECIPE.write_reference(), "run `make reference`"


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_on_the_page(room: str) -> None:
    section = read_section(room)
    missing = [
        name
        for name in list_public(room)
        if f"### {name}\n" not in section and f"`{name}`" not in section
    ]
    assert not missing


@pytest.mark.parametrize("room", ROOMS)
def test_first_lines_are_sentences(room: str) -> None:
    module = importlib.import_module(room)
    wrong = []
    for name in list_public(room):
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            first = (value.__doc__ or "").strip().split("\n", 1)[0]
            # A data class without a docstring gets its own signature as one.
            if not first.endswith(".") or len(first) > 97 or first.startswith(f"{name}("):
                wrong.append(f"{name}: {first}")
    assert not wrong


def test_an_error_that_users_catch_is_on_the_page() -> None:
    assert "### SettingError\n" in read_section("nestling.core.errors")


def test_every_page_is_in_the_index_and_every_link_leads_somewhere() -> None:
    docs = ROOT / "docs"
    index = (docs / "index.md").read_text()
    linked = set(re.findall(r"\]\(([^)#]+)\)", index))
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")} - {"index.md"}
    assert pages <= linked
    broken = [
        f"{page.name}: {link}"
        for page in [ROOT / "README.md", *docs.rglob("*.md")]
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert not broken
