"""The smart watch: what the other wrist sees, and what of a person is learned and tested."""

import pytest
import torch
from torch import Tensor

from nestling.core.errors import DataError
from nestling.data import persons
from nestling.data.sources.recordings import Recordings, read_watch
from nestling.data.suites import people
from nestling.data.suites.people import MIRROR, make_person_streams, summarise_windows
from nestling.data.suites.suite import Request


@pytest.fixture(scope="module")
def request_offline() -> Request:
    request = Request(0, "test", offline=True)
    try:
        request.obtain("watch")
    except DataError as error:
        pytest.skip(str(error))
    return request


def test_the_other_wrist_sees_the_movement_mirrored(request_offline: Request) -> None:
    recordings = read_watch(*request_offline.obtain("watch"))
    pairs = []
    for person in sorted(set(recordings.people.tolist())):
        for exercise in range(7):
            rows = (recordings.people == person) & (recordings.exercises == exercise)
            first, second = (recordings.samples[int(i)].mean(0) for i in rows.nonzero()[:2])
            pairs.append(torch.stack([first, second]))
    both = torch.stack(pairs)  # (pairs, arm, axis)
    for axis, sign in enumerate(MIRROR):
        agreement = torch.corrcoef(both[:, :, axis].T)[0, 1]
        assert sign * float(agreement) > 0.4


@pytest.mark.parametrize("split", ["recordings", "halves"])
def test_a_minute_of_a_person_and_nothing_that_is_tested(request_offline, split) -> None:
    streams = list(make_person_streams(request_offline, split=split))
    assert [one.name for one in streams] == [f"person {number}" for number in range(4, 11)]
    for one in streams:
        x, y = one.stream
        assert len(x) == len(y)
        assert y.bincount().unique().numel() == 1  # every exercise alike
        given = 7 if split == "recordings" else 14
        num_windows = (int(60 * 50 / given) - 100) // 12 + 1
        assert len(x) == 2 * given * num_windows
        tested = {tuple(row) for row in one.own_test[0].tolist()}
        assert not tested & {tuple(row) for row in x.tolist()}
        assert not tested & {tuple(row) for row in one.base[0].tolist()}
    assert len(streams[0].base[0]) > 3000


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five people, two exercises, two arms; each sample says whose, what, which arm and when.

    Along axis 3, which no mirror turns over: 100 person + 10 exercise + arm + time / 1000.
    """
    keys = [(person, what, arm) for person in range(1, 6) for what in (0, 1) for arm in (0, 1)]
    samples = []
    for person, what, arm in keys:
        one = torch.zeros(800, 6)
        one[:, 3] = 100 * person + 10 * what + arm + torch.arange(800) / 1000
        samples.append(one)
    recordings = Recordings(
        tuple(samples),
        torch.tensor([what for _, what, _ in keys]),
        torch.tensor([person for person, _, _ in keys]),
        ("push", "pull"),
    )
    monkeypatch.setattr(people, "read_watch", lambda *_: recordings)
    monkeypatch.setattr(Request, "obtain", lambda *_: [])


def read_keys(pair: tuple[Tensor, Tensor]) -> set[tuple[int, int, int]]:
    """(person, exercise, arm) of each window; its label is the exercise."""
    x, y = pair
    least = x[:, 2 * 6 + 3]  # of axis 3: where the window begins
    keys = {(int(v) // 100, int(v) % 100 // 10, int(v) % 10) for v in least}
    assert [int(v) % 100 // 10 for v in least] == y.tolist()
    return keys


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(("split", "who"), [("test", {4, 5}), ("validation", {1, 2, 3})])
def test_a_suite_of_people_is_not_tested_on_what_it_learned(split, who) -> None:
    drawn = set()
    for seed in range(6):
        suite = people.make_watch(Request(seed, split))
        assert {one.name for one in suite.experiences} == {f"person {one}" for one in who}
        for one in suite.experiences:
            learned, tested = read_keys(one.train), read_keys(one.test)
            person = int(one.name.split()[1])
            assert not learned & tested
            assert learned | tested == {(person, w, arm) for w in (0, 1) for arm in (0, 1)}
            assert {what for _, what, _ in learned} == {what for _, what, _ in tested} == {0, 1}
            # What is learned is seen by both wrists, what is tested by the one that wore it.
            assert len(one.train[0]) == 2 * len(one.test[0])
            drawn |= learned
    assert len(drawn) == 4 * len(who)  # either arm, as the seed draws


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("split", ["recordings", "halves"])
def test_a_person_is_tested_on_neither_the_stream_nor_the_base(split) -> None:
    streams = list(make_person_streams(Request(0, "test"), split=split, num_seconds=30.0))
    assert [one.name for one in streams] == ["person 4", "person 5"]
    for one in streams:
        person = int(one.name.split()[1])
        begun, tested = read_keys(one.stream), read_keys(one.own_test)
        assert {who for who, _, _ in begun | tested} == {person}
        others = read_keys(one.base) | read_keys(one.base_test)
        assert {who for who, _, _ in others} == {1, 2, 3, 4, 5} - {person}
        for learned, held in ((one.stream, one.own_test), (one.base, one.base_test)):
            if split == "recordings":
                assert not read_keys(learned) & read_keys(held)
                continue
            # The first half of each recording, and the second one of the same.
            assert read_keys(learned) == read_keys(held)
            latest = learned[0][:, 3 * 6 + 3] % 1.0
            assert float(latest.max()) < 0.4 <= float((held[0][:, 2 * 6 + 3] % 1.0).min()) + 1e-4


def test_writers_and_kinds_are_four_parts_without_a_row_in_common(monkeypatch) -> None:
    x = torch.arange(1797.0)[:, None].repeat(1, 64)
    monkeypatch.setattr(persons, "load_digits", lambda: (x, torch.arange(1797) % 10))
    orders = []
    for seed in (0, 1):
        (person,) = persons.make_kinds(seed, {"as the others": lambda x: x})
        parts = [person.trained, person.others, person.stream, person.own]
        rows = [images[:, 0].int() for images, _ in parts]
        assert [len(one) for one in rows] == [1000, 300, 300, 197]
        assert sorted(torch.cat(rows).tolist()) == list(range(1797))
        assert all((one % 10 == y).all() for one, (_, y) in zip(rows, parts, strict=True))
        orders.append(rows[2].tolist())
    assert orders[0] != orders[1]


def test_a_part_to_test_on_is_the_one_that_was_asked_for() -> None:
    validation, test = torch.tensor([1]), torch.tensor([2])
    assert Request(0, "test").choose(validation, test) is test
    assert Request(0, "validation").choose(validation, test) is validation
    seeds = {(split, Request(3, split).stream_seed) for split in ("test", "validation")}
    assert seeds == {("test", 3), ("validation", 1_000_003)}


def test_windows_of_another_step() -> None:
    assert summarise_windows(torch.ones(150, 6), 10).shape == (6, 24)
