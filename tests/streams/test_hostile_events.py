"""Bad input: correct or a clear refusal, learning goes on, nothing is lost."""

import math
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made_streams import (
    assert_finite,
    assert_same,
    learn_all,
    make_either,
    make_growing,
    make_learner,
)

import nestling as nl
from nestling.core.errors import DataError, NestlingError, NonFiniteInput, UnknownEvent

MANY = 100_000
BOTH = pytest.mark.parametrize("values", [False, True], ids=["classes", "values"])
# Experts that cost most in a long stream, left out where the input passes them by anyhow.
COSTLY = ("spine", "trees", "concepts")


def make_numbers(num_events: int, seed: int = 0) -> tuple[np.ndarray, list[bool]]:
    X = np.random.default_rng(seed).normal(size=(num_events, 3))
    return X, (X[:, 0] + X[:, 1] > 0).tolist()


def score(learner: nl.StreamClassifier, X: Any, y: list[Any]) -> float:
    """Share of right answers of events that are asked about, then learned, in blocks of 100."""
    right = 0
    for start in range(0, len(y), 100):
        rows, labels = X[start : start + 100], y[start : start + 100]
        answers = learner.predict_many(rows)
        right += sum(one == label for one, label in zip(answers, labels, strict=True))
        learner.learn_many(rows, labels)
    return right / len(y)


