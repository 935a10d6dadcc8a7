"""The shape of the package, read from its files: sizes of rooms and files, names, exports.

Who may import whom is held by import-linter's contracts in pyproject.toml (`make lint`).
"""

import ast
import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "nestling"
# A file holds one idea and is never cut to fit; far beyond this it holds two.
MAX_LINES = 400
# Of a room with all its sub-folders, but for those that are rooms of their own.
MAX_FILES = 12

# Folders in a room that are rooms of their own: each holds one idea, and the room's own files use
# it as a whole.
INNER_ROOMS = {
    *("answer/views", "bench/blocks", "bench/governance", "bench/incontext", "bench/optimizers"),
    *("bench/personal", "bench/promises", "bench/reproduction", "bench/rivals", "bench/streams"),
    *("bench/suites", "bench/timescales", "cli/governing"),
    *("data/events", "data/groups", "data/sources", "data/suites", "jobs/contracts"),
    *("jobs/suggest", "jobs/tune", "judge/contract", "judge/drift", "judge/probes"),
    *("judge/verdicts", "learn/governing", "learn/personal", "levels/outer_rules"),
    *("memory/associative",),
    *("memory/closed", "memory/coded", "memory/exact", "memory/mixing", "models/continuum"),
    *("models/encoders", "optim/deep", "oversight/subjects", "protect/influence"),
    *("protect/penalties", "protect/replay", "protect/routing", "report/audit"),
    *("streams/adapters", "streams/events", "streams/experts", "streams/kernels", "streams/live"),
    *("streams/trees",),
}
# Files over MAX_LINES, each with the reason why it stays in one piece.
LONG_FILES: dict[str, str] = {
    "levels/gradient.py": "one level: how it moves, and the state that this depends on",
    "memory/bank.py": "one bank: what arrives, who is asked, whom the gate believes",
    "memory/ridge.py": "one memory: its sums in integers or floats, and what is solved from them",
}
# Rooms with more than MAX_FILES files beside `__init__`, each with the reason.
FULL_ROOMS: dict[str, str] = {
    "levels": "three kinds of level, each with its state, and what all of them share",
}

FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))


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


def test_files_are_short() -> None:
    long = {
        path.relative_to(SOURCE).as_posix(): num_lines
        for path in FILES
        if (num_lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert long.keys() == LONG_FILES.keys(), long


def test_rooms_are_small() -> None:
    counts: Counter[str] = Counter()
    for path in FILES:
        inside = path.relative_to(SOURCE).parent.as_posix()
        if path.name == "__init__.py" or inside == ".":
            continue
        inner = [room for room in INNER_ROOMS if inside == room or inside.startswith(f"{room}/")]
        counts[inner[0] if inner else inside.split("/")[0]] += 1
    full = {room: count for room, count in counts.items() if count > MAX_FILES}
    assert full.keys() == FULL_ROOMS.keys(), full
    assert counts.keys() >= INNER_ROOMS, "a room that is no more"


def test_a_name_of_a_file_occurs_once() -> None:
    names = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_a_name_of_a_public_class_occurs_once() -> None:
    names = Counter(
        node.name
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_no_function_takes_the_whole_learner() -> None:
    """Each takes the parts that it needs; only who drives learners from outside is given one."""
    drivers = ("jobs/", "bench/", "learn/adapters/", "scale/", "streams/live/", "oversight/")
    taking = [
        f"{path.relative_to(SOURCE).as_posix()}: {node.name}"
        for path in FILES
        if not path.relative_to(SOURCE).as_posix().startswith(drivers)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if argument.annotation is not None and "Learner" in ast.unparse(argument.annotation)
    ]
    assert taking == []
    learner = SOURCE / "learn" / "learner.py"
    assert len(learner.read_text().splitlines()) < 400
