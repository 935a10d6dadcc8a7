"""Three streams that a model of MNIST does not know, from small images of our own."""

import pytest
import torch

from nestling.data.archives import Split
from nestling.data.persons import Person
from nestling.data.suites import shifts
from nestling.data.suites.grey_images import pool_images
from nestling.data.suites.shifts import frame_digits, make_shifts


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> Split:
    monkeypatch.setattr(shifts, "NUM_BASE", 50)
    monkeypatch.setattr(shifts, "NUM_STREAM", 10)
    generator = torch.Generator().manual_seed(0)
    x, x_test = (torch.rand(count, 28, 28, generator=generator) for count in (90, 15))
    return x, torch.arange(90), x_test, torch.arange(15) % 10


@pytest.fixture
def made(split: Split) -> dict[str, Person]:
    return {person.name: person for person in make_shifts(split, 0)}


def test_three_streams_come_to_one_base(split: Split, made: dict[str, Person]) -> None:
    assert list(made) == ["turned", "other digits", "inverted"]
    for person in made.values():
        assert person.trained[0].shape == (50, 196)
        assert person.trained is made["turned"].trained
        assert torch.equal(person.others[0], pool_images(split[2]))
        assert torch.equal(person.others[1], split[3])
        assert person.stream[0].shape == (10, 196)
        assert 0.0 <= float(person.own[0].min()) <= float(person.own[0].max()) <= 1.0
    assert len(made["turned"].own[1]) == len(made["inverted"].own[1]) == 20
    assert len(made["other digits"].own[1]) == 899


def test_no_image_is_in_two_parts(made: dict[str, Person]) -> None:
    # Labels are the images' numbers here.
    for name in ("turned", "inverted"):
        parts = [made[name].trained, made[name].stream, made[name].own]
        numbers = torch.cat([y for _, y in parts])
        assert len(numbers.unique()) == len(numbers) == 80
    both = torch.cat([made["other digits"].stream[0], made["other digits"].own[0]])
    assert len(both.unique(dim=0)) > 0.99 * len(both)


def test_inverted_is_light_for_dark(split: Split, made: dict[str, Person]) -> None:
    x, y = made["inverted"].stream
    assert torch.allclose(x, 1.0 - pool_images(split[0])[y])
    turned, labels = made["turned"].stream
    assert torch.equal(labels, y)
    assert not torch.allclose(turned, pool_images(split[0])[y], atol=0.05)


def test_a_digit_stands_in_the_middle_of_its_frame() -> None:
    framed = frame_digits(torch.rand(2, 64, generator=torch.Generator().manual_seed(0)) + 0.1)
    assert framed.shape == (2, 28, 28)
    assert float(framed[:, 4:24, 4:24].min()) > 0.0
    assert float(framed.sum()) == pytest.approx(float(framed[:, 4:24, 4:24].sum()))


def test_the_seed_draws_base_and_streams(split: Split) -> None:
    first, again, other = (list(make_shifts(split, seed)) for seed in (0, 0, 1))
    for one, same, unlike in zip(first, again, other, strict=True):
        assert torch.equal(one.stream[0], same.stream[0])
        assert not torch.equal(one.stream[1], unlike.stream[1])
        assert not torch.equal(one.trained[1], unlike.trained[1])