def assert_answers(learner: nl.StreamClassifier, events: list[dict[Any, Any]]) -> None:
    p_NK = learner.predict_proba_many(events)
    assert np.isfinite(p_NK).all()
    assert (p_NK >= 0.0).all()
    np.testing.assert_allclose(p_NK.sum(axis=1), 1.0, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_probabilities_are_probabilities(seed: int) -> None:
    learner = nl.StreamClassifier(seed=seed)
    events = [x for x, _ in make_growing(20, seed=5)] + [{}, {"size": 1e300}, {"color": "new"}]
    for n, (x, y) in enumerate(make_growing(150, seed)):
        learner.learn_one(x, y=y)
        if n % 5 == 0:
            assert_answers(learner, events)
    assert_finite(learner)


REFUSED: list[tuple[type[NestlingError], Callable[[Any], object]]] = [
    (DataError, lambda one: one.learn_one({"size": [1, 2]}, y=1)),
    (DataError, lambda one: one.learn_one({"new": 1.0, "size": 1j}, y=1)),
    (DataError, lambda one: one.learn_one(None, y=1)),
    (DataError, lambda one: one.learn_one(5.0, y=1)),
    (DataError, lambda one: one.learn_one({"new": 1.0}, y=None)),
    (DataError, lambda one: one.learn_one({"new": 1.0}, y=math.nan)),
    (DataError, lambda one: one.learn_one({"new": 1.0}, y=[1])),
    (DataError, lambda one: one.learn_one({"new": 1.0}, y=1, weight=-1.0)),
    (DataError, lambda one: one.learn_one({"new": 1.0}, y=1, weight=math.nan)),
    (DataError, lambda one: one.learn_one({"new": 1.0}, y=1, weight=math.inf)),
    (
        DataError,
        lambda one: one.learn_one({"1.5": 1.0, 1.5: 2.0}, y=1),
    ),
    (UnknownEvent, lambda one: one.learn_one(id="never", y=1)),
    (UnknownEvent, lambda one: one.learn_one(id="answered", y=1)),
    (DataError, lambda one: one.learn_one(id=1.5, y=1)),
    (DataError, lambda one: one.learn_one(id="waits", y=None)),
    (DataError, lambda one: one.predict_one({"new": 1.0}, id="waits")),
    (DataError, lambda one: one.predict_one({"new": 1.0}, id=True)),
    (DataError, lambda one: one.predict_one({"new": [1]}, id="fresh")),
    (DataError, lambda one: one.predict_one("text")),
    (DataError, lambda one: one.learn_many([{"new": 1.0}, {"new": [1]}], [1, 1])),
    (DataError, lambda one: one.learn_many([{"new": 1.0}, {"new": 2.0}], [1, None])),
    (DataError, lambda one: one.learn_many([{"new": 1.0}], [1, 1])),
    (DataError, lambda one: one.learn_many([{"new": 1.0}], [1], weights=[-1.0])),
    (DataError, lambda one: one.learn_many(np.zeros((1, 2), dtype=complex), [1])),
    (DataError, lambda one: one.learn_one({f"k{n}": 1.0 for n in range(20_001)}, y=1)),
]


@BOTH
def test_refusals_change_nothing(values: bool) -> None:
    learner, twin = make_learner(values=values), make_learner(values=values)
    for one in (learner, twin):
        learn_all(one, make_either(60, values=values))
        one.predict_one({"size": 1.0}, id="answered")
        one.learn_one(id="answered", y=1)
        one.predict_one({"size": 1.0}, id="waits")
    for error, attempt in REFUSED:
        learner.predict_one({"size": 2.0})
        with pytest.raises(error) as found:
            attempt(learner)
        assert "\n" not in str(found.value)
    learner.learn_one({"size": 2.0}, y=1)
    twin.learn_one({"size": 2.0}, y=1)
    assert_same(learner, twin)


@pytest.mark.parametrize("target", [math.nan, math.inf, None, "5", [1.0], 1j])
def test_targets_that_are_no_numbers_are_refused(target: Any) -> None:
    learner, twin = nl.StreamRegressor(), nl.StreamRegressor()
    for one in (learner, twin):
        learn_all(one, make_either(30, values=True))
    for attempt in (
        lambda: learner.learn_one({"new": 1.0}, y=target),
        lambda: learner.learn_many([{"size": 1.0}, {"new": 1.0}], [1.0, target]),
    ):
        with pytest.raises(NonFiniteInput):
            attempt()
    assert_same(learner, twin)


@pytest.mark.slow
def test_a_new_category_at_every_event() -> None:
    X, y = make_numbers(MANY)
    learner = nl.StreamClassifier(without=[*COSTLY, "adamw", "adamw_all", "ridge_1000"])
    for start in range(0, MANY, 5000):
        rows = pd.DataFrame(X[start : start + 5000], columns=list("abc"))
        rows["id"] = [f"customer {start + n}" for n in range(5000)]
        learner.learn_many(rows, y[start : start + 5000])
        if start == 50_000:
            size = learner.num_bytes
    assert learner.num_bytes <= 1.1 * size  # a tree may still grow, up to 64 leaves
    assert_finite(learner)
    X, y = make_numbers(500, seed=1)
    rows = pd.DataFrame(X, columns=list("abc")).assign(id="nobody")
    assert np.mean([a == b for a, b in zip(learner.predict_many(rows), y, strict=True)]) > 0.95


@pytest.mark.slow
def test_many_events_whose_columns_come_and_go_with_counters_dates_and_infinities() -> None:
    """10^5 events: the clock goes back, counters start at 10^7, cells are missing or infinite."""
    X, y = make_numbers(MANY)
    generator = np.random.default_rng(1)
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    frame["scaled"] = frame["a"] * 1e6
    frame["twice"] = frame["a"]
    frame["constant"] = 7.0
    frame["counter"] = 1e7 + np.arange(MANY)
    seconds = pd.to_timedelta(np.arange(MANY) % 30_000 * 60.0, unit="s")
    frame["when"] = pd.Timestamp("2024-01-01") + seconds  # it goes back thrice
    frame.loc[generator.random(MANY) < 0.1, "c"] = np.nan
    frame.loc[generator.random(MANY) < 0.01, "twice"] = np.inf
    frame.loc[generator.random(MANY) < 0.01, "twice"] = -np.inf
    learner = nl.StreamClassifier(without=COSTLY)
    for start in range(0, MANY, 5000):
        rows = frame.iloc[start : start + 5000]
        if start < 20_000:
            rows = rows[["a", "b", "c"]]
        if start >= 50_000:
            rows = rows[["when", "counter", "constant", "twice", "scaled", "b", "a"]]
        learner.learn_many(rows, y[start : start + 5000])
        if start == 50_000:
            size = learner.num_bytes
    assert learner.num_bytes <= 1.1 * size  # a tree may still grow, up to 64 leaves
    assert_finite(learner)
    rows = frame.iloc[-500:].drop(columns="c")
    answers = learner.predict_many(rows)
    assert np.mean([a == b for a, b in zip(answers, y[-500:], strict=True)]) > 0.95


def test_identical_events_spoil_nothing_that_follows() -> None:
    X, y = make_numbers(2000)
    after, labels = make_numbers(2000, seed=1)
    learner, fresh = nl.StreamClassifier(), nl.StreamClassifier()
    learner.learn_many(X, y)
    learner.learn_many(np.tile(X[5], (20_000, 1)), [y[5]] * 20_000)
    assert_finite(learner)
    assert score(learner, after, labels) > score(fresh, after, labels) - 0.005


def test_constant_duplicate_and_scaled_columns_cost_little() -> None:
    X, y = make_numbers(2000)
    odd = np.column_stack([X, np.full(len(X), 3.0), X[:, 0], X[:, 1] * 1e6, 1e7 + np.arange(2000)])
    plain, learner = nl.StreamClassifier(), nl.StreamClassifier()
    assert score(learner, odd, y) > score(plain, X, y) - 0.02
    assert_finite(learner)


@pytest.mark.parametrize("half_life", [5.0, 50.0, math.inf])
def test_half_lives_from_five_to_infinity(half_life: float) -> None:
    X, y = make_numbers(3000)
    learner = nl.StreamClassifier()
    for level in ("spine", "ridge_300", "ridge_1000"):
        learner.levels[level].control(reason="test", half_life=half_life)
    learner.learn_many(X[:2000], y[:2000])
    learner.learn_many(np.tile(X[5], (1000, 1)), [y[5]] * 1000)
    learner.learn_many(X[2000:], y[2000:])
    assert_finite(learner)
    after, labels = make_numbers(300, seed=1)
    assert score(learner, after, labels) > 0.9


@BOTH
@pytest.mark.parametrize("weight", [1e-6, 3.0, 1e6])
def test_any_weight_leaves_all_finite(values: bool, weight: float) -> None:
    X, y = make_numbers(3000)
    learner = make_learner(values=values)
    learner.learn_many(X[:1000], y[:1000])
    learner.learn_one(X[0], y=y[1], weight=weight)
    learner.learn_many(X[1000:], y[1000:], weights=[weight] * 2000)
    assert_finite(learner)
    if not values:
        assert (
            np.mean([learner.predict_one(x) == k for x, k in zip(X[:300], y, strict=False)]) > 0.9
        )


def test_a_weight_of_zero_teaches_nothing() -> None:
    examples = make_growing(150)
    learner, twin = nl.StreamClassifier(), nl.StreamClassifier()
    for one in (learner, twin):
        learn_all(one, examples[:140])
    before = learner.levels.digests()
    learner.learn_one(examples[140][0], y="down", weight=0.0)
    assert learner.levels.digests() == before
    blocks = [x for x, _ in examples[140:]], [y for _, y in examples[140:]]
    weights = [0.0, 1.0] * 5
    learner, twin = nl.StreamClassifier(), nl.StreamClassifier()
    learner.learn_many(*blocks, weights=weights)
    for x, y, weight in zip(*blocks, weights, strict=True):
        twin.learn_one(x, y=y, weight=weight)
    assert_same(learner, twin)


def test_a_learning_rate_that_blows_a_network_up_spoils_no_answer() -> None:
    X, y = make_numbers(2000)
    learner = nl.StreamClassifier()
    learner.levels["sgd"].control(reason="test", lr=1e6)
    assert score(learner, X, y) > 0.9
    assert np.isfinite(learner.predict_proba_many(X[:50])).all()


def test_labels_that_are_all_the_same_or_three_hundred() -> None:
    X, _ = make_numbers(1200)
    learner = nl.StreamClassifier()
    learner.learn_many(X[:300], ["only"] * 300)
    assert learner.predict_proba_one(X[0]) == pytest.approx({"only": 1.0})
    many = nl.StreamClassifier()
    many.learn_many(X[:900], [n % 300 for n in range(900)])
    p_NK = many.predict_proba_many(X[:20])
    assert p_NK.shape == (20, 300)
    np.testing.assert_allclose(p_NK.sum(axis=1), 1.0)
    assert_finite(many)


def test_alternating_types_of_labels_are_classes_of_their_own() -> None:
    X, _ = make_numbers(400)
    learner = nl.StreamClassifier()
    labels = [True, "True", 1, "1"]
    learner.learn_many(X, [labels[2 * (x[0] > 0) + (x[1] > 0)] for x in X])
    assert [(type(k), k) for k in sorted(learner.classes, key=repr)] == [
        (str, "1"),
        (str, "True"),
        (int, 1),
        (bool, True),
    ]
    assert type(learner.predict_one([2.0, -2.0, 0.0])) is int
    assert type(learner.predict_one([-2.0, -2.0, 0.0])) is bool


@pytest.mark.parametrize(
    "make",
    [
        lambda X: 1e12 * X[:, 0],
        lambda X: 1e12 + X[:, 0],
        lambda X: 1e-12 * X[:, 0],
        lambda X: np.full(len(X), 1e12),
        lambda X: np.zeros(len(X)),
        lambda X: np.where(np.arange(len(X)) < 300, 0.0, 1e12) + X[:, 0],
        lambda X: 1e200 * X[:, 0],
        lambda X: np.where(np.arange(len(X)) == 500, 1e15, X[:, 0]),
    ],
)
@pytest.mark.parametrize("loss", ["squared", "absolute"])
def test_targets_of_any_size(make: Callable[[np.ndarray], np.ndarray], loss: Any) -> None:
    X, _ = make_numbers(2000)
    targets = make(X)
    learner = nl.StreamRegressor(loss=loss)
    learner.learn_many(X, targets.tolist())
    assert_finite(learner)
    answers = learner.predict_many(X[1500:])
    assert np.isfinite(answers).all()
    low, high = learner.predict_interval_one(X[0])
    assert low <= high
    if np.abs(targets).max() < 1e14:
        spread = max(targets.std(), abs(targets).max() * 1e-9)
        assert np.abs(answers - targets[1500:]).mean() <= 0.1 * spread


def test_ten_thousand_columns_at_once() -> None:
    learner = nl.StreamClassifier()
    X, y = make_numbers(300)
    learner.learn_many(X, y)
    for n in range(4):
        learner.learn_one({f"k{j}": float(j % (n + 2)) for j in range(10_000)}, y=n % 2 == 0)
    assert_finite(learner)
    assert learner.num_bytes < 128 * 2**20
    assert np.mean(learner.predict_many(X) == np.array(y)) > 0.9


def test_frames_with_columns_in_any_order_and_of_any_dtype() -> None:
    X, y = make_numbers(600)
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(n=np.arange(600), on=True, w="x")
    learner, twin = nl.StreamClassifier(), nl.StreamClassifier()
    for one in (learner, twin):
        one.learn_many(frame[:400], y[:400])
    odd = frame[["w", "c", "on", "b", "n", "a"]][400:]
    odd = odd.astype({"n": "Int64", "on": object, "w": "category", "b": object})
    learner.learn_many(odd, y[400:])
    twin.learn_many(frame[400:], y[400:])
    assert_same(learner, twin)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.bfloat16])
