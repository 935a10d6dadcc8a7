"""Test-then-learn over pairs, loaders and late labels: what is answered, counted and scored."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

import nestling as nl
from nestling.core.errors import DataError, SettingError, UnknownLabel
from nestling.judge.stream_scores import StreamScores, ValueScores
from nestling.streams import Arrival, follow


def make_events(count: int = 120) -> list[tuple[dict[str, float], int]]:
    rng = np.random.default_rng(0)
    return [({"a": float(a), "b": float(b)}, int(a > b)) for a, b in rng.normal(size=(count, 2))]


class Events(IterableDataset[Any]):
    def __init__(self, events: list[Any]) -> None:
        self.events = events

    def __iter__(self) -> Iterator[Any]:
        return iter(self.events)


def run(learner: Any, arrivals: Any, block: int = 1) -> list[Any]:
    return list(follow(learner, arrivals, block=block))


def test_event_by_event_is_predict_then_learn() -> None:
    events = make_events()
    learner, twin, scores = nl.StreamClassifier(), nl.StreamClassifier(), StreamScores()
    reports = run(learner, events)
    for report, (x, y) in zip(reports, events, strict=True):
        foreseen = twin.predict_proba_one(x)
        scores.update(y, foreseen)
        (answer,) = report.answers
        assert answer.prediction == (max(foreseen, key=foreseen.__getitem__) if foreseen else None)
        assert answer.probability == max(foreseen.values(), default=None)
        assert answer.y == y
        twin.learn_one(x, y)
    stream = reports[-1].stream
    assert stream.scores.to_figures() == scores.to_figures()
    assert (stream.num_events, stream.num_learned, stream.num_late) == (120, 120, 0)
    assert [report.answers[0].event for report in reports] == list(range(1, 121))


def test_a_block_is_answered_before_any_of_it_is_learned() -> None:
    events = make_events(100)
    learner, twin = nl.StreamClassifier(), nl.StreamClassifier()
    reports = run(learner, events, block=32)
    assert [len(report.answers) for report in reports] == [32, 32, 32, 4]
    for start, report in zip(range(0, 100, 32), reports, strict=True):
        rows = events[start : start + 32]
        expected = twin.predict_many([x for x, _ in rows])
        assert [answer.prediction for answer in report.answers] == expected
        twin.learn_many([x for x, _ in rows], [y for _, y in rows])
    assert learner.predict_proba_one(events[0][0]) == twin.predict_proba_one(events[0][0])
    # Of the first block nothing was known: it is answered by nothing, and counts as wrong.
    assert reports[-1].stream.scores.accuracy < 0.68


@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_a_loader_over_an_iterable_dataset(batch_size: int | None) -> None:
    events = make_events()
    loader = DataLoader(Events(events), batch_size=batch_size)
    learner, twin = nl.StreamClassifier(), nl.StreamClassifier()
    last = run(learner, loader, block=10)[-1].stream
    expected = run(twin, events, block=10)[-1].stream
    assert last.scores.to_figures() == expected.scores.to_figures()
    assert learner.predict_proba_one(events[3][0]) == twin.predict_proba_one(events[3][0])


def test_batches_of_arrays_tensors_and_frames() -> None:
    events = make_events(60)
    X = np.array([[x["a"], x["b"]] for x, _ in events])
    y = np.array([label for _, label in events])
    frame = pd.DataFrame(X, columns=["a", "b"])
    forms: list[Any] = [
        [(X, y)],
        [(torch.from_numpy(X[:20]), torch.from_numpy(y[:20])), (X[20:], y[20:].tolist())],
        [(frame, pd.Series(y))],
        [({"a": frame["a"], "b": X[:, 1]}, y)],
    ]
    figures = [
        run(nl.StreamClassifier(), batches)[-1].stream.scores.to_figures() for batches in forms
    ]
    assert all(one == figures[0] for one in figures)
    with pytest.raises(DataError, match=r"a batch of \[60\] events and 59 labels"):
        run(nl.StreamClassifier(), [(X, y[1:])])


def test_late_labels_are_scored_by_what_was_answered() -> None:
    events = make_events()
    arrivals: list[Any] = []
    for n in range(len(events) + 20):
        if n >= 20:
            arrivals.append(Arrival(y=events[n - 20][1], id=n - 20))
        if n < len(events):
            arrivals.append(Arrival(events[n][0], id=n))
    learner, twin, scores = nl.StreamClassifier(), nl.StreamClassifier(), StreamScores()
    kept: dict[int, Any] = {}
    for one in arrivals:
        if one.x is not None:
            kept[one.id] = twin.predict_proba_one(one.x, id=one.id)
        else:
            scores.update(one.y, kept[one.id])
            twin.learn_one(id=one.id, y=one.y)
    stream = run(learner, arrivals, block=32)[-1].stream
    assert stream.scores.to_figures() == scores.to_figures()
    assert (stream.num_events, stream.num_learned, stream.num_late) == (120, 120, 120)
    assert learner.predict_proba_one(events[0][0]) == twin.predict_proba_one(events[0][0])


def test_unknown_repeated_and_missing_ids_are_counted() -> None:
    x = {"a": 1.0}
    reports = run(
        nl.StreamClassifier(),
        [
            (x, "yes"),
            Arrival(x, id="one"),
            Arrival(x, id="one"),  # waits already: only answered
            Arrival(y="no", id="two"),
            Arrival(y="no", id="one"),
            Arrival(y="no", id="one"),  # answered already
            (x, None),
        ],
        block=5,
    )
    stream = reports[-1].stream
    assert [report.unknown_ids for report in reports if report.unknown_ids] == [["two"], ["one"]]
    assert (stream.num_unknown, stream.num_repeated, stream.num_late) == (2, 1, 1)
    assert (stream.num_events, stream.num_learned) == (4, 2)
    assert stream.scores.num_events == 2


def test_values() -> None:
    events = [({"h": n % 12}, 2.0 * (n % 12)) for n in range(150)]
    learner, scores, twin = nl.StreamRegressor(), ValueScores(), nl.StreamRegressor()
    stream = run(learner, events)[-1].stream
    for x, y in events:
        scores.update(y, twin.predict_one(x))
        twin.learn_one(x, y)
    assert stream.scores.to_figures() == pytest.approx(scores.to_figures(), nan_ok=True)
    assert run(nl.StreamRegressor(), events, block=16)[-1].stream.scores.num_events == 150


def test_changes_are_reported_once() -> None:
    rng = np.random.default_rng(0)
    events = []
    for n in range(900):
        a, b = rng.normal(size=2)
        events.append(({"a": a, "b": b}, int((a > b) ^ (n // 300 % 2))))
    learner = nl.StreamClassifier()
    reports = run(learner, events[:300]) + run(learner, events[300:], block=8)
    happened = [one for report in reports for one in report.happened]
    assert happened == learner.read_events()
    assert happened
    counted = [reports[299].stream, reports[-1].stream]
    total = sum(one.num_restarts + one.num_new_concepts for one in counted)
    assert total == len(happened)


def test_what_cannot_be_read_changes_nothing() -> None:
    learner = nl.StreamClassifier()
    x = {"a": 1.0}
    with pytest.raises(SettingError, match="block 0"):
        run(learner, [], block=0)
    with pytest.raises(UnknownLabel):
        run(learner, [(x, "a"), (x, 0.5)], block=2)
    with pytest.raises(DataError, match="a int in a stream"):
        run(learner, [3])
    with pytest.raises(DataError, match="without an event and without an id"):
        run(learner, [Arrival(y=3)])
    assert (learner.num_events, learner.classes) == (0, [])
