"""What is written is what is read back, whatever it is, and a crash costs one line at most."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import DataError
from nestling.report import RunWriter, read_run

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
bodies = st.dictionaries(st.text().filter(lambda name: name != "kind"), values, max_size=4)
sequences = st.lists(st.tuples(st.text(), bodies), max_size=6)


def write_records(folder: Path, written: list[tuple[str, dict]]) -> Path:
    writer = RunWriter(folder, {})
    for kind, body in written:
        writer.write(kind, body)
    writer.close()
    return folder / "metrics.jsonl"


@given(sequences)
def test_any_sequence_is_read_back_equal(written):
    with tempfile.TemporaryDirectory() as folder:
        write_records(Path(folder), written)
        run = read_run(folder)
    assert run.records == [{"kind": kind} | body for kind, body in written]
    assert run.lines == list(range(1, len(written) + 1))
    assert run.note == ""


@given(sequences.filter(bool), st.data())
def test_a_truncated_last_line_is_reported_and_the_rest_kept(written, data):
    with tempfile.TemporaryDirectory() as folder:
        path = write_records(Path(folder), written)
        content = path.read_bytes()
        last = len(content.splitlines(keepends=True)[-1])
        # At least one byte is left of the line, and at least its closing bracket is lost.
        num_lost = data.draw(st.integers(2, last - 1))
        path.write_bytes(content[:-num_lost])
        torn = read_run(folder)
        # Whoever goes on writing loses nothing more.
        write_records(Path(folder), [("summary", {"number": 1})])
        resumed = read_run(folder)
    kept = [{"kind": kind} | body for kind, body in written[:-1]]
    assert f"line {len(written)} was cut off" in torn.note
    assert resumed.note == ""
    assert torn.records == kept
    assert resumed.records == [*kept, {"kind": "summary", "number": 1}]


@given(st.text(), st.text(), bodies)
def test_a_record_stays_of_the_kind_it_was_written_as(kind, other, body):
    with tempfile.TemporaryDirectory() as folder:
        write_records(Path(folder), [(kind, body | {"kind": other})])
        (record,) = read_run(folder).records
    assert record["kind"] == kind
    assert other in record.values()


def test_an_integer_too_long_for_python_is_a_damaged_line(tmp_path):
    path = write_records(tmp_path, [("summary", {"number": 0})])
    for line in ('{"kind": "summary", "number": ' + "9" * 5000 + "}", "[" * 100_000):
        path.write_text(json.dumps({"kind": "summary"}) + "\n" + line + "\n")
        with pytest.raises(DataError, match=r"line 2: '.*' is no record") as caught:
            read_run(tmp_path)
        assert len(str(caught.value)) < 400
