"""The personal suite's streams, costs and crowds, with small fakes."""

import itertools
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny_suites
from nestling.bench.personal import (
    answering_rate,
    changing_streams,
    gate_cost,
    many_persons,
    personal_promises,
    watch_minutes,
)
from nestling.bench.personal.answering_rate import AnswerAmounts, LearningThread, compare_rates
from nestling.bench.personal.gate_cost import GateAmounts, fix_weights, measure_gate, time_in_turns
from nestling.bench.personal.many_persons import Crowd, compare_crowds, draw_persons
from nestling.bench.result import LIMITS
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.suites.personal_stream import PersonCounts
from nestling.core.errors import SettingError
from nestling.data import load_digits
from nestling.learn import Learner
from nestling.learn.default import make_default_plan
from nestling.levels import Mix
from nestling.models import mlp


@pytest.fixture
def place(tmp_path: Path) -> CellFolders:
    return CellFolders(tmp_path, offline=True)


# --- streams that change


def test_each_batch_is_answered_before_it_is_learned() -> None:
    learned: list[int] = []

    def predict(x: Tensor) -> Tensor:
        known = torch.tensor([int(value) in learned for value in x[:, 0]])
        return torch.nn.functional.one_hot(known.long(), 2).float()

    def learn(x: Tensor, _: Tensor) -> None:
        learned.extend(x[:, 0].int().tolist())

    batches = [
        (torch.tensor([[a], [b]]), torch.ones(2).long()) for a, b in ((1, 2), (1, 3), (3, 9))
    ]
    assert changing_streams.follow_stream(batches, learn, predict) == pytest.approx(2 / 6)


@pytest.mark.parametrize("name", ["conflict", "drift"])
def test_a_stream_that_changes(
    name: str, place: CellFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        changing_streams,
        "make_suite",
        lambda _, seed, **__: tiny_suites.make_conflict(seed, "test"),
    )
    monkeypatch.setattr(changing_streams, "RATES", {0.0: (1e-6, 0.1), 0.9: (1e-6, 0.1)})
    figures, rows = changing_streams.measure_changing(name, (0, 1), place)
    assert set(figures) == {f"{name}_prequential", f"{name}_over_sgd"} | (
        {"drift_final"} if name == "drift" else set()
    )
    methods = ["nestling", "sgd 1e-06", "sgd 0.1"]
    methods += [f"{one}, momentum 0.9" for one in methods[1:]]
    assert [row["method"] for row in rows] == methods * 2
    means = {
        method: sum(float(str(row["prequential"])) for row in rows if row["method"] == method) / 2
        for method in methods
    }
    assert figures[f"{name}_prequential"] == pytest.approx(means.pop("nestling"))
    over = 100.0 * (figures[f"{name}_prequential"] - max(means.values()))
    assert figures[f"{name}_over_sgd"] == pytest.approx(over)
    assert means["sgd 0.1"] > means["sgd 1e-06"]  # SGD does learn