def test_tensors_of_any_dtype(dtype: torch.dtype) -> None:
    X = torch.from_numpy(make_numbers(200)[0] * 4).to(dtype)
    y = (X[:, 0] > 0).tolist()
    learner, twin = nl.StreamClassifier(), nl.StreamClassifier()
    learner.learn_many(X, torch.tensor(y))
    twin.learn_many(X.double().numpy(), y)
    assert_same(learner, twin)
    assert learner.predict_proba_one(X[0]) == twin.predict_proba_one(X[0].double().numpy())


def test_events_that_wait_grow_old_and_are_counted() -> None:
    learner = nl.StreamClassifier(max_age=10, max_waiting=3)
    learner.learn_one({"size": 1.0}, y="a")
    learner.predict_one({"size": 1.0}, id="old")
    for n in range(4):
        learner.learn_one({"size": float(n)}, y="b")
    learner.learn_one(id="old", y="a")
    assert learner.mean_delay == 4.0
    learner.predict_one({"size": 1.0}, id="too old")
    learner.learn_many([{"size": 2.0}] * 20, ["a"] * 20)
    assert learner.num_waiting == 0
    with pytest.raises(UnknownEvent, match="age"):
        learner.learn_one(id="too old", y="a")
    for n in range(5):
        learner.predict_one({"size": 1.0}, id=n)
    assert learner.num_waiting == 3
    with pytest.raises(UnknownEvent, match="newer"):
        learner.learn_one(id=0, y="a")


