"""The run folder: appended, durable, tolerant of a crash."""

import json
import math
import resource

import pytest

from nestling.core.errors import DataError, NestlingError
from nestling.report import RunWriter, read_run, write_report

EVALUATION = {
    **{"method": "m", "seed": 0, "during": 0, "after": 0, "step": 5},
    "accuracies": {"base": 0.5},
}


def test_records_come_back_in_order(tmp_path):
    writer = RunWriter(tmp_path / "run", {"seed": 1, "out": tmp_path})
    for number in range(3):
        writer.write("evaluation", EVALUATION | {"step": number, "loss": math.nan})
    writer.close()
    run = read_run(tmp_path / "run")
    assert run.config == {"seed": 1, "out": str(tmp_path)}
    assert [record["step"] for record in run.select("evaluation")] == [0, 1, 2]
    assert run.records[0]["loss"] is None
    assert run.note == ""


def test_a_second_writer_appends_and_keeps_the_configuration(tmp_path):
    for number in range(2):
        writer = RunWriter(tmp_path, {"number": number})
        writer.write("summary", {"number": number})
        writer.close()
    run = read_run(tmp_path)
    assert run.config == {"number": 0}
    assert [record["number"] for record in run.records] == [0, 1]


def test_a_torn_line_is_left_out_and_said(tmp_path):
    writer = RunWriter(tmp_path, {})
    writer.write("summary", {"number": 0})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "summ')
    torn = read_run(tmp_path)
    assert torn.note == "metrics.jsonl: line 2 was cut off, as by a crash, and is left out"
    assert [record["number"] for record in torn.records] == [0]
    writer = RunWriter(tmp_path, {})
    writer.write("summary", {"number": 1})
    writer.close()
    run = read_run(tmp_path)
    assert [record["number"] for record in run.records] == [0, 1]
    assert run.note == ""


def test_a_whole_line_without_its_end_is_kept(tmp_path):
    RunWriter(tmp_path, {}).close()
    (tmp_path / "metrics.jsonl").write_text('{"kind": "summary", "number": 0}')
    writer = RunWriter(tmp_path, {})
    writer.write("summary", {"number": 1})
    writer.close()
    assert [record["number"] for record in read_run(tmp_path).records] == [0, 1]


GARBAGE = {
    "no JSON": (b"garbage", 1),
    "bytes": (b"\xff\xfe\x00", 1),
    "in the middle": (b'{"kind": "summary"}\n{"kind": "summ\n{"kind": "summary"}\n', 2),
    "cut, but another line": (b'{"kind": "summary"}\n{"acc": 0.', 2),
    "a list": (b"[1]\n", 1),
    "no kind": (b'{"acc": 1.0}\n', 1),
    "kind of no text": (b'{"kind": 3}\n', 1),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_said_with_its_line(tmp_path, case):
    RunWriter(tmp_path, {}).close()
    content, line = GARBAGE[case]
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=f"jsonl', line {line}: .* is no record") as caught:
        read_run(tmp_path)
    assert "\n" not in str(caught.value)
    RunWriter(tmp_path, {}).close()  # nor does it take away what it has not written
    with pytest.raises(DataError, match=f"line {line}: "):
        read_run(tmp_path)


def test_a_damaged_record_is_said_though_nothing_is_shown_of_it(tmp_path):
    writer = RunWriter(tmp_path, {})
    writer.write("summary", {"method": "m", "seed": 0, "acc": "good"})
    writer.close()
    with pytest.raises(DataError, match="line 1: 'acc' is 'good'; it must be a number"):
        write_report(tmp_path)


def test_a_full_disk_keeps_earlier_records(tmp_path):
    writer = RunWriter(tmp_path, {})
    writer.write("summary", {"number": 0})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
        for _ in range(2):
            with pytest.raises(NestlingError, match="earlier records are kept") as caught:
                writer.write("summary", {"text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.write("summary", {"number": 1})
    writer.close()
    assert "\n" not in str(caught.value)
    assert [record["number"] for record in read_run(tmp_path).records] == [0, 1]


def test_no_run_and_a_damaged_one(tmp_path):
    with pytest.raises(DataError, match=r"no run in"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        read_run(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NestlingError, match="cannot write run folder"):
        RunWriter(tmp_path / "file" / "run", {})


def test_lines_are_json(tmp_path):
    writer = RunWriter(tmp_path, {})
    writer.write("summary", {"levels": ("a", "b")})
    writer.close()
    line = (tmp_path / "metrics.jsonl").read_text().strip()
    assert json.loads(line) == {"kind": "summary", "levels": ["a", "b"]}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", ...),
        ("method", 3),
        ("seed", [1]),
        ("during", None),
        ("after", "x"),
        ("after", 7),
        ("after", -1),
        ("after", 0.5),
        ("after", True),
        ("step", "a"),
        ("accuracies", [1]),
        ("accuracies", {"base": "x"}),
    ],
)
def test_a_record_with_a_missing_or_wrong_field_names_file_and_line(tmp_path, field, value):
    bad = {**EVALUATION, field: value}
    if value is ...:
        del bad[field]
    writer = RunWriter(tmp_path, {})
    writer.write("experience", {"index": 0, "name": "base"})
    writer.write("evaluation", EVALUATION)
    writer.write("evaluation", bad)
    writer.close()
    with pytest.raises(DataError, match=rf"metrics\.jsonl', line 3: .*'{field}'"):
        write_report(tmp_path)
    assert len(read_run(tmp_path).records) == 3


def test_a_run_stopped_between_an_experience_and_its_record(tmp_path):
    writer = RunWriter(tmp_path, {})
    writer.write("evaluation", EVALUATION)
    writer.close()
    assert write_report(tmp_path).is_file()


def test_an_experience_missing_between_others_is_told(tmp_path):
    writer = RunWriter(tmp_path, {})
    for index in (0, 2):
        writer.write("experience", {"index": index, "name": str(index)})
    writer.close()
    with pytest.raises(DataError, match="no record of experience 1"):
        write_report(tmp_path)
