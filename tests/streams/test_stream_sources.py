"""One source of events can do so much to a stream learner: held by rate, norm and agreement."""

import copy
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_streams import assert_same, flatten, learn_all, make_either, make_learner

import nestling as nl
from nestling.core.errors import DataError, ForeignSnapshot, SettingError, UnknownEvent
from nestling.levels import Held
from nestling.protect import SourceGuard
from nestling.streams.stream_sources import place_numbers

BOTH = pytest.mark.parametrize("values", [False, True], ids=["classes", "values"])
NUM = 1500


def make_guard() -> SourceGuard:
    """One that judges early, so that short streams hold something."""
    return SourceGuard(least_heard=20, window=40, rate=0.2)


def make_mixed(values: bool) -> tuple[list[Any], list[str]]:
    """Examples that grow in mid-course, and their sources: one too often, some events loud."""
    examples = make_either(values=values)
    for n in range(60, 150, 9):
        examples[n] = ({"size": 1e6 + n, "width": -1e6}, examples[n][1])
    return examples, [f"s{n % 16 if n % 3 else 0}" for n in range(150)]


class Ward:
    """A linear rule of 6 numbers, heard from 20 sources, the first of which is bad."""

    def __init__(self, values: bool, seed: int = 0, num: int = NUM) -> None:
        generator = np.random.default_rng(seed)
        self.X = generator.normal(size=(num + 500, 6))
        self.y = self.X @ generator.normal(size=6)
        if not values:
            self.y = (self.y > 0).astype(int)
        self.is_bad = generator.integers(20, size=num) == 0
        others = generator.integers(1, 20, size=num)
        self.sources = [f"s{0 if bad else k}" for bad, k in zip(self.is_bad, others, strict=True)]
        self.values, self.num = values, num

    def flip(self) -> np.ndarray:
        y = self.y[: self.num].copy()
        y[self.is_bad] = -y[self.is_bad] if self.values else 1 - y[self.is_bad]
        return y

    def learn(self, learner: Any, X: np.ndarray, y: np.ndarray) -> Counter[tuple[str, str]]:
        """Rows that were held by source and rule."""
        held: Counter[tuple[str, str]] = Counter()
        for start in range(0, self.num, 100):
            rows = slice(start, start + 100)
            learner.learn_many(X[rows], y[rows].tolist(), source=self.sources[rows])
            for event in learner.take_events():
                held[event.source, event.rule] += event.num_rows
        return held

    def score(self, learner: Any) -> float:
        found, y = np.array(learner.predict_many(self.X[self.num :])), self.y[self.num :]
        if self.values:
            return 1.0 - float(np.mean((found - y) ** 2) / np.var(y))
        return float(np.mean(found == y))


@BOTH
def test_flipped_labels_of_one_source_among_twenty_are_held(values: bool) -> None:
    ward = Ward(values)
    learner = make_learner(values=values, sources=SourceGuard())
    held = ward.learn(learner, ward.X[:NUM], ward.flip())
    num_bad = int(ward.is_bad.sum())
    assert held.keys() == {("s0", "agreement")}, "nobody else is held"
    # Heard 50 times it is judged, with errors 256 at a time, of which it has a twentieth.
    assert num_bad - 65 <= held["s0", "agreement"] <= num_bad - 50
    assert learner._sources.guard.is_at_odds("s0")
    assert ward.score(learner) > 0.95


@BOTH
@pytest.mark.parametrize("seed", [1, 2])
def test_clean_events_are_hardly_ever_held(values: bool, seed: int) -> None:
    ward = Ward(values, seed, num=1000)
    held = ward.learn(make_learner(values=values, sources=SourceGuard()), ward.X, ward.y)
    assert held.total() <= 0.02 * 1000


