"""Tables as people have them: text, dates, blanks and labels, encoded once for all files."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nestling.core.errors import DataError, NestlingError, NonFiniteInput, UnknownLabel
from nestling.data import TableEncoding, fit_encoding, read_columns
from nestling.data.table_dates import find_form

pytest.importorskip("sklearn")

PEOPLE = """age, job, since, paid
39, clerk, 2024-01-01, yes
?, clerk, 2024-01-06, no
50, ?, , yes
28, smith, 2024-07-01, no
31, smith, 2024-07-02, no
44, ?, 2024-07-03, yes
"""


def read(folder: Path, text: str, name: str = "rows.csv"):
    (folder / name).write_text(text)
    return read_columns(folder / name)


def test_text_numbers_dates_and_blanks_become_named_columns(tmp_path: Path) -> None:
    table = read(tmp_path, PEOPLE)
    encoding = fit_encoding([table], "paid")
    x, y = encoding.encode(table)
    names = encoding.list_inputs()
    found = dict(zip(names, x.T.tolist(), strict=True))
    assert x.shape == (6, len(names))
    assert y.tolist() == [1, 0, 1, 0, 0, 1]
    assert [encoding.name_class(label) for label in encoding.classes] == ["no", "yes"]
    assert found["age: blank"] == [0, 1, 0, 0, 0, 0]
    assert found["age"][1] == 0.0, "a blank stands at the mean"
    assert found["job = clerk"] == [1, 1, 0, 0, 0, 0]
    assert found["job = ?"] == [0, 0, 1, 0, 0, 1], "among text a mark is a category of its own"
    assert found["job: other"] == [0] * 6
    assert found["since: blank"] == [0, 0, 1, 0, 0, 0]
    assert {f"since: {part}" for part in ("days", "weekday sine", "month cosine")} <= set(names)
    assert not any("hour" in name for name in names), "no cell has a time of day"
    # 2024-07-01 and -02 are a day apart, 2024-01-01 and 2024-01-06 five.
    days = found["since: days"]
    assert days[1] - days[0] == pytest.approx(5 * (days[4] - days[3]), rel=1e-3)


def test_columns_equal_those_of_scikit_learns_transformers(tmp_path: Path) -> None:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    draw = np.random.default_rng(0)
    numbers = np.where(draw.random(80) < 0.2, np.nan, draw.normal(1e8, 3.0, 80))
    words = [*draw.choice(["red", "green", "blue"], 78), "rare", "rarer"]
    frame = pd.DataFrame({"n": numbers, "w": words, "label": draw.integers(0, 2, 80)})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    table = read_columns(tmp_path / "rows.csv")
    x = fit_encoding([table], "label").encode_inputs(table)
    pipe = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
    scaled = pipe.fit_transform(frame[["n"]])
    hot = OneHotEncoder(min_frequency=2, sparse_output=False).fit_transform(frame[["w"]])
    torch.testing.assert_close(x[:, 0], torch.tensor(scaled[:, 0]).float(), atol=1e-5, rtol=1e-5)
    assert x[:, 1].tolist() == np.isnan(numbers).tolist()
    assert x[:, 2:].tolist() == hot.tolist()


def test_what_training_files_do_not_know_is_other(tmp_path: Path) -> None:
    encoding = fit_encoding([read(tmp_path, PEOPLE)], "paid")
    later = read(
        tmp_path, "since,age,job\n2030-05-05,30,astronaut\n,30,\n2024-07-01,na,smith\n", "n.csv"
    )
    found = dict(zip(encoding.list_inputs(), encoding.encode_inputs(later).T.tolist(), strict=True))
    assert found["job: other"] == [1, 1, 0]
    assert found["job = smith"] == [0, 0, 1]
    assert found["age: blank"] == [0, 0, 1]
    assert found["since: blank"] == [0, 1, 0]


def test_an_encoding_survives_json_to_the_bit(tmp_path: Path) -> None:
    table = read(tmp_path, PEOPLE)
    for target in ("paid", "age"):
        source = read(tmp_path, PEOPLE.replace("?, clerk", "40.5, clerk"), "b.csv")
        encoding = fit_encoding([source], target)
        again = TableEncoding.from_data(json.loads(json.dumps(encoding.to_data())))
        assert again == encoding
        assert torch.equal(again.encode_inputs(table), encoding.encode_inputs(table))


@pytest.mark.parametrize("data", [{}, {"columns": [{}]}, {"columns": 3}])
def test_a_damaged_encoding_is_said(data: dict[str, object]) -> None:
    with pytest.raises(DataError, match="damaged"):
        TableEncoding.from_data(data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("job,since,paid\nsmith,2024-01-01,no\n", "lacks the column 'age'"),
        ("age,job,since,wage,paid\n1,smith,2024-01-01,3,no\n", "an unknown column 'wage'"),
        ("age,job,since,paid\nold,smith,2024-01-01,no\n", "text ('old' in line 2)"),
        ("age,job,since,paid\n1_0,smith,2024-01-01,no\n", "text ('1_0' in line 2)"),
        ("age,job,since,paid\n1,smith,soon,no\n", "'soon' in line 2"),
        ("age,job,since,paid\n1,smith,2024-01-01,no\n1e39,smith,,no\n", "1e+39 in line 3"),
        ("age,job,since,paid\n1,smith,2024-01-01,maybe\n", "label 'maybe' in line 2"),
        ("age,job,since,paid\n1,smith,2024-01-01,\n", "is blank in line 2"),
    ],
)
def test_a_later_file_that_does_not_fit_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    encoding = fit_encoding([read(tmp_path, PEOPLE)], "paid")
    with pytest.raises(NestlingError) as caught:
        encoding.encode(read(tmp_path, text, "later.csv"))
    assert words in str(caught.value)
    assert "later.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(order=st.permutations(["age", "job", "since", "paid"]))
def test_the_order_of_columns_changes_nothing(tmp_path: Path, order: list[str]) -> None:
    table = read(tmp_path, PEOPLE)
    encoding = fit_encoding([table], "paid")
    columns = pd.read_csv(tmp_path / "rows.csv", skipinitialspace=True, dtype=str)
    columns.fillna("")[order].to_csv(tmp_path / "other.csv", index=False)
    x, y = encoding.encode(read_columns(tmp_path / "other.csv"))
    torch.testing.assert_close(x, encoding.encode_inputs(table), rtol=0, atol=0)
    assert torch.equal(y, encoding.encode_targets(table))


def fit_target(folder: Path, *files: str, **choice: object) -> TableEncoding:
    tables = [
        read(folder, "a,y\n" + "".join(f"1,{cell}\n" for cell in cells.split()), f"{at}.csv")
        for at, cells in enumerate(files)
    ]
    return fit_encoding(tables, "y", **choice)


def test_targets_are_decided_over_all_files(tmp_path: Path) -> None:
    assert fit_target(tmp_path, "1 2").targets == "classes"
    assert fit_target(tmp_path, "1 2", "0.5 1").targets == "values"
    assert fit_target(tmp_path, "0.5 1", "1 2").targets == "values"
    assert fit_target(tmp_path, "1 2", targets="values").targets == "values"
    assert fit_target(tmp_path, "1 2", "2 many").labels == ("1", "2", "many")
    named = fit_target(tmp_path, "1 -1.0", "1.0 -1", targets="classes")
    assert named.labels == ("-1", "1")
    assert fit_target(tmp_path, "1 -1").targets == "values"


def test_one_stray_word_does_not_make_labels_of_values(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"numbers such as 0\.5 and text such as 'oops'"):
        fit_target(tmp_path, "0.5 0.7 oops")
    with pytest.raises(DataError, match="blank in line 4"):
        fit_target(tmp_path, "0.5 0.7 NA")


def test_values_come_back_as_the_files_have_them(tmp_path: Path) -> None:
    encoding = fit_target(tmp_path, "200000.5 300000 100000")
    y = encoding.encode_targets(read_columns(tmp_path / "0.csv"))
    assert (float(y.mean()), float(y.std(correction=0))) == pytest.approx((0, 1), abs=1e-6)
    back = encoding.decode_values(y).tolist()
    assert back == pytest.approx([200000.5, 300000, 100000])
    late = fit_target(tmp_path, "1700000000.25 1700000001.5")
    assert late.encode_targets(read_columns(tmp_path / "0.csv")).tolist() == [-1, 1]
    constant = fit_target(tmp_path, "0.1 0.1 0.1")
    assert constant.decode_values(
        constant.encode_targets(read_columns(tmp_path / "0.csv"))
    ).tolist() == [0.1, 0.1, 0.1]


def test_numbers_as_they_are_where_asked(tmp_path: Path) -> None:
    table = read(tmp_path, "a,b,label\n3,-2,0\n5,1,1\n")
    encoding = fit_encoding([table], "label", as_is=True)
    assert encoding.encode_inputs(table).tolist() == [[3, -2], [5, 1]]
    with pytest.raises(DataError, match=r"holds text \('red' in line 2\)"):
        encoding.encode(read(tmp_path, "a,b,label\nred,2,0\n", "bad.csv"))


def test_extreme_but_finite_numbers(tmp_path: Path) -> None:
    table = read(tmp_path, "a,label\n3e38,0\n-3e38,1\n0,1\n")
    assert fit_encoding([table], "label").encode_inputs(table).isfinite().all()
    same = read(tmp_path, "a,label\n7,0\n7,1\n")
    encoding = fit_encoding([same], "label")
    assert encoding.encode_inputs(same).tolist() == [[0], [0]]
    with pytest.raises(NonFiniteInput, match="inf in line 2"):
        encoding.encode(read(tmp_path, "a,label\ninf,0\n", "inf.csv"))


def test_identifiers_are_one_column(tmp_path: Path) -> None:
    """A word that is another in each row says nothing: no column per row."""
    rows = "".join(f"person {i},{i % 2}\n" for i in range(300))
    encoding = fit_encoding([read(tmp_path, "name,label\n" + rows)], "label")
    assert encoding.list_inputs() == ["name: other"]


def test_a_column_of_blanks_is_no_obstacle(tmp_path: Path) -> None:
    table = read(tmp_path, "a,b,label\n1,,0\n2,,1\n")
    assert fit_encoding([table], "label").encode_inputs(table).shape == (2, 3)


def test_parquet_and_csv_are_encoded_alike(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "n": [1.5, math.nan, 3.0, 4.0],
            "w": ["a", "b", None, "a"],
            "d": pd.to_datetime(["2024-01-01 08:00", "2024-02-01 09:30", None, "2024-03-01 00:00"]),
            "label": ["x", "y", "x", "y"],
        }
    )
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_parquet(tmp_path / "rows.parquet")
    first, second = (read_columns(tmp_path / f"rows.{kind}") for kind in ("csv", "parquet"))
    encoding = fit_encoding([first], "label")
    assert "d: hour sine" in encoding.list_inputs()
    torch.testing.assert_close(encoding.encode_inputs(second), encoding.encode_inputs(first))
    assert fit_encoding([second], "label") == encoding
    assert torch.equal(encoding.encode_targets(second), encoding.encode_targets(first))


@pytest.mark.parametrize(
    ("cells", "form"),
    [
        (["2024-01-31", "2024-12-01T10:00"], "iso"),
        (["2024-01-31 10:00:00+02:00"], "iso"),
        (["31.01.2024", "01.02.2024 12:30"], "%d.%m.%Y"),
        (["01/31/2024", "02/01/2024"], "%m/%d/%Y"),
        (["31/01/2024", "02/01/2024"], "%d/%m/%Y"),
        (["2024-13-01"], None),
        (["2024-01-31", "soon"], None),
        (["20240131x"], None),
        ([], None),
    ],
)
def test_forms_of_dates(cells: list[str], form: str | None) -> None:
    assert find_form(cells) == form


def test_weekdays_are_told_apart(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=140).strftime("%d.%m.%Y")
    rows = "".join(f"{day},{int(at % 7 >= 5)}\n" for at, day in enumerate(days))
    table = read(tmp_path, "day,weekend\n" + rows)
    encoding = fit_encoding([table], "weekend")
    x, y = encoding.encode(table)
    design = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    weights = torch.linalg.lstsq(design, y.double()[:, None]).solution
    assert (((design @ weights)[:, 0] > 0.5).long() == y).all()


def test_an_unknown_whole_number_label_is_allowed_but_no_fraction(tmp_path: Path) -> None:
    encoding = fit_target(tmp_path, "0 1")
    assert encoding.encode_targets(read(tmp_path, "a,y\n1,2\n", "t.csv")).tolist() == [2]
    with pytest.raises(UnknownLabel, match=r"0\.5 in line 2"):
        encoding.encode_targets(read(tmp_path, "a,y\n1,0.5\n", "t.csv"))
