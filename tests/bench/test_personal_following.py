"""A person's stream followed, and what is made of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nestling.bench.personal import first_events, following, person_looks
from nestling.bench.personal.following import (
    PersonAccuracies,
    Stream,
    describe_looks,
    follow,
    score_given,
    tune_in_hindsight,
)
from nestling.bench.personal.given_models import give, make_convnet, make_plain, train
from nestling.bench.personal.person_looks import build_person_figures, compare_all
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.data.persons import KINDS, Person, make_kinds

SHORT = Stream(5, (5, 20))


@pytest.fixture(scope="module")
def person() -> Person:
    return next(make_kinds(0, {"inverted": KINDS["inverted"]}))


@pytest.fixture(scope="module")
def model(person: Person) -> torch.nn.Module:
    return train(make_plain((64, 32, 10), 0), person.trained, 0, 10)


def test_it_is_looked_before_the_stream_and_after_so_many_examples() -> None:
    """Who knows what it learned answers right for that many of the person's examples."""
    x, y = torch.arange(300.0)[:, None], torch.ones(300, dtype=torch.int64)
    old = (torch.arange(-1.0, -101.0, -1.0)[:, None], torch.zeros(100, dtype=torch.int64))
    known: set[float] = set()
    sizes: set[int] = set()

    def learn(x: torch.Tensor, _: torch.Tensor) -> None:
        known.update(x[:, 0].tolist())
        sizes.add(len(x))

    def predict(x: torch.Tensor) -> torch.Tensor:
        labels = torch.tensor([int(value in known) for value in x[:, 0].tolist()])
        return torch.nn.functional.one_hot(labels, 2).float()

    stream = Stream(5, (0, 5, 100))
    found = follow(Person("one", old, old, (x, y), (x, y)), learn, predict, stream)
    assert found.own == pytest.approx([look / 300 for look in stream.looks])
    assert found.others == [1.0] * 3
    assert sizes == {5}
    assert len(known) == 100  # not a batch more than is looked at