@BOTH
def test_loud_events_are_held_and_do_not_widen_the_scale(values: bool) -> None:
    ward = Ward(values)
    X = ward.X[:NUM].copy()
    X[ward.is_bad] *= 50.0
    learner = make_learner(values=values, sources=SourceGuard())
    held = ward.learn(learner, X, ward.flip())
    assert held["s0", "norm"] >= 0.9 * ward.is_bad.sum()
    assert held.total() - held["s0", "norm"] <= 0.02 * NUM
    assert ward.score(learner) > 0.94
    scaling = learner.state_dict()["run"]["pool"]["parts"]["scaling"]
    deviations = (scaling["squares"] / scaling["count"]).sqrt()
    assert float(deviations.max()) < 8.0, "50 times as much came in 5 % of events: 11 were it taken"


def test_skewed_and_rare_columns_are_not_held_for_being_skewed() -> None:
    generator = np.random.default_rng(0)
    X = np.hstack([generator.exponential(size=(1000, 3)), generator.random((1000, 8)) < 0.05])
    learner = nl.StreamClassifier(sources=SourceGuard())
    learner.learn_many(X, (X[:, 0] > 1.0).tolist(), source=[f"s{n % 20}" for n in range(1000)])
    assert sum(event.num_rows for event in learner.take_events()) <= 20


def test_a_shift_of_all_sources_is_soon_heard_again() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(1400, 4))
    y = X[:, 0] > 0
    X[800:] += 30.0
    names = [f"s{n}" for n in generator.integers(20, size=1400)]
    learner = nl.StreamClassifier(sources=SourceGuard())
    held = []
    for start in range(0, 1400, 100):
        rows = slice(start, start + 100)
        learner.learn_many(X[rows], y[rows].tolist(), source=names[rows])
        held.append(sum(event.num_rows for event in learner.take_events()))
    assert held[:8] == [0] * 8
    assert held[8] > 90
    assert held[-3:] == [0, 0, 0], "it has been taken in"


def test_a_loud_source_with_most_of_the_traffic_is_no_shift() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(1000, 4))
    y = X[:, 0] > 0
    is_loud = (generator.random(1000) < 0.8) & (np.arange(1000) >= 400)
    X[is_loud] *= 50.0
    names = ["loud" if loud else f"s{n % 10}" for n, loud in enumerate(is_loud)]
    learner = nl.StreamClassifier(sources=SourceGuard())
    learner.learn_many(X, np.where(is_loud, ~y, y).tolist(), source=names)
    held = {(e.source, e.rule): e.num_rows for e in learner.take_events()}
    assert held["loud", "norm"] > 0.9 * is_loud.sum()
    scaling = learner.state_dict()["run"]["pool"]["parts"]["scaling"]
    assert float((scaling["squares"] / scaling["count"]).sqrt().max()) < 5.0


@BOTH
def test_a_flood_is_held_by_rate(values: bool) -> None:
    guard = SourceGuard(rate=0.2, window=50)
    learner, examples = make_learner(values=values, sources=guard), make_either(values=values)
    names = [f"s{n % 20}" if n < 60 or n % 5 == 0 else "flood" for n in range(150)]
    for (x, y), name in zip(examples, names, strict=True):
        learner.learn_one(x, y=y, source=name)
    held = {(event.source, event.rule): event for event in learner.take_events()}
    assert held["flood", "rate"].num_rows > 40
    assert "the last of" in held["flood", "rate"].message
    assert all(rule == "rate" for _, rule in held)
    assert learner.num_events == 150, "held events have happened"
    assert learner.take_events() == []


@BOTH
def test_blocks_are_single_events_with_a_guard(values: bool) -> None:
    examples, names = make_mixed(values)
    learners = [make_learner(values=values, sources=make_guard()) for _ in range(2)]
    single, blocks = learners
    for (x, y), name in zip(examples, names, strict=True):
        single.learn_one(x, y=y, weight=0.0 if name == "s2" else 2.0, source=name)
    for start in range(0, 150, 37):
        some, own = examples[start : start + 37], names[start : start + 37]
        blocks.learn_many(
            [x for x, _ in some],
            [y for _, y in some],
            weights=[0.0 if name == "s2" else 2.0 for name in own],
            source=own,
        )
    assert_same(single, blocks)
    held = single.take_events()
    assert {event.rule for event in held} >= {"rate", "norm"}
    assert held == blocks.take_events()


