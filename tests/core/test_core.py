"""Errors' hints, checked constructors, seeds, the machine, and the modes of modules."""

import inspect
import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import nn

from nestling.core import errors, machine
from nestling.core.checked import checked
from nestling.core.errors import NestlingError, SettingError, suggest
from nestling.core.machine import fingerprint, use_threads
from nestling.core.modes import eval_mode
from nestling.core.seeds import export_generator, import_generator, make_generator


@pytest.mark.parametrize(
    ("name", "known", "clause"),
    [
        ("trunck", {"head", "trunk"}, "known: ['head', 'trunk']; did you mean 'trunk'?"),
        ("zzz", ["head"], "known: ['head']"),
        ("any", [], "known: []"),
    ],
)
def test_suggest(name: str, known: list[str], clause: str) -> None:
    assert suggest(name, known) == clause


def test_suggest_shows_twelve_and_searches_all() -> None:
    clause = suggest("name-19x", [f"name-{i:02}" for i in range(20)])
    assert "'name-11', '... and 8 more']; did you mean 'name-19'?" in clause
    assert "name-12" not in clause


def test_docstring_draws_the_tree_of_errors() -> None:
    tree = inspect.getdoc(errors) or ""
    classes = {
        name: cls
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, NestlingError)
    }
    lines = [line for line in tree.splitlines() if "──" in line or line == "NestlingError"]
    drawn = {line.replace("│", " ").strip("├└─ ").split()[0]: line for line in lines}
    assert drawn.keys() == classes.keys()
    for name, line in drawn.items():
        depth = line.index(name) // 4
        ours = [one for one in classes[name].__mro__ if one in classes.values()]
        assert len(ours) - 1 == depth


@pytest.mark.parametrize("is_deferred", [True, False])
def test_checked_constructor_raises_on_one_line_every_time(is_deferred: bool) -> None:
    """Pydantic replaces the constructor of a class whose schema it builds late."""

    @checked
    @dataclass(frozen=True, config=ConfigDict(extra="forbid", defer_build=is_deferred))
    class Point:
        x: int = 0

    for _ in range(3):
        with pytest.raises(SettingError, match=r"Point x: a whole number works, got 'far'"):
            Point(x="far")  # type: ignore[arg-type]
        assert Point(x=3).x == 3
        with pytest.raises(
            SettingError, match=r"Point xx is not known; known: \['x'\]; did you mean 'x'"
        ):
            Point(xx=3)  # type: ignore[call-arg]


def draw(seed: int, *salts: str | int) -> list[float]:
    return torch.rand(4, generator=make_generator(seed, *salts)).tolist()  # type: ignore[no-any-return]


@given(
    seed=st.integers(), salts=st.lists(st.one_of(st.text(max_size=5), st.integers()), max_size=3)
)
def test_streams_are_reproducible_and_apart(seed: int, salts: list[str | int]) -> None:
    assert draw(seed, *salts) == draw(seed, *salts)
    assert draw(seed, *salts) != draw(seed + 1, *salts)
    assert draw(seed, *salts) != draw(seed, *salts, "other")


def test_salts_are_not_glued_together() -> None:
    drawn = [draw(0, "ab", "c"), draw(0, "a", "bc"), draw(0, "abc"), draw(0, "1"), draw(0, 1)]
    assert len({tuple(values) for values in drawn}) == 5


def test_streams_are_the_same_in_another_process() -> None:
    code = (
        "import torch; from nestling.core.seeds import make_generator;"
        "print(torch.rand(4, generator=make_generator(7, 'replay')).tolist())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "123"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == draw(7, "replay")


def test_generator_goes_on_where_it_was_saved() -> None:
    generator = make_generator(1)
    torch.rand(3, generator=generator)
    state = export_generator(generator)
    expected = torch.rand(5, generator=generator)
    other = make_generator(2)
    import_generator(other, state)
    assert torch.equal(torch.rand(5, generator=other), expected)


def test_fingerprint_is_json_and_follows_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert found["torch"] == torch.__version__
    assert found["cpu"]
    with use_threads(2):
        assert fingerprint()["num_threads"] == 2
    assert fingerprint()["num_threads"] == found["num_threads"]
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert fingerprint()["mkl_cbwr"] == "COMPATIBLE"


def test_fingerprint_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(machine, "open", refuse, raising=False)
    assert fingerprint()["cpu"]


def test_threads_return_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), use_threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before


def test_eval_mode_puts_every_submodule_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)))
    model[1][0].eval()  # a frozen norm inside a model that trains
    before = [module.training for module in model.modules()]
    with eval_mode(model) as same:
        assert same is model
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    with pytest.raises(KeyError), eval_mode(model):
        raise KeyError
    assert [module.training for module in model.modules()] == before
    assert sum(before) == 4
