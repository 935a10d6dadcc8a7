"""Makes docs/reference.md from `__all__` and docstrings; `make reference` runs it.

    python recipes/make_reference.py

For every room: each public name with its signature and the first line of its docstring (the whole
docstring where it is short), and the public methods of classes in one line each.
"""

import ast
import dataclasses
import importlib
import inspect
import itertools
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nestling

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
# Modules without `__all__` whose classes users need by name.
INNER = ("nestling.core.errors",)
# A docstring of at most so many lines is quoted whole, but for its example.
SHORT = 40
MAX_WIDTH = 88
POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD

HEAD = """# Reference: all public names, with signatures

Made from docstrings by `make reference`; a test fails if it is out of date. Long docstrings stand
here with their first line only; `help(nestling.Learner)` prints the rest: arguments with shapes and
units, what is returned and raised, an example. `import nestling as nl` reaches every room as
`nl.ROOM`.
"""


def list_rooms() -> list[str]:
    """The package itself, every room that has public names, and `INNER`."""
    packages = [
        found.name
        for found in pkgutil.walk_packages(nestling.__path__, "nestling.")
        if found.ispkg and getattr(importlib.import_module(found.name), "__all__", None)
    ]
    return ["nestling", *sorted([*packages, *INNER])]


def list_names(room: str) -> list[str]:
    """The public names of a room, without dunders, in alphabetical order."""
    module = importlib.import_module(room)
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value) and value.__module__ == room
        ]
    return sorted((name for name in names if not name.startswith("__")), key=str.lower)


def write_reference() -> str:
    """The text of the page."""
    rooms = list_rooms()
    lines = [HEAD]
    homes: dict[int, str] = {}  # where an object stands with its text: the first room but the top
    for room in rooms[1:]:
        for name in list_names(room):
            homes.setdefault(id(getattr(importlib.import_module(room), name)), room)
    for room in rooms:
        module = importlib.import_module(room)
        first = (module.__doc__ or "").strip().splitlines()[0]
        lines += [f"## {room}", "", first, ""]
        elsewhere: dict[str, list[str]] = {}
        for name in list_names(room):
            home = homes.get(id(getattr(module, name)), room)
            if home == room:
                lines += [*_write_name(module, name), ""]
            else:
                elsewhere.setdefault(home, []).append(f"`{name}`")
        for home, names in elsewhere.items():
            lines += [f"- from [{home}](#{home.replace('.', '')}): {', '.join(names)}"]
        if elsewhere:
            lines += [""]
    return "\n".join(lines).rstrip() + "\n"


def _write_name(module: ModuleType, name: str) -> Iterator[str]:
    value = getattr(module, name)
    yield f"### {name}"
    yield ""
    if not inspect.isclass(value) and not inspect.isfunction(value):
        comment, text = _find_assignment(module, name)
        yield from ("```py", text, "```", "", comment)
        return
    is_protocol = getattr(value, "_is_protocol", False)
    if inspect.isfunction(value) or not (is_protocol or issubclass(value, BaseException)):
        yield from ("```py", _write_call(name, value), "```", "")
    text = inspect.getdoc(value) or ""
    first, *rest = text.splitlines()
    yield first
    rest = list(itertools.takewhile(lambda line: not line.startswith(">>>"), rest))
    if 1 < len(rest) <= SHORT:
        yield from ("", "```text", "\n".join(rest).strip("\n"), "```")
    if inspect.isclass(value):
        methods = list(_list_methods(value))
        if methods:
            yield ""
        yield from methods


def _list_methods(kind: type) -> Iterator[str]:
    """One line for each public method and property that the class itself defines."""
    for name, value in list(vars(kind).items()):
        if isinstance(value, property):
            function, call = value.fget, name
        else:
            function = getattr(value, "__func__", value)
            call = f"{name}(...)"
        if name.startswith("_") or not inspect.isfunction(inspect.unwrap(function)):
            continue
        # torch puts a wrapper of an inherited `step` on a class when it is first used.
        if hasattr(function, "hooked") and not function.__qualname__.startswith(kind.__name__):
            continue
        if not isinstance(value, property):
            parameters = [p for p in _read_parameters(function) if p not in ("self", "cls")]
            call = f"{name}({', '.join(parameters)})"
        first = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
        yield f"- `{call}`: {first}"


def _read_parameters(value: object) -> list[str]:
    """Names of the parameters, those with a default as `name=default`."""
    written = []
    star = False
    for parameter in _list_parameters(value):
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            written.append("*")
            star = True
        if parameter.kind is parameter.VAR_POSITIONAL:
            written.append(f"*{parameter.name}")
            star = True
        elif parameter.kind is parameter.VAR_KEYWORD:
            written.append(f"**{parameter.name}")
        elif parameter.default is parameter.empty:
            written.append(parameter.name)
        else:
            written.append(f"{parameter.name}={_write_default(parameter.default)}")
    return written


