"""Without numba the room of streams is there, and a learner says what to install."""

import subprocess
import sys
from pathlib import Path

import pytest

import nestling as nl

BLOCK = """
import sys
class NoNumba:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "numba":
            raise ModuleNotFoundError("No module named 'numba'", name="numba")
sys.meta_path.insert(0, NoNumba())
import nestling as nl
"""


def run_without_numba(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(str(nl.__file__)).parents[1]), "PATH": ""},
    )


def test_what_compiles_nothing_works() -> None:
    done = run_without_numba(
        "c = nl.streams.EventColumns(); print(c.encode_one({'a': 1.5}, grow=True));"
        "nl.StreamClassifier; nl.streams.follow; nl.judge.ADWIN(); print('numba' in sys.modules)"
    )
    assert done.stdout.split() == ["[1.5]", "False"], done.stderr


@pytest.mark.parametrize(
    "made", ["nl.StreamClassifier()", "nl.StreamRegressor()", "nl.streams.compile_kernels()"]
)
def test_a_learner_says_what_to_install(made: str) -> None:
    done = run_without_numba(
        f"try:\n    {made}\nexcept nl.MissingExtra as error:\n    print(error)"
    )
    said = "a stream learner needs numba: pip install 'nestling[streams]'\n"
    assert done.stdout == said, done.stderr