def test_dates_that_go_back() -> None:
    learner = nl.StreamClassifier()
    start = datetime(2024, 6, 1)
    for n in range(300):
        learner.learn_one({"at": start - timedelta(hours=n)}, y=(24 - n % 24) % 24 >= 12)
    assert learner.predict_one({"at": datetime(2023, 1, 1, 18)}) is True
    assert learner.predict_one({"at": datetime(2030, 1, 1, 4)}) is False


def test_threads_take_turns() -> None:
    """Some ask and look while one learns and the learner grows; what is learned is as alone."""
    examples = make_growing(150)
    learner, alone = nl.StreamClassifier(), nl.StreamClassifier()
    events = [x for x, _ in make_growing(20, seed=5)]
    failures: list[BaseException] = []
    is_over = threading.Event()

    def ask() -> None:
        try:
            while not is_over.is_set():
                for x in events:
                    found = learner.predict_proba_one(x)
                    assert not found or abs(sum(found.values()) - 1.0) < 1e-9
                learner.predict_many(events)
                learner.state_dict()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    learn_all(learner, examples)
    is_over.set()
    for thread in threads:
        thread.join()
    assert failures == []
    learn_all(alone, examples)
    assert_same(learner, alone)


def find_rows(tensors: dict[str, torch.Tensor], raw: np.ndarray) -> list[str]:
    """Arrays in which numbers of an event stand."""
    return [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and np.isin(tensor.numpy().ravel(), raw).any()
    ]