def _list_parameters(value: object) -> list[inspect.Parameter]:
    if not (inspect.isclass(value) and dataclasses.is_dataclass(value)):
        return list(inspect.signature(inspect.unwrap(value)).parameters.values())  # type: ignore[arg-type]
    # By fields: the signature of a pydantic class changes when it is first used.
    found = []
    for field in dataclasses.fields(value):
        is_tag = field.name == "kind" and field.default is not dataclasses.MISSING
        if not field.init or is_tag:  # that tells classes apart in files
            continue
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory  # shown as "..."
        how = inspect.Parameter.KEYWORD_ONLY if field.kw_only else POSITIONAL
        found.append(inspect.Parameter(field.name, how, default=default))
    return found


def _write_default(default: object) -> str:
    text = repr(default)
    return "..." if "<" in text or len(text) > 30 else text


def _write_call(name: str, value: object) -> str:
    """`name(parameters)`; in several lines if one is too long."""
    annotations = dict(_read_annotations(value))
    parameters = []
    for text in _read_parameters(value):
        bare, _, default = text.partition("=")
        if annotation := annotations.get(bare.lstrip("*"), ""):
            bare = f"{bare}: {_name_plainly(annotation, value)}"
            parameters.append(f"{bare} = {default}" if default else bare)
        else:
            parameters.append(text)
    returned = _name_plainly(annotations.get("return", ""), value)
    tail = f" -> {returned}" if returned and inspect.isfunction(value) else ""
    line = f"{name}({', '.join(parameters)}){tail}"
    if len(line) <= MAX_WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {text},\n" for text in parameters) + f"){tail}"


def _name_plainly(annotation: str, value: object) -> str:
    """An annotation with checked aliases as what they check: `Count` is `int`, `Name` is `str`."""
    module = vars(importlib.import_module(str(value.__module__)))

    def replace(match: re.Match[str]) -> str:
        word = match.group()
        alias = module.get(word)
        if word.startswith("_"):  # a private name of something public
            return next((name for name, one in module.items() if one is alias), word)
        origin = getattr(alias, "__origin__", None)
        return (
            origin.__name__ if hasattr(alias, "__metadata__") and inspect.isclass(origin) else word
        )

    return re.sub(r"(?<![.\w'])[A-Za-z_]\w*", replace, annotation)


def _read_annotations(value: object) -> Iterator[tuple[str, str]]:
    """Parameter -> annotation as the source has it, so that no version of Python rewrites it."""
    if inspect.isfunction(value):
        yield from _read_arguments(_parse(inspect.unwrap(value)))
        return
    assert inspect.isclass(value)
    for kind in reversed(value.__mro__):
        if not kind.__module__.startswith("nestling"):
            continue
        for node in getattr(_parse(kind), "body", []):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield node.target.id, _write_annotation(node.annotation)
            elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
                yield from _read_arguments(node)


def _read_arguments(node: ast.stmt) -> Iterator[tuple[str, str]]:
    assert isinstance(node, ast.FunctionDef)
    spec = node.args
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
    for argument in every:
        if argument is not None and argument.annotation is not None:
            yield argument.arg, _write_annotation(argument.annotation)
    if node.returns is not None:
        yield "return", _write_annotation(node.returns)


class _Plain(ast.NodeTransformer):
    """Of `Annotated[X, checks]` only X."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.value) == "Annotated" and isinstance(node.slice, ast.Tuple):
            return node.slice.elts[0]
        return node


def _write_annotation(node: ast.expr) -> str:
    """As the source has it, without checks and quotes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ast.unparse(_Plain().visit(node))


def _parse(value: object) -> ast.stmt:
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]  # type: ignore[arg-type]


def _find_assignment(module: ModuleType, name: str) -> tuple[str, str]:
    """The comment above an alias or constant where it is defined, and its statement."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            module = importlib.import_module(str(node.module))
    source = inspect.getsource(module)
    lines = source.splitlines()
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if name in [target.id for target in targets if isinstance(target, ast.Name)]:
            comment = lines[node.lineno - 2]
            assert comment.startswith("# "), f"say in a comment above {name} what it is"
            statement = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            return comment.removeprefix("# "), statement
    raise AssertionError(f"{name} is not defined in {module.__name__}")


if __name__ == "__main__":
    PAGE.write_text(write_reference())
    print(f"wrote {PAGE}")
