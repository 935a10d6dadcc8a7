"""The personal suite's own logic, on one person."""

import pytest
import torch

from nestling.bench import personal
from nestling.bench.result import LIMITS
from nestling.data.persons import KINDS, Person, make_kinds, make_writers


def test_a_person_is_measured_whole() -> None:
    person = next(make_kinds(0, {"inverted": KINDS["inverted"]}))
    model = personal.train(personal.make_mlp(0), person, 0, 20)
    before = [param.clone() for param in model.parameters()]
    row = personal.measure_person(person, model, 0, is_further=False)
    # Everybody starts from the same weights, which stay as they were.
    assert all(map(torch.equal, before, model.parameters()))
    figures = personal.build_figures([row])
    assert figures["person_accuracy"] == row["at 300"] > 0.9
    assert figures["person_over_finetune"] > 5.0
    assert figures["person_lost"] <= 0.5
    assert figures["first_events_worst"] <= 1.0
    assert LIMITS["personal"].keys() <= figures.keys()


def test_a_person_is_looked_at_before_the_stream_and_after_so_many_examples() -> None:
    """Who knows what it learned answers right for that many of the person's examples."""
    x, y = torch.arange(300.0)[:, None], torch.ones(300, dtype=torch.int64)
    old = (torch.arange(-1.0, -101.0, -1.0)[:, None], torch.zeros(100, dtype=torch.int64))
    person = Person("one", old, old, (x, y), (x, y))
    known: set[float] = set()

    def learn(x: torch.Tensor, _: torch.Tensor) -> None:
        known.update(x[:, 0].tolist())

    def predict(x: torch.Tensor) -> torch.Tensor:
        labels = torch.tensor([int(value in known) for value in x[:, 0].tolist()])
        return torch.nn.functional.one_hot(labels, 2).float()

    found = personal._follow(person, learn, predict)
    assert found.own == pytest.approx([0.0, *(look / 300 for look in personal.LOOKS)])
    assert found.others == [1.0] * (1 + len(personal.LOOKS))


def test_figures_are_what_they_say() -> None:
    row = {"further": False, "given": 0.5, "given others": 0.9, "last only": 0.6}
    row |= {f"at {look}": 0.5 for look in personal.LOOKS}
    row |= {f"at {look} others": 0.9 for look in personal.LOOKS}
    row |= {"at 20": 0.47, "at 100 others": 0.88, "at 300": 0.8, "at 300 others": 0.89}
    row |= {"finetune": 0.7, "finetune others": 0.6}
    other = row | {"at 300": 0.9, "at 300 others": 0.9}
    found = personal.build_figures([row, other])
    assert found["person_accuracy"] == pytest.approx(0.85)
    assert found["person_over_finetune"] == pytest.approx(15.0)
    assert found["person_lost"] == pytest.approx(0.5)
    assert found["person_lost_worst"] == pytest.approx(1.0)
    assert found["first_events_worst"] == pytest.approx(3.0)
    assert found["finetune_lost"] == pytest.approx(30.0)


def test_no_image_is_in_two_parts() -> None:
    for person in (next(make_writers(3)), next(make_kinds(3, KINDS))):
        sizes = [len(part[1]) for part in (person.trained, person.others, person.stream)]
        assert sizes == [1000, 300, 300]
        assert len(person.own[1]) == 1797 - 1600
        both = torch.cat([person.stream[0], person.own[0]])
        assert len(both.unique(dim=0)) > 0.99 * len(both)
        assert 0.0 <= float(both.min()) <= float(both.max()) <= 1.0