def test_no_event_is_kept_but_those_that_wait() -> None:
    """Sums, scalings, weights and histograms stay; of memories up to 64 examples wait for sums."""
    X, y = make_numbers(3000)
    learner = nl.StreamClassifier()
    learner.learn_many(X, y)
    parts = learner.state_dict()["run"]["pool"]["parts"]
    for name in ("spine", "ridge_300", "ridge_1000", "concepts"):
        part = parts[name]
        counts = part["counts"].reshape(-1, part["counts"].shape[-1])[:, 0].tolist()
        waiting = part["waiting"].reshape(len(counts), *part["waiting"].shape[-2:])
        for number, rows in zip(counts, waiting, strict=True):
            assert number < len(rows)
            assert not rows[number:].any()  # those that were summed are gone
    kept = {name: find_rows(part, X) for name, part in parts.items()}
    trees = {"tree", "trees"}
    # A leaf's histogram has 24 centres of each column by itself; no other part holds any value.
    assert {name for name, found in kept.items() if found} <= trees
    assert all(set(kept[name]) <= {"centres", "origins", "thresholds"} for name in trees)
    assert learner.state_dict()["run"]["waiting"]["arrays"] == {}
    learner.predict_one(X[0], id="waits")
    assert list(learner.state_dict()["run"]["waiting"]["arrays"]) != []
    learner.learn_one(id="waits", y=True)
    assert learner.state_dict()["run"]["waiting"]["arrays"] == {}