@BOTH
def test_a_guard_that_holds_nothing_changes_nothing(values: bool) -> None:
    examples = make_either(values=values)
    guarded = make_learner(values=values, sources=SourceGuard(rate=1.0, norm=1e9, weight=1e9))
    free = make_learner(values=values)
    for n, (x, y) in enumerate(examples):
        guarded.learn_one(x, y=y, weight=1.0 + n % 3, source="a")
        free.learn_one(x, y=y, weight=1.0 + n % 3)
    first, second = flatten(free.state_dict()["run"]), flatten(guarded.state_dict()["run"])
    assert first == second
    assert guarded.levels.digests() == free.levels.digests()


def test_answers_of_a_block_are_those_that_stood_before() -> None:
    ward = Ward(values=False, num=300)
    X, y = ward.X[:300].copy(), ward.flip()
    X[ward.is_bad & (np.arange(300) > 100)] *= 50.0
    learner, other = (make_learner(classes=[0, 1], sources=make_guard()) for _ in range(2))
    answers = learner.learn_many(X, y.tolist(), source=ward.sources)
    assert sum(event.num_rows for event in learner.take_events()) > 2
    for n in range(300):
        row = list(other.predict_proba_one(X[n]).values())
        if n:
            assert answers[n].tolist() == row
        other.learn_one(X[n], y=y[n], source=ward.sources[n])


def test_an_event_that_weighs_nothing_is_answered_in_a_block() -> None:
    learner, examples = make_learner(), make_either(120)
    learn_all(learner, examples)
    x = examples[3][0]
    before = list(learner.predict_proba_one(x).values())
    learner.predict_one(examples[4][0])
    assert learner.learn_many([x], [examples[3][1]], weights=[0.0])[0].tolist() == before


def test_weights_are_capped() -> None:
    examples = make_either()
    capped = make_learner(sources=SourceGuard(rate=1.0, norm=1e9, weight=1.5))
    plain = make_learner()
    for n, (x, y) in enumerate(examples):
        capped.learn_one(x, y=y, weight=[0.5, 1.5, 900.0][n % 3], source="a")
        plain.learn_one(x, y=y, weight=[0.5, 1.5, 1.5][n % 3])
    assert capped.levels.digests() == plain.levels.digests()


@BOTH
def test_late_labels_are_judged_by_what_was_answered_then(values: bool) -> None:
    ward = Ward(values, num=1200)
    learner = make_learner(values=values, sources=SourceGuard(least_heard=30))
    y, held = ward.flip(), Counter[tuple[str, str]]()
    for n in range(1200):
        learner.predict_one(ward.X[n], id=n)
        if n >= 20:
            late = n - 20
            learner.learn_one(y=y[late].item(), id=late, source=ward.sources[late])
        held.update({(e.source, e.rule): e.num_rows for e in learner.take_events()})
    assert learner.num_waiting == 20
    num_bad = int(ward.is_bad[:1180].sum())
    assert num_bad - 45 <= held["s0", "agreement"] <= num_bad - 30
    assert held.total() - held["s0", "agreement"] <= 0.02 * 1200
    assert ward.score(learner) > 0.94


def test_a_late_label_that_is_held_moves_nothing_and_waits_no_more() -> None:
    learner = nl.StreamClassifier(sources=SourceGuard(least_heard=20))
    for n in range(300):
        is_bad = n > 100 and n % 5 == 0
        name, x = "bad" if is_bad else "good", n // 3 % 2
        learner.learn_one({"x": float(x)}, 1 - x if is_bad else x, source=name)
    learner.predict_one({"x": 1.0}, id="a")
    learner.take_events()
    before = learner.levels.digests()
    learner.learn_one(y="new label", id="a", source="bad")
    (event,) = learner.take_events()
    assert isinstance(event, Held)
    assert (event.source, event.rule, event.num_rows) == ("bad", "agreement", 1)
    assert learner.levels.digests() == before
    assert learner.classes == [0, 1]
    assert not learner.is_waiting("a")


