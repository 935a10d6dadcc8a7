"""What a learner knows stays when columns, categories and classes appear late."""

from typing import Any

import numpy as np
import pytest
from made_streams import assert_finite, learn_all, make_growing, make_learner

import nestling as nl


def make_simple(num_events: int, seed: int = 0) -> list[tuple[dict[Any, Any], str]]:
    generator = np.random.default_rng(seed)
    found = []
    for size, width in generator.normal(size=(num_events, 2)).tolist():
        color = "red" if size * width > 0 else "blue"
        found.append(({"size": size, "width": width, "color": color}, "up" if size > 0 else "down"))
    return found


def ask(learner: Any, events: list[dict[Any, Any]]) -> np.ndarray:
    return np.array([[learner.predict_proba_one(x)[k] for k in ("up", "down")] for x in events])


@pytest.fixture
def known() -> tuple[nl.StreamClassifier, list[dict[Any, Any]]]:
    """A learner of two columns and two classes, and events to ask about."""
    learner = nl.StreamClassifier()
    learn_all(learner, make_simple(500))
    return learner, [x for x, _ in make_simple(40, seed=1)]


def test_answers_stay_when_columns_and_categories_appear(known: Any) -> None:
    learner, events = known
    before = ask(learner, events)
    # An event that has happened brings them, and teaches nothing until its label comes.
    learner.predict_one({"size": 0.0, "color": "violet", "weight": 3.0, "shop": "a"}, id="new")
    np.testing.assert_allclose(ask(learner, events), before, atol=0.02)


def test_answers_stay_when_a_class_appears(known: Any) -> None:
    learner, events = known
    before = ask(learner, events)
    learner.learn_one(events[0], y="sideways", weight=0.0)  # admitted, and not learned
    after = ask(learner, events)
    assert learner.classes == ["up", "down", "sideways"]
    np.testing.assert_allclose(after / after.sum(axis=1, keepdims=True), before, atol=0.02)
    assert after.sum(axis=1).min() > 0.95


def test_what_was_learned_stays_through_much_growth(known: Any) -> None:
    learner, _ = known
    held_out = make_simple(300, seed=7)
    for n, example in enumerate(make_simple(120, seed=8)):
        if n % 4 == 0:
            x = {"size": 9.0, f"column {n}": float(n), "color": f"c{n}"}
            learner.learn_one(x, y=f"class {n}")
        else:
            learn_all(learner, [example])
    assert np.mean([learner.predict_one(x) == y for x, y in held_out]) > 0.93
    assert_finite(learner)


def test_a_late_column_is_learned(known: Any) -> None:
    learner, _ = known
    generator = np.random.default_rng(3)
    wins = 0
    for n, (x, _) in enumerate(make_simple(700, seed=4)):
        sign = float(generator.normal())
        late = {**x, "sign": sign}
        truth = "up" if sign > 0 else "down"
        wins += n >= 400 and learner.predict_one(late) == truth
        learner.learn_one(late, y=truth)
    assert wins / 300 > 0.9


def test_a_late_category_and_class_are_learned(known: Any) -> None:
    learner, _ = known
    for n, (x, y) in enumerate(make_simple(400, seed=4)):
        odd = n % 4 == 0
        learner.learn_one({**x, "color": "violet"} if odd else x, y="odd" if odd else y)
    events = make_simple(200, seed=5)
    found = [learner.predict_one({**x, "color": "violet"}) for x, _ in events]
    assert found.count("odd") > 190
    assert np.mean([learner.predict_one(x) == y for x, y in events]) > 0.9


@pytest.mark.parametrize("values", [False, True], ids=["classes", "values"])
def test_the_first_events_may_be_empty(values: bool) -> None:
    learner = make_learner(values=values)
    targets: list[Any] = [100.0, 102.0, 104.0] if values else ["a", "b", "c"]
    for n in range(60):
        learner.learn_one({}, y=targets[n % 3 if n < 20 else 0])
    first = learner.predict_one({})
    assert first == "a" if not values else abs(first - 100.0) < 1.0
    assert learner.predict_one({"unknown": 1.0}) == first
    learner.learn_one({"size": 1.0}, y=targets[0])
    last = learner.predict_one({})
    assert last == "a" if not values else abs(last - 100.0) < 1.0
    learn_all(
        learner,
        [(x, targets[0] if y == "up" else targets[1]) for x, y in make_simple(300)],
    )
    x, y = make_simple(1, seed=2)[0]
    found = learner.predict_one(x)
    wanted = targets[0] if y == "up" else targets[1]
    assert found == wanted if not values else abs(found - wanted) < 0.7
    assert_finite(learner)


@pytest.mark.parametrize("values", [False, True], ids=["classes", "values"])
def test_events_wait_from_before_the_first_label_and_before_growth(values: bool) -> None:
    learner = make_learner(values=values)
    first = learner.predict_one({}, id="empty")
    assert first is None or first == 0.0
    assert learner.predict_one({"size": 1.0, "color": "red"}, id=0) in (None, 0.0)
    assert learner.predict_one({"size": 2.0}) in (None, 0.0)
    assert learner.predict_many([{"size": 2.0}])[0] in (None, 0.0)
    examples = make_growing(120)
    for n, (x, _) in enumerate(examples[:60]):
        learner.predict_one(x, id=f"x{n}")
    learn_all(learner, [(x, 5.0 if values else y) for x, y in examples[60:]])
    learner.learn_one(id="empty", y=5.0 if values else "up")
    learner.learn_one(id=0, y=5.0 if values else "never seen")
    for n, (_, y) in enumerate(examples[:60]):
        learner.learn_one(id=f"x{n}", y=5.0 if values else y)
    assert_finite(learner)
    assert learner.num_waiting == 0
    assert learner.mean_delay > 60
    if not values:
        assert sum(learner.predict_proba_one(examples[0][0]).values()) == pytest.approx(1.0)


def test_a_late_label_is_learned_from_what_was_seen_then() -> None:
    """What has happened in between must not leak into the views of the event."""
    examples = make_growing(150)
    learners = [nl.StreamClassifier(), nl.StreamClassifier()]
    for learner in learners:
        learn_all(learner, examples[:40])
        learner.predict_one(examples[40][0], id="late")
        learn_all(learner, examples[41:130])
    for x, _ in examples[130:]:
        learners[0].predict_one(x)  # queries leave no trace in what is learned late
    for learner in learners:
        learner.learn_one(id="late", y="down")
    assert learners[0].levels.digests() == learners[1].levels.digests()
