"""docs/paper.md: each name, test, command, figure and equation that it refers to exists."""

import ast
import contextlib
import functools
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "paper.md"
RESULTS = ROOT / "benchmarks" / "results"

MARKS = ("implemented", "reproduced", "not reproduced", "not yet")
FIRST, LAST = 19, 121  # of the equations that the page must hold
LEFT_OUT = "What is left out"

QUOTED = re.compile(r"`([^`]+)`")
CELLS = re.compile(r"(?<!\\)\|")
MARK = re.compile(r"\*\*([^*]+)\*\*")
TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
NAME = re.compile(r"(nestling(?:\.\w+)+)(?:\((\w+)(?:=([^)]*))?\))?")
FIGURE = re.compile(r"([\w-]+\.json): (.+)")
VALUE = re.compile(r" = (-?\d+(?:\.\d+)?)")
PENDING = "(result to come: "
ARGUMENT = re.compile(r"([a-z]\w*)(?:=(.+))?")
NUMBERS = re.compile(r"\b(\d+)(?:-(\d+))?\b")


@dataclass(frozen=True)
class MapRow:
    """A row of a table: its line, the heading above it, and its cells by column."""

    line: int
    heading: str
    cells: dict[str, str]

    @property
    def text(self) -> str:
        return " | ".join(self.cells.values())


def read_rows(page: str) -> Iterator[MapRow]:
    """Every row of every table; a row with too many or too few cells has them under "?"."""
    heading, header = "", None
    for number, line in enumerate(page.splitlines(), 1):
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in CELLS.split(line)[1:-1]]
        if header is None:
            header = cells
        elif not all(set(cell) <= set("-: ") and cell for cell in cells):
            fits = len(cells) == len(header)
            named = dict(zip(header, cells, strict=True)) if fits else {"?": line}
            yield MapRow(number, heading, named)


