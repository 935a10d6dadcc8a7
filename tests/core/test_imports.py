"""A text that names a function gives that function, or one line that says what is wrong."""

import sys
from pathlib import Path

import pytest
import torch

from nestling.core.errors import SettingError
from nestling.core.imports import import_function


def test_gives_the_object_itself() -> None:
    assert import_function("torch:zeros") is torch.zeros


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("torch", "write 'module:function'"),
        ("torch:", "write 'module:function'"),
        (":zeros", "write 'module:function'"),
        ("math:sqrtt", "did you mean 'sqrt'"),
        ("math:pi", "is a float; name a function"),
        ("nowhere_to_be_found:make", "no module 'nowhere_to_be_found'"),
        ("broken_import:make", "its module needs 'a_module_that_is_not_there', not installed"),
    ],
)
def test_errors_are_one_line(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_import.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SettingError) as caught:
        import_function(source)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "broken_import" not in sys.modules
