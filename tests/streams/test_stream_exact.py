"""To the bit: blocks as single events, queries that move nothing, snapshots at any moment."""

import copy
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_streams import (
    assert_finite,
    assert_same,
    flatten,
    learn_all,
    make_either,
    make_growing,
    make_learner,
)

import nestling as nl
from nestling.core.errors import ForeignSnapshot, NestlingError, SnapshotError
from nestling.streams.experts.expert_arrays import CLASS_EXPERTS, VALUE_EXPERTS

BOTH = pytest.mark.parametrize("values", [False, True], ids=["classes", "values"])


@settings(max_examples=6)
@given(ends=st.lists(st.integers(1, 149), max_size=5, unique=True), values=st.booleans())
def test_blocks_are_single_events(ends: list[int], values: bool) -> None:
    examples = make_either(values=values)
    single, blocks = make_learner(values=values), make_learner(values=values)
    learn_all(single, examples)
    marks = [0, *sorted(ends), 150]
    for start, end in pairwise(marks):
        X, y = [x for x, _ in examples[start:end]], [y for _, y in examples[start:end]]
        blocks.learn_many(X, y)
    assert_same(single, blocks)


@BOTH
def test_frames_are_single_events(values: bool) -> None:
    examples = make_either(values=values)
    single, frames = make_learner(values=values), make_learner(values=values)
    learn_all(single, examples)
    for start in range(0, 150, 50):
        some = examples[start : start + 50]
        frames.learn_many(pd.DataFrame([x for x, _ in some]), [y for _, y in some])
    # Columns of a frame stand in another order than in events, so only answers are the same in
    # general; here each column's first value comes in the order of the frame.
    x = examples[-1][0]
    one, many = single.predict_one(x), frames.predict_one(x)
    assert one == many


@BOTH
def test_queries_move_nothing(values: bool) -> None:
    examples = make_either(values=values)
    asked, unasked = make_learner(values=values), make_learner(values=values)
    others = [x for x, _ in make_growing(12, seed=5)] + [{"unknown": "v", "color": "new"}, {}]
    for n, (x, y) in enumerate(examples):
        if n % 10 == 0:
            before = asked.levels.digests()
            asked.predict_many(others)
            for other in others:
                asked.predict_one(other)
            assert asked.levels.digests() == before
        asked.predict_one(x)
        if n % 3 == 0:
            asked.predict_one(others[n % 12])
        asked.learn_one(x, y=y)
        unasked.learn_one(x, y=y)
    assert_same(asked, unasked)


@BOTH
def test_an_event_asked_about_in_a_block_or_alone(values: bool) -> None:
    learner = make_learner(values=values)
    learn_all(learner, make_either(120, values=values))
    events = [x for x, _ in make_growing(150)[100:]]
    if values:
        many = learner.predict_many(events)
        assert many.tolist() == [learner.predict_one(x) for x in events]
        return
    many = learner.predict_proba_many(events)
    one = np.array([list(learner.predict_proba_one(x).values()) for x in events])
    np.testing.assert_array_equal(many, one)


def run_with_waiting(learner: nl.StreamClassifier | nl.StreamRegressor, examples, start, end):
    """Every third event waits for its label, which comes 25 events later, or never."""
    for n in range(start, end):
        x, y = examples[n]
        if n >= 25 and n % 3 == 1 and n % 5:
            learner.learn_one(id=n - 25, y=examples[n - 25][1])
        if n % 3 == 0:
            learner.predict_one(x, id=n)
        else:
            learner.learn_one(x, y=y)


@BOTH
@pytest.mark.parametrize("moment", [0, 1, 4, 61, 140])
def test_restore_at_any_moment(values: bool, moment: int, tmp_path: Path) -> None:
    examples = make_either(200, values=values)
    whole, first, second = (make_learner(values=values) for _ in range(3))
    run_with_waiting(whole, examples, 0, 200)
    run_with_waiting(first, examples, 0, moment)
    if moment:
        first.predict_one(examples[moment][0])  # between a question and what is learned
    first.snapshot(tmp_path)
    learn_all(second, make_either(30, values=values, seed=9))  # it has learned already
    second.predict_one(examples[0][0], id="else")
    second.levels["sgd"].control(reason="to be undone", lr=1.0, freeze=nl.Freeze(until="never"))
    second.predict_one(examples[moment][0])
    second.restore(tmp_path)
    assert_same(first, second)
    for learner in (first, second):
        run_with_waiting(learner, examples, moment, 200)
    assert_same(first, second)
    assert_same(first, whole)


def test_restore_between_growth_and_learning(tmp_path: Path) -> None:
    """An id that waits has brought a column; its label comes after the restart."""
    examples = make_growing(150)
    first, second = nl.StreamClassifier(), nl.StreamClassifier()
    learn_all(first, examples[:45])
    first.predict_one({"size": 1.0, "brand new": 2.0, "color": "violet"}, id="a")
    first.snapshot(tmp_path)
    second.restore(tmp_path)
    for learner in (first, second):
        learner.learn_many([x for x, _ in examples[45:100]], [y for _, y in examples[45:100]])
        learner.learn_one(id="a", y="unheard of")
        learn_all(learner, examples[100:])
    assert_same(first, second)