@BOTH
def test_an_event_that_is_held_moves_no_level(values: bool) -> None:
    learner = make_learner(values=values, sources=make_guard())
    for n in range(60):
        learner.learn_one({"x": float(n % 7)}, n % 2, source="good")
    state = flatten(learner.state_dict()["run"]["pool"])
    learner.learn_one({"x": 1e6}, 7, source="good")
    assert [event.rule for event in learner.take_events()] == ["norm"]
    assert flatten(learner.state_dict()["run"]["pool"]) == state
    assert learner.num_events == 61


@BOTH
@pytest.mark.parametrize("way", ["snapshot", "deepcopy", "pickle"])
def test_it_goes_on_with_the_same_bits(values: bool, way: str, tmp_path: Path) -> None:
    examples, names = make_mixed(values)
    learner = make_learner(values=values, sources=make_guard())

    def learn(one: Any, start: int, end: int) -> None:
        for (x, y), name in zip(examples[start:end], names[start:end], strict=True):
            one.learn_one(x, y=y, source=name)

    learn(learner, 0, 80)
    learner.predict_one(examples[0][0], id="late")
    assert learner.take_events()
    learn(learner, 80, 90)
    again = make_learner(values=values, sources=make_guard())
    if way == "snapshot":
        learner.snapshot(tmp_path / "s")
        again.restore(tmp_path / "s")
    elif way == "deepcopy":
        again = copy.deepcopy(learner)
    else:
        again = pickle.loads(pickle.dumps(learner))
    for one in (learner, again):
        learn(one, 90, 150)
        one.learn_one(y=examples[0][1], id="late", source="s1")
    assert_same(learner, again)
    assert learner.take_events() == again.take_events()


@BOTH
def test_states_with_and_without_a_guard_are_told_apart(values: bool) -> None:
    guarded, free = make_learner(values=values, sources=make_guard()), make_learner(values=values)
    other = make_learner(values=values, sources=SourceGuard(rate=0.7))
    guarded.learn_one({"x": 1.0}, 1, source="a")
    assert "sources" not in free.state_dict()
    for one, state in (
        (guarded, free.state_dict()),
        (free, guarded.state_dict()),
        (other, guarded.state_dict()),
        (guarded, make_learner(values=values, seed=3, sources=make_guard()).state_dict()),
    ):
        before = flatten(one.state_dict())
        with pytest.raises(ForeignSnapshot):
            one.load_state_dict(state)
        assert flatten(one.state_dict()) == before


BAD: list[tuple[type[Exception], str, Callable[[Any], object]]] = [
    (SettingError, "was not told whose", lambda one: one.learn_one({"x": 1.0}, 1)),
    (SettingError, "was not told whose", lambda one: one.learn_many([{"x": 1.0}], [1])),
    (SettingError, "was not told whose", lambda one: one.learn_one(y=1, id="waits")),
    (DataError, "not empty", lambda one: one.learn_one({"x": 1.0}, 1, source="")),
    (DataError, "source", lambda one: one.learn_one({"x": 1.0}, 1, source=3)),
    (
        DataError,
        "2 sources for 1",
        lambda one: one.learn_many([{"x": 1.0}], [1], source=["a", "b"]),
    ),
    (DataError, "not empty", lambda one: one.learn_one(y=1, id="waits", source="")),
    (UnknownEvent, "never given", lambda one: one.learn_one(y=1, id="unknown", source="a")),
    (DataError, "weight", lambda one: one.learn_one({"x": 1.0}, 1, source="a", weight=-1.0)),
    (DataError, "x", lambda one: one.learn_many([{"new": 1.0}, {"x": [1]}], [1, 0], source="a")),
]


