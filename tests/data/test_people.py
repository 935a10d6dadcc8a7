"""The smart watch: what the other wrist sees, and what of a person is learned and tested."""

import pytest
import torch

from nestling.core.errors import DataError
from nestling.data.sources.recordings import read_watch
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


def test_windows_of_another_step() -> None:
    assert summarise_windows(torch.ones(150, 6), 10).shape == (6, 24)