def test_each_look_has_the_rate_that_is_best_there(
    person: Person, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {("sgd", 0.1): [0.9, 0.2], ("sgd", 0.2): [0.1, 0.3], ("adamw", 0.1): [0.2, 0.8]}

    def fine_tune(_person, _model, rule, rate, *_):  # type: ignore[no-untyped-def]
        return PersonAccuracies(own[rule, rate], [rate, rate + 0.5])

    monkeypatch.setattr(following, "RATES", {"sgd": (0.1, 0.2), "adamw": (0.1,)})
    monkeypatch.setattr(following, "fine_tune", fine_tune)
    first, last = tune_in_hindsight(person, model, SHORT, 0)
    assert (first.own, first.others, first.rate) == (0.9, 0.1, "sgd 0.1")
    assert (last.own, last.others, last.rate) == (0.8, 0.6, "adamw 0.1")


def test_everybody_starts_from_the_same_weights_which_stay(
    person: Person, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "RATES", {"sgd": (0.1,)})
    before = [param.clone() for param in model.parameters()]
    given = score_given(person, model)
    rows = compare_all(iter([person]), lambda *_: model, SHORT, 0)
    assert all(map(torch.equal, before, model.parameters()))
    assert [row["old"] for row in rows] == [True, False]
    assert ["last only" in row for row in rows] == [False, True]
    for row in rows:
        assert (row["given"], row["given others"]) == given
        assert row["finetune 20"] == rows[0]["finetune 20"]
    # A learner that knows the old data answers otherwise than one that does not.
    assert rows[0]["at 20"] != rows[1]["at 20"]


def test_old_data_are_learned_before_the_person_comes(
    person: Person, model: torch.nn.Module
) -> None:
    informed = give(model, 0, old=person.trained)
    assert informed.counts.num_examples == len(person.trained[1])
    assert give(model, 0).counts.num_examples == 0
    assert informed.model is not model


def test_figures_of_persons_are_what_they_say() -> None:
    looks = (50, 300)
    row: dict[str, object] = {"person": "a", "given": 0.5, "given others": 0.9, "old": True}
    row |= {"at 50": 0.6, "at 50 others": 0.9, "at 300": 0.8, "at 300 others": 0.88}
    row |= {"finetune 50": 0.62, "finetune 300": 0.7, "finetune 300 others": 0.6}
    twin = row | {"at 50": 0.61, "at 300 others": 0.9}
    new = row | {"old": False, "at 50": 0.7, "at 300": 0.9, "at 300 others": 0.91, "last only": 0.6}
    found = build_person_figures([row, twin, new], looks, "one")
    assert found["one_accuracy"] == pytest.approx((0.8 + 0.8 + 0.9) / 3)
    assert found["one_accuracy_old"] == pytest.approx(0.8)
    assert found["one_over_finetune"] == pytest.approx((-2 + 10 - 1 + 10 + 8 + 20) / 6)
    # Of person a after 50 examples with old data: mean over the two seeds.
    assert found["one_over_finetune_least"] == pytest.approx(-1.5)
    assert found["one_over_finetune_least_new"] == pytest.approx(8.0)
    assert found["one_lost_old"] == pytest.approx(0.5)
    assert found["one_lost_new"] == pytest.approx(-0.5)
    assert found["one_lost_worst"] == pytest.approx(2.0)
    assert found["one_finetune_lost"] == pytest.approx(30.0)
    assert found["one_last_only_accuracy"] == pytest.approx(0.6)
    assert build_person_figures([], looks, "one") == {}


def test_columns_of_a_row() -> None:
    found = PersonAccuracies([0.1, 0.2], [0.8, 0.9])
    assert describe_looks(SHORT, found) == {
        "at 5": 0.1,
        "at 5 others": 0.8,
        "at 20": 0.2,
        "at 20 others": 0.9,
    }


def test_a_fall_at_any_look_counts(
    person: Person, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, others = score_given(person, model)
    looked = PersonAccuracies([given, given + 0.1, given], [others, others - 0.03, others])
    monkeypatch.setattr(first_events, "EVENTS", Stream(1, (0, 1, 5)))
    monkeypatch.setattr(first_events, "follow_learner", lambda *_: looked)
    row = first_events.measure_case(("digits, MLP", person, model), 0)
    assert row["worst"] == pytest.approx(3.0)
    figures = first_events.build_first_figures([row, {"case": "census, MLP", "worst": 4.0}])
    assert figures == {
        "first_events_worst": pytest.approx(4.0),
        "first_events_worst_digits": pytest.approx(3.0),
        "first_events_worst_census": pytest.approx(4.0),
    }
    assert (
        first_events.build_first_figures([{"case": "digits", "worst": -1.0}])["first_events_worst"]
        == 0.0
    )


def test_first_events_come_one_by_one_to_a_learner(
    person: Person, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_events, "EVENTS", Stream(1, (0, 1, 5)))
    row = first_events.measure_case(("digits, MLP", person, model), 0)
    assert (row["at 0"], row["at 0 others"]) == (row["given"], row["given others"])
    assert {f"at {look}" for look in (0, 1, 5)} <= row.keys()


def test_writers_and_kinds_come_to_models_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_events, "CONV_EPOCHS", 0)
    monkeypatch.setattr(first_events, "MLP_EPOCHS", 0)
    cases = list(first_events.list_digits(0))
    assert [name for name, *_ in cases] == ["digits, conv net"] * 6 + ["digits, MLP"] * 3
    assert len({id(model) for *_, model in cases}) == 2
    assert person_looks.PERSON.looks == (50, 100, 300)


def test_a_convnet_by_its_seed() -> None:
    x = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    first, again, other = (make_convnet(seed).eval()(x) for seed in (0, 0, 1))
    assert first.shape == (3, 10)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_census_groups_each_come_to_a_model_of_their_own(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_events, "TABLE_EPOCHS", 1)
    rich = replace(person, trained=(person.trained[0], person.trained[1] % 2))
    cases = list(first_events.list_census(iter([rich, rich]), 0))
    assert [name for name, *_ in cases] == ["census, MLP"] * 2
    assert len({id(model) for *_, model in cases}) == 2
    assert [model(person.own[0]).shape[1] for *_, model in cases] == [2, 2]


def test_first_events_of_every_seed_and_case(
    person: Person, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = ("digits, MLP", person, model)
    monkeypatch.setattr(first_events.sources, "obtain", lambda *_, **__: ["adult.whl"])
    monkeypatch.setattr(first_events, "read_adult", str)
    monkeypatch.setattr(first_events, "make_groups", lambda table, seed: iter([(table, seed)]))
    monkeypatch.setattr(first_events, "list_digits", lambda _: [case])
    monkeypatch.setattr(first_events, "list_census", lambda groups, _: [("census", *next(groups))])
    monkeypatch.setattr(
        first_events,
        "measure_case",
        lambda case, seed: {"case": case[0], "person": str(case[1]), "worst": float(seed)},
    )
    figures, rows = first_events.measure_first_events((1, 2), CellFolders(Path("nowhere")))
    assert [row["case"] for row in rows] == ["digits, MLP", "census"] * 2
    assert rows[1]["person"] == "adult.whl"
    assert figures["first_events_worst"] == 2.0


def test_who_comes_to_which_model(
    person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[str], Stream, int]] = []
    models: list[torch.nn.Module] = []

    def compare(persons, make, stream, seed):  # type: ignore[no-untyped-def]
        asked.append(([one.name for one in persons], stream, seed))
        models.append(make)
        return [{"seed": seed}]

    place = CellFolders(tmp_path, offline=True)
    monkeypatch.setattr(person_looks, "compare_all", compare)
    monkeypatch.setattr(person_looks, "read_mnist", lambda _: "split")
    monkeypatch.setattr(person_looks, "make_shifts", lambda *_: iter([person] * 2))
    assert person_looks.measure_writers((0,), place) == ({}, [{"seed": 0}])
    assert person_looks.measure_kinds(KINDS, (0, 1), place) == ({}, [{"seed": 0}, {"seed": 1}])
    assert person_looks.measure_shifts((3,), place) == ({}, [{"seed": 3}])
    assert asked[0] == ([f"writer {i}" for i in range(1, 7)], person_looks.PERSON, 0)
    assert asked[2] == (list(KINDS), person_looks.PERSON, 1)
    assert asked[3] == (["inverted"] * 2, person_looks.SHIFT, 3)
    for name in ("CONV_EPOCHS", "MLP_EPOCHS", "SHIFT_EPOCHS"):
        monkeypatch.setattr(person_looks, name, 0)
    images = torch.zeros(2, 64), torch.zeros(2, 64), torch.zeros(2, 64), torch.zeros(2, 196)
    for make, x in zip(models, images, strict=True):
        assert make(person, 0)(x).shape == (2, 10)
