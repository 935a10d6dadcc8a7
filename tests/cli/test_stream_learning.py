"""`nestling learn -`: streams from standard input, late labels, broken lines, signals."""

import contextlib
import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nestling as nl
from nestling.cli.stream_learning import Stop

Outcome = tuple[int, str, str]
Feed = Callable[..., Outcome]


def make_rows(count: int = 200) -> list[dict[str, str]]:
    rng = random.Random(0)
    rows = []
    for n in range(count):
        amount, country = rng.expovariate(1.0), rng.choice(["de", "fr"])
        fraud = "yes" if amount > 1.0 else "no"
        rows.append({"id": f"p{n}", "amount": f"{amount:.3f}", "country": country, "fraud": fraud})
    return rows


def write_csv(rows: list[dict[str, str]], *names: str) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


ROWS = make_rows()
EVENTS = write_csv(ROWS, "id", "amount", "country", "fraud")


@pytest.fixture
def feed(nestling: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> Feed:
    """Run a command on a text, or bytes, as standard input."""

    def run(text: str | bytes, *args: str) -> Outcome:
        data = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return nestling("learn", "-", *args)

    return run


def follow_by_hand(learner: Any, rows: list[dict[str, str]]) -> list[Any]:
    answers = []
    for row in rows:
        x = {"amount": float(row["amount"]), "country": row["country"]}
        answers.append(learner.predict_one(x))
        learner.learn_one(x, row["fraud"])
    return answers


def test_every_event_is_answered_before_it_is_learned(feed: Feed, desk: Path) -> None:
    options = ("--target", "fraud", "--id", "id", "--json", "f.json", "--predictions", "p.csv")
    code, out, err = feed(EVENTS, *options)
    assert (code, err) == (0, "")
    answers = follow_by_hand(nl.StreamClassifier(), ROWS)
    with (desk / "p.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["prediction"] or None for row in found] == answers
    assert [row["id"] for row in found] == [row["id"] for row in ROWS]
    assert [row["target"] for row in found] == [row["fraud"] for row in ROWS]
    assert found[0] | {"target": ""} == dict.fromkeys(found[0], "") | {"event": "1", "id": "p0"}
    assert 0.5 <= float(found[-1]["probability"]) <= 1.0
    figures = json.loads((desk / "f.json").read_text())
    right = sum(answer == row["fraud"] for answer, row in zip(answers, ROWS, strict=True))
    assert figures["accuracy"] == right / 200 > 0.8
    assert (figures["events"], figures["learned"], figures["waiting"]) == (200, 200, 0)
    assert figures["kappa"] > 0.5
    assert not figures["is_interrupted"]
    assert out == f"200 events, 200 learned, accuracy {right / 200:.4g}, kappa " + (
        f"{figures['kappa']:.4g}, concepts {figures['concepts']}\n"
    )


def test_json_lines_in_blocks(feed: Feed) -> None:
    lines = [json.dumps({**row, "amount": float(row["amount"])}) for row in ROWS]
    one = feed("\n".join(lines), "--target", "fraud", "--id", "id", "--block", "16")
    two = feed(EVENTS, "--target", "fraud", "--id", "id", "--block", "16")
    assert one == two
    assert one[0] == 0
    assert one[1] != feed(EVENTS, "--target", "fraud", "--id", "id")[1]


def test_values_to_standard_output(feed: Feed) -> None:
    code, out, err = feed(
        EVENTS, "--target", "amount", "--task", "regression", "--predictions", "-"
    )
    assert code == 0
    assert out.splitlines()[0] == "event,prediction,target"
    assert len(out.splitlines()) == 201
    assert err.startswith("200 events, 200 learned, mae ")


def test_labels_that_come_late(feed: Feed, desk: Path) -> None:
    labels = [
        {"id": row["id"], "fraud": row["fraud"], "after": str(n + 21)}
        for n, row in enumerate(ROWS[:150])
    ]
    labels.insert(3, {"id": "who", "fraud": "no", "after": "4"})
    (desk / "labels.csv").write_text(write_csv(labels, "id", "fraud", "after"))
    code, out, err = feed(
        write_csv(ROWS, "id", "amount", "country"),
        *("--target", "fraud", "--id", "id", "--late-labels", "labels.csv", "--json", "f.json"),
        *("--save", "learner"),
    )
    assert code == 0
    assert err == "nestling: late label for 'who': no such event waits\n"
    figures = json.loads((desk / "f.json").read_text())
    assert (figures["events"], figures["learned"], figures["late"]) == (200, 150, 150)
    assert (figures["waiting"], figures["unknown_ids"]) == (50, 1)
    assert "late labels 150, still waiting 50, unknown ids 1" in out
    twin = nl.StreamClassifier()
    for n, row in enumerate(ROWS):
        if 20 < n < 171:
            twin.learn_one(id=f"p{n - 21}", y=ROWS[n - 21]["fraud"])
        x = {"amount": float(row["amount"]), "country": row["country"]}
        twin.predict_one(x, id=row["id"])
    found = nl.StreamClassifier()
    found.restore(desk / "learner")
    assert found.num_waiting == 50
    assert found.mean_delay == twin.mean_delay == pytest.approx(20.0)
    # The last labels are due at the end, where no event comes any more: none here.
    query = {"amount": 1.2, "country": "de"}
    assert found.predict_proba_one(query) == twin.predict_proba_one(query)
    # In the next session the rest comes, without a time: for events of the one before.
    (desk / "rest.csv").write_text(write_csv(ROWS[150:], "id", "fraud"))
    code, out, err = feed(
        write_csv(ROWS[:1], "id", "amount", "country"),
        *("--target", "fraud", "--id", "id", "--late-labels", "rest.csv", "--restore", "learner"),
    )
    assert (code, err) == (0, "")
    assert out.startswith("1 events, 50 learned, late labels 50, still waiting 1")


def test_saved_and_restored_it_goes_on_exactly(feed: Feed, desk: Path) -> None:
    options = ("--target", "fraud", "--id", "id")
    first = write_csv(ROWS[:120], "id", "amount", "country", "fraud")
    rest = write_csv(ROWS[120:], "id", "amount", "country", "fraud")
    assert feed(EVENTS, *options, "--save", "whole")[0] == 0
    assert feed(first, *options, "--save", "part")[0] == 0
    assert feed(rest, *options, "--restore", "part", "--save", "part")[0] == 0
    names = sorted(path.name for path in (desk / "whole").glob("*.safetensors"))
    assert names == sorted(path.name for path in (desk / "part").glob("*.safetensors"))
    # Without labels it only answers.
    unlabelled = write_csv(ROWS[:3], "id", "amount", "country")
    code, out, _ = feed(unlabelled, *options, "--restore", "part")
    assert (code, out.split(",")[:2]) == (0, ["3 events", " 0 learned"])


def test_broken_lines_are_skipped_and_counted(feed: Feed, desk: Path) -> None:
    lines = EVENTS.encode().splitlines(keepends=True)
    broken = [b"p1,2\n", b'"p2,1\n', b"\xff\xfe,1,de,no\n", b"1,2,3,4,5\n", b",,\n", b"x\n", b"\n"]
    text = b"".join([*lines[:50], *broken, *lines[50:]])
    code, out, err = feed(text, "--target", "fraud", "--id", "id", "--json", "f.json")
    assert code == 0
    assert out.startswith("200 events, 200 learned")
    assert "broken lines skipped 6" in out
    assert err.count("\n") == 5
    assert "line 51: 2 cells, expected 4; skipped\n" in err
    assert err.endswith("(more are only counted)\n")
    assert json.loads((desk / "f.json").read_text())["broken_lines"] == 6
    code, out, err = feed(text, "--target", "fraud", "--id", "id", "--strict", "--save", "kept")
    assert (code, err.count("\n")) == (2, 1)
    assert "line 51: 2 cells, expected 4; mend it" in err
    assert out.startswith("49 events, 49 learned")
    learner = nl.StreamClassifier()
    learner.restore(desk / "kept")
    assert learner.num_events == 49


@pytest.mark.parametrize(
    ("args", "text", "said"),
    [
        ((), EVENTS, "give --target"),
        (("--target", "frau"), EVENTS, "did you mean 'fraud'"),
        (("--target", "fraud", "--id", "nr"), EVENTS, "no column 'nr'"),
        (("--target", "fraud"), "", "the stream is empty"),
        (("--target", "fraud"), "a,a\n", "'a' twice"),
        (("--target", "fraud", "--late-labels", "l.csv"), EVENTS, "needs --id"),
        (("--target", "fraud", "--time", "t"), EVENTS, "goes with --late-labels"),
        (("--target", "fraud", "--id", "id", "--late-labels", "no.csv"), EVENTS, "no.csv"),
        (("--target", "fraud", "--id", "id", "--late-labels", "l.csv"), EVENTS, "'l.csv': no col"),
        (("--target", "fraud", "--restore", "gone"), EVENTS, "gone"),
        (("--target", "fraud", "--save", "l.csv"), EVENTS, "l.csv"),
        (("--target", "fraud", "--out", "run"), EVENTS, "--out goes with a job"),
        (("--target", "fraud", "--block", "0"), EVENTS, "--block"),
        (("--target", "fraud", "--task", "guess"), EVENTS, "--task"),
    ],
)
def test_wrong_input_is_one_line(
    feed: Feed, desk: Path, args: tuple[str, ...], text: str, said: str
) -> None:
    (desk / "l.csv").write_text("id,label\n")
    code, out, err = feed(text, *args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_learner_of_another_task_is_refused(feed: Feed, desk: Path) -> None:
    nl.StreamRegressor().snapshot(desk / "values")
    options = ("--target", "amount", "--restore", "values")
    code, _, err = feed(EVENTS, *options, "--task", "classification")
    assert (code, err.count("\n")) == (2, 1)
    assert "holds a learner of regression" in err
    assert feed(EVENTS, *options)[0] == 0


def test_what_goes_with_a_stream_is_refused_elsewhere(nestling: Callable[..., Outcome]) -> None:
    code, out, err = nestling("learn", "a.csv", "--target", "label", "--save", "x")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--save goes with a stream: nestling learn -" in err


class Interrupted(io.StringIO):
    """A stream that stays open: when nothing more comes, a signal does."""

    def __init__(self, text: str, sent: signal.Signals) -> None:
        super().__init__(text)
        self.sent = sent

    def readline(self, size: int = -1) -> str:
        line = super().readline(size)
        if not line:
            os.kill(os.getpid(), self.sent)
            raise AssertionError("the signal did not break off reading")
        return line


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("block", ["1", "32"])
def test_a_signal_ends_the_stream_and_all_is_saved(
    nestling: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    desk: Path,
    sent: signal.Signals,
    block: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", Interrupted(EVENTS, sent))
    before = signal.getsignal(sent)
    options = ("--target", "fraud", "--id", "id", "--save", "kept", "--block", block)
    code, out, err = nestling("learn", "-", *options, "--json", "f.json")
    assert (code, err) == (130, "")
    assert out.startswith("200 events, 200 learned, accuracy ")
    assert json.loads((desk / "f.json").read_text())["is_interrupted"]
    twin, found = nl.StreamClassifier(), nl.StreamClassifier()
    follow_by_hand(twin, ROWS)
    found.restore(desk / "kept")
    query = {"amount": 1.2, "country": "de"}
    assert found.predict_proba_one(query) == twin.predict_proba_one(query)
    assert signal.getsignal(sent) is before


def test_a_signal_waits_until_an_event_is_learned() -> None:
    stop = Stop()
    lines = stop.read_lines(io.StringIO("a\nb\n"))
    assert next(lines) == "a\n"
    stop.take(signal.SIGINT, None)  # while the event is being learned: it is not broken off
    assert list(lines) == []
    with pytest.raises(KeyboardInterrupt):
        stop.take(signal.SIGINT, None)  # the second one is meant


def test_a_reader_that_goes_ends_the_stream_and_all_is_saved(desk: Path) -> None:
    options = ("learn", "-", "--target", "fraud", "--predictions", "-", "--save", "kept")
    lines = EVENTS.encode().splitlines(keepends=True)
    with subprocess.Popen(
        [sys.executable, "-m", "nestling.cli.main", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=desk,
        env={**os.environ, "PYTHONPATH": str(Path(str(nl.__file__)).parents[1])},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"".join(lines[:6]))
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"event,prediction")
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"".join(lines[6:]))
            process.stdin.flush()
        err = process.stderr.read().decode()
        assert process.wait(timeout=60) != 0
    assert "Traceback" not in err
    assert " learned, accuracy " in err
    learner = nl.StreamClassifier()
    learner.restore(desk / "kept")
    assert 1 <= learner.num_events <= 200