def find_object(name: str) -> object:
    """What a dotted name means. Raises ImportError or AttributeError."""
    parts = name.split(".")
    found: object = importlib.import_module(parts[0])
    for index, part in enumerate(parts[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            if not isinstance(found, ModuleType):
                raise
            try:
                found = importlib.import_module(".".join(parts[:index]))
            except ModuleNotFoundError:
                raise AttributeError(f"{'.'.join(parts[:index])} does not exist") from None
    return found


def check_argument(subject: object, name: str, value: str | None) -> str | None:
    """What is wrong with an argument: no such parameter, or a word unknown to its module."""
    assert callable(subject)
    fields = getattr(subject, "__dataclass_fields__", None)
    if name not in (fields or inspect.signature(subject).parameters):
        return f"no parameter {name!r}"
    if value and value.startswith('"') and value not in read_source(subject):
        return f"{name} knows no {value}"
    return None


def read_source(subject: object) -> str:
    module = inspect.getmodule(subject)
    assert module is not None
    return inspect.getsource(module)


@functools.cache
def list_tests(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def check_command(words: list[str]) -> str | None:
    from nestling.cli.bench_command import OWN
    from nestling.cli.main import nestling

    command: click.Command = nestling
    rest = list(words)
    while isinstance(command, click.Group) and rest:
        word = rest.pop(0)
        if word not in command.commands:
            return f"no command {word!r}"
        command = command.commands[word]
    if command.name == "bench" and rest and rest[0] not in OWN:
        return f"no suite {rest[0]!r}"
    return None


def check_figure(file: str, name: str, before: str, after: str, results: Path) -> str | None:
    """What is wrong with a figure: `file: name` = value, or (result to come: `file: name`)."""
    is_pending = before.endswith(PENDING) and after.startswith(")")
    shown = VALUE.match(after)
    if not is_pending and shown is None:
        return "neither a value nor (result to come: ...)"
    path = results / file
    if not path.exists():
        return None if is_pending else "there is no such file"
    found = json.loads(path.read_text())["figures"].get(name)
    if found is None:
        return "the file has no such figure"
    if is_pending:
        return f"the result is there: write `{file}: {name}` = {found:.4g}, and choose the mark"
    assert shown is not None
    digits = len(shown[1].partition(".")[2])
    if f"{found:.{digits}f}" not in {shown[1], f"-{shown[1]}" if float(shown[1]) == 0 else ""}:
        return f"is {found!r}, not {shown[1]}"
    return None


def check_quoted(match: re.Match[str], text: str, subjects: list[object], results: Path) -> str:
    """What is wrong with one quoted reference; "" if nothing is."""
    quoted = match[1]
    if found := TEST.fullmatch(quoted):
        path = ROOT / found[1]
        if not path.is_file():
            return "no such file"
        return "" if found[2] in list_tests(path) else "no such test"
    if found := NAME.fullmatch(quoted):
        try:
            subject = find_object(found[1])
        except (ImportError, AttributeError) as error:
            return f"cannot be imported: {error}"
        return (found[2] and check_argument(subject, found[2], found[3])) or ""
    if found := FIGURE.fullmatch(quoted):
        before, after = text[: match.start()], text[match.end() :]
        return check_figure(found[1], found[2], before, after, results) or ""
    if quoted.startswith("nestling "):
        return check_command(quoted.split()[1:]) or ""
    if "/" in quoted:
        return "" if (ROOT / quoted).exists() else "no such path"
    if quoted.startswith('"'):
        known = any(quoted in read_source(one) for one in subjects)
        return "" if known else "nothing in this row knows it"
    if found := ARGUMENT.fullmatch(quoted):
        wrong = [check_argument(one, found[1], found[2]) for one in subjects if callable(one)]
        return "" if None in wrong else f"a parameter of nothing in this row: {wrong}"
    return "not a reference that can be checked"


def check_references(text: str, results: Path = RESULTS) -> list[str]:
    """What is wrong with the references of one row or paragraph."""
    subjects: list[object] = []
    for name in NAME.finditer(text):
        with contextlib.suppress(ImportError, AttributeError):  # said below
            subjects.append(find_object(name[1]))
    faults = [
        f"`{match[1]}`: {said}"
        for match in QUOTED.finditer(text)
        if (said := check_quoted(match, text, subjects, results))
    ]
    if text.count(PENDING) != text.count(f"{PENDING}`"):
        faults.append(f"{PENDING!r} without a figure")
    return faults


def check_row(row: MapRow, results: Path = RESULTS) -> list[str]:
    """What is wrong with one row: its cells, its mark, what the mark needs, its references."""
    if "?" in row.cells:
        return ["another number of cells than the header; | within a cell is \\|"]
    faults = check_references(row.text, results)
    if "mark" not in row.cells or row.heading.startswith("Nested Learning paper"):
        return faults
    marks = MARK.findall(row.text)
    if len(marks) != 1 or marks[0] not in MARKS or row.cells["mark"] != f"**{marks[0]}**":
        return [*faults, f"marks {marks}; exactly one of {MARKS} works, in the last column"]
    has_code = any(NAME.fullmatch(quoted) for quoted in QUOTED.findall(row.cells["code"]))
    has_test = "tests/" in row.cells["test"]
    is_pending = PENDING in row.text
    if marks[0] == "not yet":
        if "not implemented: " not in row.text:
            faults.append("'not yet' without 'not implemented: why'")
        if has_code or has_test or is_pending:
            faults.append("'not yet' with code, a test or a result")
    elif not has_code or not has_test:
        faults.append(f"{marks[0]!r} without code or without a test")
    if is_pending and marks[0] != "implemented":
        faults.append(f"{marks[0]!r} while its result is to come; 'implemented' works")
    if marks[0] != "not yet" and "result" in row.cells and not FIGURE.search(row.cells["result"]):
        faults.append(f"{marks[0]!r} without its figure")
    return faults


def list_numbers(cell: str) -> set[int]:
    """Equation numbers of a cell, ranges spelt out."""
    found: set[int] = set()
    for match in NUMBERS.finditer(cell):
        start, end = int(match[1]), int(match[2] or match[1])
        found |= set(range(start, end + 1))
    return {number for number in found if FIRST <= number <= LAST}


def check_page(page: str, results: Path = RESULTS) -> list[str]:
    """Everything that is wrong with the page, a line each."""
    faults = []
    mapped: set[int] = set()
    left_out: set[int] = set()
    for row in read_rows(page):
        faults += [f"line {row.line}: {fault}" for fault in check_row(row, results)]
        if row.heading == LEFT_OUT:
            left_out |= list_numbers(row.cells.get("eq.", ""))
            if not row.cells.get("reason"):
                faults.append(f"line {row.line}: left out without a reason")
        else:
            mapped |= list_numbers(row.cells.get("eq.", ""))
    for number, line in enumerate(page.splitlines(), 1):
        if not line.startswith("|"):
            faults += [f"line {number}: {fault}" for fault in check_references(line, results)]
    missing = sorted(set(range(FIRST, LAST + 1)) - mapped - left_out)
    if missing:
        faults.append(f"equations neither in a table nor left out: {missing}")
    if both := sorted(mapped & left_out):
        faults.append(f"equations in a table and left out: {both}")
    return faults


def test_every_reference_exists_and_every_equation_is_there() -> None:
    assert check_page(PAGE.read_text()) == []


def test_each_mark_is_explained() -> None:
    intro = PAGE.read_text().split("\n## ")[0]
    assert MARK.findall(intro) == list(MARKS)


CODE = "`nestling.optim.deep.dgd_update`"
PROOF = "`tests/optim/deep/test_dgd.py::test_equals_its_closed_form`"
ROW = f"| 19-121 | text | {CODE} | {PROOF} | **implemented** |"
TABLE = "## Here\n\n| eq. | words | code | test | mark |\n|---|---|---|---|---|\n"


def make_page(row: str) -> str:
    return TABLE + row + "\n"


def test_a_right_row_has_no_fault(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"figures": {"one: two": 1.2345, "low": -0.001}}')
    for words in (
        *("text", "a \\| b", '`form="step"`', "`lr`", "`nestling bench overhead`", "`docs/cms.md`"),
        *('`"paper"`', '`nestling.models.CMS(arrangement="nested")`', "`nestling doctor`"),
        *("`a.json: one: two` = 1.23", "`a.json: one: two` = 1", "`a.json: low` = -0.00"),
        *("`a.json: low` = 0.00", "(result to come: `b.json: x`)"),
    ):
        assert check_page(make_page(ROW.replace("text", words)), tmp_path) == [], words


def put(old: str, new: str) -> Callable[[str], str]:
    return lambda row: row.replace(old, new)


BROKEN: dict[str, tuple[Callable[[str], str], str]] = {
    "no such name": (put("dgd_update", "dgd_updat"), "cannot be imported"),
    "no such module": (put("optim.deep", "optim.shallow"), "cannot be imported"),
    "no such argument": (put("text", "`nestling.models.CMS(rule=1)`"), "no parameter 'rule'"),
    "no such word": (put("text", '`nestling.models.CMS(transfer="magic")`'), 'knows no "magic"'),
    "no such option": (put("text", '`form="printed"`'), "a parameter of nothing"),
    "a stray word": (put("text", '`"printed"`'), "nothing in this row knows it"),
    "no reference": (put("text", "`W x`"), "not a reference that can be checked"),
    "no such test": (put("test_equals_its", "test_equal_its"), "no such test"),
    "no such test file": (put("test_dgd.py", "test_dgx.py"), "no such file"),
    "no such path": (put("text", "`docs/cmz.md`"), "no such path"),
    "no such command": (put("text", "`nestling benhc`"), "no command 'benhc'"),
    "no such suite": (put("text", "`nestling bench blokcs`"), "no suite 'blokcs'"),
    "no mark": (put("**implemented**", "implemented"), "exactly one of"),
    "two marks": (put("text", "**reproduced**"), "exactly one of"),
    "another mark": (put("**implemented**", "**done**"), "exactly one of"),
    "no code": (put(CODE, ""), "without code or without a test"),
    "no test": (put(PROOF, ""), "without code or without a test"),
    "not yet, no reason": (
        lambda _: "| 19-121 | text | | | **not yet** |",
        "'not yet' without 'not implemented: why'",
    ),
    "not yet, with code": (put("**implemented**", "**not yet**"), "'not yet' with code"),
    "a bar too many": (put("text", "|x|"), "another number of cells"),
    "missing equation": (put("19-121", "19-70, 72-121"), "nor left out: [71]"),
    "no value": (put("text", "`a.json: one`"), "neither a value nor"),
    "wrong value": (put("text", "`a.json: one` = 1.24"), "is 1.2345, not 1.24"),
    "no such figure": (put("text", "`a.json: two` = 1.24"), "the file has no such figure"),
    "no such result": (put("text", "`b.json: one` = 1.23"), "there is no such file"),
    "result is there": (
        put("text", "(result to come: `a.json: one`)"),
        "the result is there: write `a.json: one` = 1.23",
    ),
    "nothing to come": (put("text", "(result to come: soon)"), "without a figure"),
    "marked too early": (
        lambda row: row.replace("text", "(result to come: `b.json: one`)").replace(
            "**implemented**", "**not reproduced**"
        ),
        "while its result is to come",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"figures": {"one": 1.2345}}')
    breaks, said = BROKEN[name]
    row = breaks(ROW)
    assert row != ROW
    faults = check_page(make_page(row), tmp_path)
    assert any(said in fault for fault in faults), faults


def test_a_measured_claim_has_its_figure() -> None:
    faults = check_page(make_page(ROW).replace("words", "result"))
    assert faults == ["line 5: 'implemented' without its figure"]


def test_prose_and_the_list_of_what_is_left_out_are_read_too() -> None:
    page = make_page(ROW) + "\nSee `nestling.optim.nothing`.\n"
    assert any("line 7" in fault and "cannot be imported" in fault for fault in check_page(page))
    left = f"\n## {LEFT_OUT}\n\n| eq. | reason |\n|---|---|\n| 20 | |\n"
    faults = check_page(make_page(ROW) + left)
    assert [fault.partition(": ")[2] for fault in faults] == [
        "left out without a reason",
        "[20]",
    ]
