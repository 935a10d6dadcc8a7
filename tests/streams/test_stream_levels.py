"""Levels of a stream learner: knobs take effect at the next event, and only where they are."""

import math
from typing import Any

import pytest
from made_streams import assert_same, learn_all, make_either, make_growing, make_learner

import nestling as nl
from nestling.core.errors import SettingError, UnknownLevel
from nestling.streams.experts.expert_arrays import CLASS_EXPERTS, VALUE_EXPERTS


def find_moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize("values", [False, True], ids=["classes", "values"])
def test_frozen_levels_stand_still_alone_and_in_blocks(values: bool) -> None:
    # All categories and columns are known by then: growth is no learning.
    start, rest = make_either(100, values=values), make_either(130, values=values)[100:109]
    names = VALUE_EXPERTS if values else CLASS_EXPERTS
    for frozen in names:
        learner = make_learner(values=values)
        learn_all(learner, start)
        before = learner.levels.digests()
        learner.levels[frozen].control(reason="test", freeze=nl.Freeze(until="release"))
        assert learner.levels.digests() == before  # turning a knob is no learning
        learner.learn_many([x for x, _ in rest[:5]], [y for _, y in rest[:5]])
        learn_all(learner, rest[5:])
        assert frozen not in find_moved(before, learner.levels.digests())
        learner.levels.release("release")
        learn_all(learner, rest * 3)
        assert frozen in find_moved(before, learner.levels.digests())


def test_windows_freeze_their_events_in_blocks_as_alone() -> None:
    examples = make_growing(60)
    single, block = nl.StreamClassifier(), nl.StreamClassifier()
    for learner in (single, block):
        learner.levels["adamw"].control(reason="test", freeze=nl.Freeze(windows=((10, 19),)))
    digests = []
    for x, y in examples:
        single.learn_one(x, y=y)
        digests.append(single.levels["adamw"].tensors()["moments"].abs().sum().item())
    # One class alone has no gradient.
    still = [n + 1 for n in range(5, 60) if digests[n] == digests[n - 1]]
    assert still == list(range(10, 20))
    block.learn_many([x for x, _ in examples], [y for _, y in examples])
    assert_same(single, block)


def test_a_freeze_survives_a_snapshot(tmp_path: Any) -> None:
    examples = make_growing(100)
    first, second = nl.StreamClassifier(), nl.StreamClassifier()
    learn_all(first, examples[:30])
    first.levels["spine"].control(reason="test", freeze=nl.Freeze(until="drift"))
    first.levels["tree"].control(reason="test", freeze=nl.Freeze(windows=((35, 70),)))
    first.snapshot(tmp_path)
    second.restore(tmp_path)
    for learner in (first, second):
        learn_all(learner, examples[30:60])
        learner.levels.release("drift")
        learn_all(learner, examples[60:])
    assert_same(first, second)


@pytest.mark.parametrize(
    ("level", "knobs"),
    [
        ("sgd", {"lr": 0.5}),
        ("adamw", {"weight_decay": 5.0}),
        ("adamw_all", {"weight_decay": 5.0}),
        ("logistic", {"lr": 0.0}),
        ("ridge_300", {"half_life": 5.0}),
        ("spine", {"half_life": 5.0}),
    ],
)
def test_a_knob_moves_its_level_only_from_the_next_event_on(
    level: str, knobs: dict[str, Any]
) -> None:
    examples = make_growing(59)
    turned, plain = nl.StreamClassifier(), nl.StreamClassifier()
    for learner in (turned, plain):
        learn_all(learner, examples[:40])
    x = examples[40][0]
    change = turned.levels[level].control(reason="test", **knobs)
    assert (change.asked_at, change.applied_at) == (40, 40)
    assert turned.predict_proba_one(x) == plain.predict_proba_one(x)
    assert turned.levels.digests() == plain.levels.digests()
    for learner in (turned, plain):
        learn_all(learner, examples[40:])
    assert find_moved(turned.levels.digests(), plain.levels.digests()) == {level}
    for knob, value in knobs.items():
        assert getattr(turned.levels[level].spec, knob) == value


def test_wrong_knobs_are_refused_and_nothing_moves() -> None:
    learner, twin = nl.StreamClassifier(), nl.StreamClassifier()
    for one in (learner, twin):
        learn_all(one, make_growing(20))
    wrong: list[tuple[str, dict[str, Any]]] = [
        *[("sgd", {"lr": value}) for value in (-1.0, math.nan, math.inf, "fast", True, None)],
        *[("spine", {"half_life": value}) for value in (0.0, -1.0, math.nan, "long")],
        *[("sgd", {"half_life": 5.0}), ("spine", {"lr": 0.1}), ("concepts", {"half_life": 5.0})],
        *[("labels", {"lr": 0.1}), ("tree", {"freeze": "now"}), ("sgd", {})],
        ("sgd", {"lr": 0.1, "half_life": 2.0}),
    ]
    for level, knobs in wrong:
        with pytest.raises(SettingError):
            learner.levels[level].control(reason="test", **knobs)
    with pytest.raises(UnknownLevel):
        learner.levels["spin"]
    assert_same(learner, twin)


def test_readings_and_clocks() -> None:
    learner = nl.StreamClassifier(without=["trees"])
    learn_all(learner, make_growing(50))
    assert list(learner.levels) == [name for name in CLASS_EXPERTS if name != "trees"]
    readings = {one.level: one for one in learner.levels.read()}
    assert sum(one.factor for one in readings.values()) == pytest.approx(1.0)
    assert all(one.num_steps == 50 for one in readings.values())
    clock = learner.levels["ridge_300"].clock
    assert 0 <= clock.age < 24
    assert clock.num_updates < 50
    assert all(level.digest() == level.digest() for level in learner.levels.values())
