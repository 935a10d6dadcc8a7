"""The shape of the package, read from its files: rooms, imports, exports, forbidden calls."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "nestling"
# A file holds one idea and is never cut to fit; far beyond this it holds two.
MAX_LINES = 400
MAX_FILES = 12

# The table "Rooms" of DESIGN.md: what each room may import of nestling.
_BELOW_LEARN = {
    *("core", "store", "levels", "optim", "memory", "retain", "consolidate", "models", "data"),
    *("judge", "ledger"),
}
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "store": {"core"},
    "levels": {"core", "optim", "memory"},
    "optim": {"core"},
    "memory": {"core"},
    "retain": {"core", "memory", "levels"},
    "consolidate": {"core", "levels", "memory"},
    "models": {"core", "optim", "levels", "memory"},
    "data": {"core"},
    "judge": {"core"},
    "ledger": {"core", "store", "judge"},
    "learn": _BELOW_LEARN,
    "bench": _BELOW_LEARN | {"learn"},
    "serve": {"learn", "ledger", "judge", "core"},
    "scale": _BELOW_LEARN | {"learn"},
    "cli": _BELOW_LEARN | {"learn", "bench", "serve", "scale"},
}
# What `import nestling` itself gathers up; anything below the commands.
ROOT = _BELOW_LEARN | {"learn"}

# Files over MAX_LINES, each with the reason why it stays in one piece.
LONG_FILES: dict[str, str] = {
    "learn/learner.py": "the public class: half of it is what its methods promise",
    "levels/optimizer.py": "the public class: half of it is what its methods promise",
}
# Rooms with more than MAX_FILES files beside `__init__`, each with the reason.
FULL_ROOMS: dict[str, str] = {}

FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))


def _name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def _room(path: Path) -> str | None:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else None


def read_imports(source: str, package: str) -> Iterator[str]:
    """Every module that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            yield module
            # `from nestling import learn` imports a room by its name.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imported_rooms(path: Path) -> set[str]:
    package = ".".join(["nestling", *path.relative_to(SOURCE).parts[:-1]])
    rooms = set()
    for module in read_imports(path.read_text(), package):
        parts = module.split(".")
        if parts[0] == "nestling" and len(parts) > 1 and parts[1] in ALLOWED:
            rooms.add(parts[1])
    return rooms


def test_every_room_is_in_the_table() -> None:
    assert set(ROOMS) <= ALLOWED.keys()


def test_read_imports_sees_every_form() -> None:
    source = "def f():\n    from ..judge import x\nimport nestling.cli.main\n"
    assert {"nestling.judge", "nestling.cli.main"} <= set(read_imports(source, "nestling.core"))


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_are_allowed(path: Path) -> None:
    room = _room(path)
    allowed = ROOT if room is None else ALLOWED[room] | {room}
    assert imported_rooms(path) <= allowed, f"{_name(path)} imports a room that it must not"


def read_public(source: str) -> Iterator[str]:
    """The names that an `__init__` offers: its own, and what it imports from our rooms."""
    body = ast.parse(source).body
    body += [inner for node in body if isinstance(node, ast.If) for inner in node.body]
    for node in body:  # not within functions
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nestling."):
            names = [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        yield from (name for name in names if not name.startswith("_"))


@pytest.mark.parametrize("room", [None, *ROOMS])
def test_all_equals_reality(room: str | None) -> None:
    module = importlib.import_module("nestling" if room is None else f"nestling.{room}")
    exported = list(getattr(module, "__all__", []))
    assert exported == list(dict.fromkeys(exported)), "a name stands twice"
    missing = [name for name in exported if not hasattr(module, name)]
    assert not missing, f"in __all__ but not there: {missing}"
    public = set(read_public(Path(str(module.__file__)).read_text()))
    assert public <= set(exported), f"there but not in __all__: {sorted(public - set(exported))}"


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_what_it_holds(room: str) -> None:
    tree = ast.parse((SOURCE / room / "__init__.py").read_text())
    assert ast.get_docstring(tree), f"{room}/__init__.py has no docstring"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_pickle(path: Path) -> None:
    package = ".".join(["nestling", *path.relative_to(SOURCE).parts[:-1]])
    imported = {module.split(".")[0] for module in read_imports(path.read_text(), package)}
    assert not imported & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            call = f"{node.value.id}.{node.attr}"
            assert call not in {"torch.load", "torch.save"}, f"line {node.lineno}: {call} pickles"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_print_outside_the_commands(path: Path) -> None:
    if _room(path) == "cli":
        return
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not calls, f"print in line {calls}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_errors_are_named(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = getattr(node.exc.func, "id", "")
            assert name not in {"Exception", "BaseException"}, f"line {node.lineno}: {name}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_files_are_short(path: Path) -> None:
    num_lines = len(path.read_text().splitlines())
    assert num_lines <= MAX_LINES or _name(path) in LONG_FILES, f"{num_lines} lines"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_small(room: str) -> None:
    files = [path for path in (SOURCE / room).glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MAX_FILES or room in FULL_ROOMS, f"{len(files)} files"
