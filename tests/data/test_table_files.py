"""The user's own files, right and wrong."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nestling.core.errors import (
    DataError,
    MissingExtra,
    NestlingError,
    NonFiniteInput,
    ShapeMismatch,
)
from nestling.data import from_arrays, read_table
from nestling.data.table_files import read_number

FRAME = pd.DataFrame({"a": [0.5, 1.0, 2.0], "b": [1.0, 0.0, 3.0], "target": [0, 1, 2]})


def write(path, frame=FRAME):
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        x = frame.drop(columns="target").to_numpy()
        np.savez(path, x=x, target=frame["target"].to_numpy())
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_all_forms_hold_the_same(tmp_path, suffix):
    x, y, _ = read_table(write(tmp_path / f"rows{suffix}"))
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert x.tolist() == [[0.5, 1.0], [1.0, 0.0], [2.0, 3.0]]
    assert y.tolist() == [0, 1, 2]


def test_columns_are_named_and_the_target_chosen(tmp_path):
    x, y, names = read_table(write(tmp_path / "rows.csv"), target="a")
    assert names == ["b", "target"]
    assert y.dtype == torch.float32
    assert x.shape == (3, 2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8))
def test_numbers_survive_csv(tmp_path, values):
    frame = pd.DataFrame({"a": values, "target": 0})
    x, _, _ = read_table(write(tmp_path / "rows.csv", frame))
    assert x.flatten().tolist() == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.csv", "", "is empty"),
        ("rows.csv", "a,target\n", "no rows"),
        ("rows.csv", "a,target\n1,0\n2\n", "line 3 has 1 cells"),
        ("rows.csv", "a,a,target\n1,1,0\n", "names a column twice"),
        ("rows.csv", "a,b\n1,0\n", "no column 'target'"),
        ("rows.csv", "target\n1\n", "only its target"),
        ("rows.csv", "a,target\nred,0\n", "column 'a' holds text ('red' in line 2)"),
        ("rows.csv", "a,target\n\n\n1,0\nred,0\n", "('red' in line 5)"),
        ("rows.csv", "a,target\n\n1,0\n\n2\n", "line 5 has 1 cells"),
        ("rows.csv", 'a,target\n"\n1",0\n2\n', "line 4 has 1 cells"),
        ("rows.csv", "a,b,target\n1,2,0\n1,1e39,0\n", "1e+39 in line 3, column 'b'"),
        ("rows.csv", "a,target\n1,0.5\n1,-1e39\n", "-1e+39 in line 3, column 'target'"),
        ("rows.csv", "a,target\nnan,0\n", "blank (nan) in line 2, column 'a'"),
        ("rows.csv", "a,target\n1,inf\n", "target is NaN or infinite"),
        ("rows.csv", "a,target\n,0\n", "column 'a' holds a blank cell (in line 2)"),
        ("rows.csv", "a,target\n1,0\n 1_000,1\n", "column 'a' holds text ('1_000' in line 3)"),
        ("rows.csv", b"\xff\xfe\x00", "cannot read"),
        ("rows.npz", "no zip", "cannot read"),
        ("rows.parquet", "no parquet", "cannot read"),
        ("rows.txt", "a", "is no table"),
    ],
)
def test_wrong_files_say_what_and_where(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(NestlingError) as caught:
        read_table(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_targets_that_no_label_can_hold_are_values(tmp_path):
    (tmp_path / "rows.csv").write_text("a,target\n1,1e20\n2,3\n")
    _, y, _ = read_table(tmp_path / "rows.csv")
    assert y.dtype == torch.float32
    assert y.tolist() == pytest.approx([1e20, 3.0])


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "rows.parquet")
    # None stands for a module that cannot be imported; pandas asks for its engines anew.
    for name in ("pyarrow", "pyarrow.parquet", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"pyarrow: pip install 'nestling\[data\]'"):
        read_table(path)


def test_a_missing_file_names_its_neighbour(tmp_path):
    write(tmp_path / "train.csv")
    with pytest.raises(DataError, match=r"did you mean 'train.csv'"):
        read_table(tmp_path / "trian.csv")


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.array([object()]), y=np.array([0]))
    with pytest.raises(DataError, match="cannot read"):
        read_table(tmp_path / "rows.npz")


def test_wrong_arrays():
    with pytest.raises(ShapeMismatch, match="differ in length"):
        from_arrays(np.ones((2, 1)), np.ones(3))
    with pytest.raises(DataError, match="not numbers"):
        from_arrays(np.array([["a"]]), np.ones(1))
    with pytest.raises(DataError, match="no rows"):
        from_arrays(np.ones((0, 1)), np.ones(0))
    with pytest.raises(NonFiniteInput, match=r"nan in row 1, column \[0\]"):
        from_arrays(np.array([[1.0], [np.nan]]), np.ones(2))


def test_what_targets_are_can_be_said(tmp_path):
    (tmp_path / "rows.csv").write_text("a,target\n1,1\n2,3\n")
    assert read_table(tmp_path / "rows.csv", targets="values")[1].dtype == torch.float32
    assert read_table(tmp_path / "rows.csv", targets="classes")[1].dtype == torch.int64
    with pytest.raises(DataError, match=r"0\.5 in row 1, column 'target' is no class"):
        from_arrays(np.ones((2, 1)), np.array([1, 0.5]), targets="classes")
    with pytest.raises(ShapeMismatch, match="one per row"):
        from_arrays(np.ones((2, 1)), np.ones((2, 2)), targets="classes")


@pytest.mark.parametrize(
    ("cell", "number"),
    [("1e3", 1000.0), ("-.5", -0.5), (" 7 ", 7.0), ("1_000", None), ("0x10", None), ("1,5", None)],
)
def test_numbers_are_what_python_reads_but_for_underscores(cell, number):
    assert read_number(cell) == number


def test_white_space_around_names_and_cells_means_nothing(tmp_path):
    (tmp_path / "rows.csv").write_text("a , b, target\n 1, 2 ,0\n")
    x, y, names = read_table(tmp_path / "rows.csv")
    assert (x.tolist(), y.tolist(), names) == ([[1.0, 2.0]], [0], ["a", "b"])
