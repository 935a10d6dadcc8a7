"""Rows of a probe: their digest, their slices, and what is refused."""

from datetime import date
from typing import Any

import numpy as np
import pytest
import torch

from nestling.core.errors import DataError, NonFiniteInput, SettingError
from nestling.judge import ProbeData
from nestling.judge.contract.probe_spec import ProbeSpec
from nestling.judge.probes import load_probe_data


def make_data(**changed: Any) -> ProbeData:
    given: dict[str, Any] = {
        "x": torch.arange(6.0).reshape(3, 2),
        "y": torch.tensor([0, 1, 1]),
        "columns": {"sex": ["f", "m", "f"], "age": ["old", "old", "young"]},
    }
    return ProbeData(**(given | changed))


EVENTS: list[dict[str, Any]] = [{"a": 1.5, "b": "red"}, {"b": "blue", "day": date(2026, 1, 1)}]


def test_the_digest_is_of_everything() -> None:
    base = make_data().digest
    assert base == make_data().digest
    assert len(base) == 64
    others = [
        make_data(x=torch.arange(6.0).reshape(3, 2) + 1e-6),
        make_data(x=torch.arange(6.0, dtype=torch.float64).reshape(3, 2)),
        make_data(x=torch.arange(6.0).reshape(3, 1, 2)),
        make_data(x=(torch.arange(6.0).reshape(3, 2),)),
        make_data(x={"a": torch.arange(6.0).reshape(3, 2)}),
        make_data(y=torch.tensor([0, 1, 0])),
        make_data(y=torch.tensor([0.0, 1.0, 1.0])),
        make_data(y=None),
        make_data(columns={"sex": ["f", "m", "m"], "age": ["old", "old", "young"]}),
        make_data(columns={}),
        make_data(x_changed=torch.arange(6.0).reshape(3, 2)),
    ]
    digests = [one.digest for one in others]
    assert len({base, *digests}) == len(others) + 1


def test_the_digest_does_not_depend_on_layout_or_order() -> None:
    x = torch.arange(6.0).reshape(2, 3).T
    assert make_data(x=x).digest == make_data(x=x.contiguous()).digest
    a, b = torch.zeros(3, 1), torch.ones(3)
    one, other = make_data(x={"a": a, "b": b}), make_data(x={"b": b, "a": a})
    assert one.digest == other.digest
    columns = {"age": ["old", "old", "young"], "sex": ["f", "m", "f"]}
    assert make_data(columns=columns).digest == make_data().digest


def test_events_have_a_digest() -> None:
    base = ProbeData(EVENTS).digest
    turned = [dict(reversed(event.items())) for event in EVENTS]
    assert ProbeData(turned).digest == base
    assert ProbeData([{"a": np.float64(1.5), "b": "red"}, EVENTS[1]]).digest == base
    assert ProbeData([{"a": 1.25, "b": "red"}, EVENTS[1]]).digest != base
    assert ProbeData(EVENTS[::-1]).digest != base
    with pytest.raises(DataError, match="an event holds a Tensor; numbers, texts and dates work"):
        _ = ProbeData([{"a": torch.zeros(2)}]).digest


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.uint8])
def test_any_dtype_has_a_digest(dtype: torch.dtype) -> None:
    assert len(ProbeData(torch.ones(3, dtype=dtype)).digest) == 64


def test_select_takes_rows_of_every_part() -> None:
    x = {"a": torch.arange(3.0), "b": torch.arange(6.0).reshape(3, 2)}
    data = make_data(x=x, x_changed=x).select(torch.tensor([2, 0]))
    assert isinstance(data.x, dict)
    assert isinstance(data.x_changed, dict)
    assert data.y is not None
    assert data.x["a"].tolist() == data.x_changed["a"].tolist() == [2.0, 0.0]
    assert data.y.tolist() == [1, 0]
    assert data.columns == {"sex": ("f", "f"), "age": ("young", "old")}
    events = ProbeData(EVENTS).select([1])
    assert events.x == EVENTS[1:]
    pair = ProbeData((torch.arange(2.0), torch.arange(2.0))).select([1])
    assert [tensor.tolist() for tensor in pair.x] == [[1.0], [1.0]]  # type: ignore[union-attr]
    with pytest.raises(DataError, match="no row 3; rows 0 to 2 are there"):
        make_data().select([3])
    with pytest.raises(DataError, match="no rows"):
        make_data().select([])