def test_watch_adds_up_people_and_seeds(
    place: CellFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(trial, _):  # type: ignore[no-untyped-def]
        assert trial.method == "default"
        after = {"recordings": 80, "halves": 50}[trial.split] + 10 * trial.seed
        return PersonCounts(200, 100, after, 1000, 50, 53 if trial.split == "halves" else 45)

    monkeypatch.setattr(watch_minutes, "count_people", count)
    figures, rows = watch_minutes.measure_watch((0, 1), place)
    assert figures == {
        "watch_removed_recordings": pytest.approx(0.15),
        "watch_removed_halves": pytest.approx(0.45),
        "watch_lost": pytest.approx(0.3),
    }
    assert [(row["split"], row["seed"]) for row in rows] == [
        *(("recordings", 0), ("recordings", 1)),
        *(("halves", 0), ("halves", 1)),
    ]
    assert list(place.folder.iterdir()) == []


# --- costs


def test_the_same_plan_without_a_gate() -> None:
    model = mlp([4, 8, 3])
    for pretrained in (False, True):
        plan = make_default_plan(model, pretrained=pretrained, replay=0)
        fixed = fix_weights(plan)
        assert fixed.levels == plan.levels
        assert isinstance(fixed.readout, Mix)
        assert isinstance(plan.readout, Mix)
        assert (fixed.readout.mix, fixed.readout.outside) == (plan.readout.mix, None)
        learner = Learner(mlp([4, 8, 3]), fixed)
        learner.learn(torch.rand(6, 4), torch.arange(6) % 3)
        weights = list(learner.readout.weights.values())  # type: ignore[union-attr]
        assert weights == pytest.approx([1 / len(weights)] * len(weights))


def test_sides_learn_the_same_by_turns() -> None:
    seen: list[tuple[str, int]] = []

    def make(name: str) -> gate_cost.Step:
        return lambda x, _: seen.append((name, int(x)))

    pairs = [(torch.tensor(number), torch.tensor(0)) for number in range(4)]
    seconds = time_in_turns({"a": make("a"), "b": make("b")}, [pairs[:2], pairs[2:]])
    assert seen[:4] == [("b", 0), ("b", 1), ("a", 0), ("a", 1)]
    assert seen[4:] == [("a", 2), ("a", 3), ("b", 2), ("b", 3)]
    assert all(0.0 <= taken < 0.1 for taken in seconds.values())


def test_what_the_gate_adds(place: CellFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = load_digits()
    wide = torch.nn.functional.interpolate(images.reshape(-1, 1, 8, 8), size=28).flatten(1)
    monkeypatch.setattr(gate_cost, "read_shuffled", lambda _: (wide, labels))
    few = {10: GateAmounts(50, 4, 2, 2), 20: GateAmounts(50, 2, 1, 2)}
    figures, rows = measure_gate(place, amounts=few)
    assert [(row["batch"], row["round"]) for row in rows] == [(10, 1), (10, 2), (20, 1), (20, 2)]
    for row in rows:
        times = [float(str(row[f"{one}_milliseconds"])) for one in ("default", "fixed", "bare")]
        assert row["gate_over_finetune"] == pytest.approx((times[0] - times[1]) / times[2])
        assert row["learn_over_finetune"] == pytest.approx(times[0] / times[2])
    parts = [figures["gate_over_finetune_b10"], figures["gate_over_finetune_b20"]]
    assert figures["gate_over_finetune"] == max(parts)


class Slowed:
    """Answers at once, or after a while in which somebody learns."""

    def __init__(self, is_slow: bool) -> None:
        self.is_slow = is_slow
        self.is_learning = threading.Event()
        self.threads: set[int] = set()

    def learn(self, x: Tensor, _: Tensor) -> None:
        self.threads.add(threading.get_ident())
        assert len(x) == 10
        self.is_learning.set()

    def answerer(self) -> "Slowed":
        self.is_learning.clear()
        return self

    def predict_proba(self, x: Tensor) -> Tensor:
        if self.is_slow and self.is_learning.is_set():
            threading.Event().wait(0.02)
        threading.Event().wait(0.001)
        return x


def test_the_rate_of_a_view_beside_a_learning_thread() -> None:
    few = AnswerAmounts(batch_sizes=(2, 4), seconds=0.05, rounds=2)
    batches = itertools.repeat((torch.zeros(10, 1), torch.zeros(10)))
    held = Slowed(is_slow=True)
    figures, rows = compare_rates(held, batches, torch.zeros(8, 1), few)
    assert set(figures) == {"answerer_rate", "answerer_rate_b2", "answerer_rate_b4"}
    assert figures["answerer_rate"] == min(figures["answerer_rate_b2"], figures["answerer_rate_b4"])
    assert figures["answerer_rate"] < 0.5
    assert [(row["rows"], row["round"]) for row in rows] == [
        (size, number) for size in (2, 4) for number in (1, 2)
    ]
    assert all(int(str(row["batches learned"])) > 0 for row in rows)
    assert threading.get_ident() not in held.threads


def test_what_the_other_thread_raises_is_raised() -> None:
    def learn(*_: Tensor) -> None:
        raise ValueError("no")

    batches = itertools.repeat((torch.zeros(1), torch.zeros(1)))
    with pytest.raises(ValueError, match="no"), LearningThread(learn, batches):
        pass


# --- crowds


class OnePerson:
    def __init__(self) -> None:
        self.seen: list[float] = []

    def learn(self, x: Tensor, y: Tensor) -> None:
        assert len(x) == len(y) == 5
        self.seen.append(float(x.sum()))

    def state_dict(self) -> dict[str, object]:
        return {"own": torch.zeros(len(self.seen), dtype=torch.float32), "count": 3}


class Spine:
    def __init__(self) -> None:
        self.people: dict[str, OnePerson] = {}
        self.order: list[str] = []

    def personal(self, name: str) -> OnePerson:
        assert name not in self.people, "each comes once"
        self.people[name] = OnePerson()
        return self.people[name]


def test_persons_learn_one_after_another_and_stay() -> None:
    crowd = Crowd(num_persons=3, rounds=2, batches=2)
    shared, alone = Spine(), Spine()
    figures, rows = compare_crowds(shared, alone, crowd, 0)
    assert list(shared.people) == [f"person {number}" for number in range(9)]
    (one,) = alone.people.values()
    assert len(one.seen) == 9 * 2
    assert sorted(one.seen) == sorted(v for each in shared.people.values() for v in each.seen)
    # The first batches of a round's three persons, then their second ones.
    given = [[float(x.sum()) for x, _ in person] for person in draw_persons(crowd, 0)]
    assert one.seen[:6] == [given[i][batch] for batch in (0, 1) for i in (0, 1, 2)]
    assert figures["personal_bytes"] == 9 * 2 * 4  # of the one who gave everything
    *rounds, state = rows
    assert [row["round"] for row in rounds] == [1, 2]
    assert [row["persons"] for row in rounds] == [6, 9]
    assert state == {"persons": 9, "bytes of one": 72, "median bytes of persons": 8}


def test_at_least_a_thousand_are_there_at_once() -> None:
    crowd = Crowd()
    assert crowd.num_persons * crowd.rounds >= 1_000
    assert crowd.batch_size * crowd.batches == 20


def test_persons_slant_in_ways_of_their_own() -> None:
    people = draw_persons(Crowd(num_persons=2, rounds=0), 0)
    assert [len(person) for person in people] == [4, 4]
    again = draw_persons(Crowd(num_persons=2, rounds=0), 0)
    assert torch.equal(people[1][0][0], again[1][0][0])
    assert not torch.equal(people[0][0][0], people[1][0][0])
    assert many_persons.count_state_bytes((torch.zeros(2), "word", None)) == 8


# --- the suite


def test_parts_of_persons_are_judged_together(
    place: CellFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(seeds, _):  # type: ignore[no-untyped-def]
        row = {"person": "a", "old": False, "given others": 0.9, "last only": 0.5}
        for look in (50, 100, 300):
            row |= {f"at {look}": 0.8, f"at {look} others": 0.9}
            row |= {f"finetune {look}": 0.7, f"finetune {look} others": 0.6}
        return {}, [{**one, "seed": seed} for seed in seeds for one in (row | {"old": True}, row)]

    monkeypatch.setattr(personal_promises, "SEEDED_PARTS", {"writers": measure, "kinds": measure})
    monkeypatch.setattr(personal_promises, "COST_PARTS", {})
    result = personal_promises.run(place, num_seeds=2)
    assert result.suite == "personal"
    assert len(result.rows) == 2 * 2 * 2
    assert result.figures["person_over_finetune_old"] == pytest.approx(10.0)
    assert not any(name.startswith(("further", "person_mnist")) for name in result.figures)
    # What is kept says with how many seeds.
    seeds = [row["seed"] for row in personal_promises.run(place, ["kinds"], num_seeds=3).rows]
    assert sorted(set(map(int, map(str, seeds)))) == [0, 1, 2]
    with pytest.raises(SettingError, match="did you mean 'writers'"):
        personal_promises.run(place, ["writer"])


def test_every_limit_of_persons_has_a_part() -> None:
    parts = personal_promises.list_parts(1)
    assert len(parts) == 12
    known = {"first_events_worst", "gate_over_finetune", "answerer_rate"}
    known |= {"personal_bytes", "personal_over_one", "drift_final"}
    known |= {f"watch_removed_{split}" for split in watch_minutes.SPLITS}
    known |= {
        f"{name}_{of}" for name in ("conflict", "drift") for of in ("prequential", "over_sgd")
    }
    row: dict[str, object] = {"person": "a", "given others": 1.0, "last only": 0.5}
    for look in (50, 100, 300, 600):
        row |= {f"at {look}": 0.8, f"at {look} others": 0.9}
        row |= {f"finetune {look}": 0.7, f"finetune {look} others": 0.6}
    for prefix, (_, looks) in personal_promises.TOGETHER.items():
        both = [row | {"old": True}, row | {"old": False}]
        known |= personal_promises.build_person_figures(both, looks, prefix).keys()
    assert LIMITS["personal"].keys() - known == set()
    assert answering_rate.AnswerAmounts().rounds >= 5
