"""What torch makes anew says where it lies and of what it is: a caller's defaults never decide."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "nestling"
# Modules lie where their maker's defaults say, as torch's own do.
MODULES = {"models/transformer.py", "protect/routing/module_bank.py"}
MAKERS = {
    *("arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "logspace", "normal"),
    *("ones", "rand", "randint", "randn", "randperm", "scalar_tensor", "tensor", "zeros"),
    *("tril_indices", "triu_indices"),
}
# Their dtype follows from what they are given, or is an integer anyway.
TYPED = {"arange", "as_tensor", "randint", "randperm", "tril_indices", "triu_indices"}


def read_calls(tree: ast.AST) -> Iterator[tuple[str, set[str | None], int]]:
    """Every `torch.maker(...)`: its name, its keywords and its line."""
    for node in ast.walk(tree):
        function = node.func if isinstance(node, ast.Call) else None
        if (
            isinstance(node, ast.Call)
            and isinstance(function, ast.Attribute)
            and isinstance(function.value, ast.Name)
            and function.value.id == "torch"
            and function.attr in MAKERS
        ):
            yield function.attr, {keyword.arg for keyword in node.keywords}, node.lineno


FILES = [path.relative_to(SOURCE).as_posix() for path in sorted(SOURCE.rglob("*.py"))]


@pytest.mark.parametrize("name", [name for name in FILES if name not in MODULES])
def test_says_device_and_dtype(name: str) -> None:
    calls = list(read_calls(ast.parse((SOURCE / name).read_text())))
    homeless = [(maker, line) for maker, given, line in calls if "device" not in given]
    assert not homeless, "without device="
    untyped = [
        (maker, line) for maker, given, line in calls if maker not in TYPED and "dtype" not in given
    ]
    assert not untyped, "without dtype="