@BOTH
@pytest.mark.parametrize(("error", "says", "call"), BAD)
def test_bad_input_changes_nothing(
    values: bool, error: type[Exception], says: str, call: Callable[[Any], object]
) -> None:
    learner = make_learner(values=values, sources=make_guard())
    learner.learn_one({"x": 0.5}, 1, source="a")
    learner.predict_one({"x": 0.0}, id="waits")
    before = flatten(learner.state_dict())
    with pytest.raises(error, match=says):
        call(learner)
    assert flatten(learner.state_dict()) == before
    assert learner.is_waiting("waits")


@BOTH
def test_what_is_no_guard_is_refused(values: bool) -> None:
    with pytest.raises(SettingError, match="a guard works"):
        make_learner(values=values, sources="ward 3")


@BOTH
def test_sources_without_a_guard_are_counted(values: bool) -> None:
    examples, names = make_mixed(values)
    told, untold = make_learner(values=values), make_learner(values=values)
    learn_all(untold, examples)
    told.learn_many([x for x, _ in examples[:70]], [y for _, y in examples[:70]], source=names[:70])
    for (x, y), name in zip(examples[70:], names[70:], strict=True):
        told.learn_one(x, y=y, source=name)
    assert_same(told, untold)
    assert told._sources.num_events == Counter(names)
    with pytest.raises(DataError):
        told.learn_one({"x": 1.0}, 1, source="")


def test_frames_and_no_events() -> None:
    learner = nl.StreamClassifier(sources=SourceGuard())
    frame = pd.DataFrame({"size": [1.0, 9.0] * 20, "color": ["red", "blue"] * 20})
    assert learner.learn_many(frame, [0, 1] * 20, source="a").shape == (40, 2)
    assert learner.learn_many([], [], source="a").shape == (0, 2)


def test_events_of_texts_only_have_no_norm() -> None:
    learner = nl.StreamClassifier(sources=make_guard())
    for n in range(100):
        learner.learn_one({"word": f"w{n % 9}"}, n % 9 > 4, source=f"s{n % 5}")
    assert learner.take_events() == []


@pytest.mark.parametrize("num", [3, 63, 64, 5000])
def test_places_keep_the_norm_of_any_number_of_columns(num: int) -> None:
    generator = np.random.default_rng(num)
    for z_N in (generator.normal(size=num), np.full(num, 8.0)):
        row_P = place_numbers(z_N, num, number=1)
        usual = np.sqrt(np.mean(z_N**2))
        assert np.linalg.norm(row_P[:-1]) == pytest.approx(usual, rel=1e-5 if num < 64 else 0.35)
    drawn = [place_numbers(np.zeros(1), 1, number)[-1] for number in range(1000)]
    assert set(drawn) == {0.5, -0.5}
    assert abs(np.mean(drawn)) < 0.05
    assert abs(np.mean(drawn[::4])) < 0.1, "the guard looks at every fourth event only"


def test_a_governed_stream_hears_what_is_held() -> None:
    learner = nl.StreamClassifier(sources=make_guard())
    for n in range(60):
        learner.learn_one({"x": float(n % 7)}, n % 2, source=f"s{n % 5}")
    names = list(learner.levels)
    clauses = [nl.judge.MayChange(f"M{n}", level=one, what="x") for n, one in enumerate(names)]
    contract = nl.Contract("wards", may_change=clauses)
    governed = nl.govern(learner, contract)
    governed.take_events()
    learner.learn_one({"x": 1e6}, 1, source="ward 3")
    learner.learn_one({"x": 1e6}, 1, source="ward 3")
    governed.hear(learner.take_events())
    (event,) = governed.take_events()
    assert (event.by, event.clause, event.figures) == ("ward 3", "norm", {"num_rows": 2.0})