def test_slices_find_rows() -> None:
    data = make_data()
    assert data.find_slice("women", {"sex": "f"}) == [0, 2]
    assert data.find_slice("old women", {"sex": "f", "age": "old"}) == [0]
    assert data.find_slice("all", {}) == [0, 1, 2]


def test_a_slice_without_rows_names_what_there_is() -> None:
    with pytest.raises(DataError) as caught:
        make_data().find_slice("young men", {"sex": "m", "age": "young"})
    assert str(caught.value) == (
        "slice 'young men' has no rows: none with sex = 'm' and age = 'young'; there are "
        "sex: ['f', 'm'], age: ['old', 'young']"
    )
    with pytest.raises(DataError, match=r"no column 'sax'; .* did you mean 'sex'"):
        make_data().find_slice("men", {"sax": "m"})
    with pytest.raises(DataError, match="the data have no columns"):
        make_data(columns={}).find_slice("men", {"sex": "m"})


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"x": torch.zeros(0, 2)}, DataError, "no rows; give one row or more"),
        ({"x": []}, DataError, "no rows; give one row or more"),
        ({"x": torch.tensor(1.0)}, DataError, "x is a single number"),
        ({"x": np.zeros((3, 2))}, DataError, "x is a ndarray; give a tensor"),
        ({"x": ()}, DataError, "x is a tuple"),
        ({"x": [1, 2, 3]}, DataError, "an event of x is an int; give a dict"),
        ({"x": {"a": [1, 2, 3]}}, DataError, r"x\['a'\] is a list"),
        ({"x": (torch.zeros(3), torch.zeros(2))}, DataError, "as many of each"),
        ({"x_changed": torch.zeros(2, 2)}, DataError, "2 changed rows for 3"),
        ({"y": [0, 1, 1]}, DataError, "y is a list; give a tensor"),
        ({"y": torch.tensor([0, 1])}, DataError, r"targets of shape \(2,\) for 3 rows"),
        ({"y": torch.zeros(3, 2, dtype=torch.long)}, DataError, "classes are .N,. integers"),
        ({"y": torch.tensor([0.0, 1.0, float("nan")])}, NonFiniteInput, "not finite"),
        ({"columns": {"sex": ["f", "m"]}}, DataError, "column 'sex' has 2 texts for 3 rows"),
        ({"columns": {"sex": "fmf"}}, DataError, "column 'sex' is a str; give a list of texts"),
        ({"columns": {"sex": [0, 1, 0]}}, DataError, "holds an int; texts work, such as '0'"),
    ],
)
def test_what_is_no_data_is_refused(
    changed: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make_data(**changed)


def test_truths_are_classes() -> None:
    data = make_data(y=torch.tensor([True, False, True]))
    assert data.y is not None
    assert data.has_classes
    assert data.y.tolist() == [1, 0, 1]
    assert not make_data(y=torch.rand(3, 2)).has_classes
    assert not make_data(y=None).has_classes


def give_data() -> ProbeData:
    return make_data()


def give_number() -> int:
    return 3


def fail() -> ProbeData:
    raise RuntimeError("no disk")


def refuse() -> ProbeData:
    return make_data(x=[])


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ProbeData:
    import sys
    from types import ModuleType

    module = ModuleType("probe_sources")
    for function in (give_data, give_number, fail, refuse):
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, "probe_sources", module)
    return load_probe_data(ProbeSpec("p", metric="accuracy", data=name))


def test_data_come_from_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load("probe_sources:give_data", monkeypatch).digest == make_data().digest


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("probe_sources:give_number", SettingError, "gave an int; return ProbeData"),
        ("probe_sources:give_date", SettingError, "did you mean 'give_data'"),
        ("probe_sources:fail", DataError, "failed: RuntimeError: no disk"),
        ("probe_sources:refuse", DataError, "probe 'p': data .* no rows"),
        ("", SettingError, "its data name nothing, no function; write data = 'module:function'"),
        ("rows.csv", SettingError, "its data name 'rows.csv', no function"),
    ],
)
def test_a_function_that_gives_no_data(
    name: str, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(error, match=words):
        load(name, monkeypatch)