def test_another_process_goes_on_the_same(tmp_path: Path) -> None:
    learner = nl.StreamClassifier(seed=3)
    examples = make_growing(150)
    learn_all(learner, examples[:100])
    learner.snapshot(tmp_path)
    code = f"""
        import sys, torch
        torch.set_num_threads(1)
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import nestling as nl
        from made_streams import learn_all, make_growing
        learner = nl.StreamClassifier(seed=3)
        learner.restore({str(tmp_path)!r})
        learn_all(learner, make_growing(150)[100:])
        print(sorted(learner.levels.digests().items()))
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    learn_all(learner, examples[100:])
    assert found.stdout.strip() == str(sorted(learner.levels.digests().items()))


def test_seeds_differ_and_repeat() -> None:
    learners = [nl.StreamClassifier(seed=seed) for seed in (0, 0, 1)]
    for learner in learners:
        learn_all(learner, make_growing(80))
    assert_same(learners[0], learners[1])
    digests = [learner.levels.digests() for learner in learners]
    same = {name for name in digests[0] if digests[0][name] == digests[2][name]}
    assert same <= {"labels", "tree", "logistic", "ridge_1000"}  # draw nothing


def test_a_copy_goes_on_the_same_and_alone() -> None:
    examples = make_growing(150)
    learner = nl.StreamClassifier()
    learn_all(learner, examples[:70])
    learner.predict_one(examples[70][0])
    twin = copy.deepcopy(learner)
    learn_all(twin, examples[70:])
    untouched = nl.StreamClassifier()
    learn_all(untouched, examples[:70])
    assert_same(learner, untouched)
    learn_all(learner, examples[70:])
    assert_same(learner, twin)


def test_foreign_states_are_refused_and_nothing_moves(tmp_path: Path) -> None:
    examples = make_growing(60)
    learner, twin = nl.StreamClassifier(), nl.StreamClassifier()
    for one in (learner, twin):
        learn_all(one, examples[:50])
        one.predict_one(examples[50][0], id="waits")
    regressor = nl.StreamRegressor()
    learn_all(regressor, make_either(20, values=True))
    foreign = {
        "regressor": regressor,
        "seed": nl.StreamClassifier(seed=1),
        "experts": nl.StreamClassifier(without=["tree"]),
        "bounds": nl.StreamClassifier(max_waiting=7),
        "age": nl.StreamClassifier(max_age=7),
    }
    x = examples[51][0]
    for name, other in foreign.items():
        learner.predict_one(x)  # what was foreseen last must not outlive a refused state
        with pytest.raises(ForeignSnapshot):
            learner.load_state_dict(other.state_dict())
        other.snapshot(tmp_path / name)
        with pytest.raises(SnapshotError):
            learner.restore(tmp_path / name)
    learner.learn_one(x, y="up")
    twin.learn_one(x, y="up")
    assert_same(learner, twin)
    with pytest.raises(ForeignSnapshot):
        regressor.load_state_dict(learner.state_dict())
    with pytest.raises(ForeignSnapshot):
        nl.StreamRegressor(interval=0.5).load_state_dict(regressor.state_dict())
    with pytest.raises(ForeignSnapshot):
        nl.StreamRegressor(loss="absolute").load_state_dict(regressor.state_dict())


def test_damaged_snapshots_are_refused(tmp_path: Path) -> None:
    learner, twin = nl.StreamClassifier(), nl.StreamClassifier()
    learn_all(learner, make_growing(30))
    learn_all(twin, make_growing(30))
    learner.snapshot(tmp_path)
    for file in sorted(tmp_path.rglob("*")):
        if file.is_file():
            kept = file.read_bytes()
            file.write_bytes(kept[: len(kept) // 2])
            with pytest.raises(NestlingError):
                learner.restore(tmp_path)
            file.unlink()
            with pytest.raises(NestlingError):
                learner.restore(tmp_path)
            file.write_bytes(kept)
    assert_same(learner, twin)
    learner.restore(tmp_path)
    assert_same(learner, twin)


@pytest.mark.parametrize(
    ("name", "values"),
    [(name, False) for name in CLASS_EXPERTS] + [(name, True) for name in VALUE_EXPERTS],
)
def test_each_expert_alone(name: str, values: bool) -> None:
    known = VALUE_EXPERTS if values else CLASS_EXPERTS
    without = [other for other in known if other != name]
    single, block = (make_learner(values=values, without=without) for _ in range(2))
    examples = make_either(120, values=values)
    learn_all(single, examples)
    block.learn_many([x for x, _ in examples], [y for _, y in examples])
    assert_same(single, block)
    assert_finite(single)


@BOTH
def test_a_label_that_comes_at_once_by_its_id_is_learned_as_any(values: bool) -> None:
    plain, by_id = make_learner(values=values), make_learner(values=values)
    num_by_id = 0
    for n, (x, y) in enumerate(make_either(150, values=values)):
        plain.learn_one(x, y=y)
        # A class that nobody knew when the event was answered is learned otherwise.
        if values or y in by_id.classes:
            by_id.predict_one(x, id=n)
            by_id.learn_one(id=n, y=y)
            num_by_id += 1
        else:
            by_id.learn_one(x, y=y)
    assert num_by_id > 140
    assert plain.levels.digests() == by_id.levels.digests()
    first, second = (one.state_dict()["run"]["pool"]["parts"] for one in (plain, by_id))
    assert flatten(first) == flatten(second)
