"""What torch makes anew says where it lies and of what it is: a caller's defaults never decide."""

import ast
from collections.abc import Iterator
from pathlib import Path

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


def test_says_device_and_dtype() -> None:
    homeless, untyped = [], []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if name in MODULES:
            continue
        for maker, given, line in read_calls(ast.parse(path.read_text())):
            if "device" not in given:
                homeless.append(f"{name}:{line} {maker}")
            if maker not in TYPED and "dtype" not in given:
                untyped.append(f"{name}:{line} {maker}")
    assert not homeless, "without device="
    assert not untyped, "without dtype="
