import pytest
import torch

from nestling.core.errors import NotFitted, SettingError, ShapeMismatch
from nestling.memory import BalancedReplay, ReservoirReplay


def test_every_example_is_kept_equally_often() -> None:
    """Each of 60 stays in 20 places with probability 1/3: 5 deviations of 600 trials are 0.1."""
    kept = torch.zeros(60)
    for seed in range(600):
        replay = ReservoirReplay(20, seed=seed)
        for rows in torch.arange(60).split(7):
            replay.add({"i": rows})
        kept[replay.read_all()["i"]] += 1.0
    assert float((kept / 600 - 1 / 3).abs().max()) < 0.1


def test_a_reservoir_equals_algorithm_r() -> None:
    from nestling.core.seeds import make_generator

    generator = make_generator(4, "reservoir replay")
    wanted: list[int] = []
    for t in range(200):
        if len(wanted) < 15:
            wanted.append(t)
            continue
        place = int(torch.randint(t + 1, (), generator=generator))
        if place < 15:
            wanted[place] = t
    replay = ReservoirReplay(15, seed=4)
    for rows in torch.arange(200).split(64):
        replay.add({"i": rows})
    assert replay.read_all()["i"].tolist() == wanted


def test_balanced_replay_keeps_classes_equal_however_rare() -> None:
    y = torch.tensor([0] * 500 + [1] * 40 + [2] * 7 + [0] * 200)
    replay = BalancedReplay(30, seed=0)
    for rows in torch.arange(len(y)).split(10):
        replay.add({"i": rows, "y": y[rows]})
    assert replay.read_all()["y"].bincount().tolist() == [12, 11, 7] or (
        replay.read_all()["y"].bincount().tolist() == [11, 12, 7]
    )


def test_balanced_replay_is_uniform_within_a_class() -> None:
    kept = torch.zeros(60)
    for seed in range(600):
        replay = BalancedReplay(20, seed=seed)
        replay.add({"i": torch.arange(60), "y": torch.zeros(60, dtype=torch.int64)})
        kept[replay.read_all()["i"]] += 1.0
    assert float((kept / 600 - 1 / 3).abs().max()) < 0.1


def test_balanced_replay_equals_its_algorithm() -> None:
    """Chrysakis & Moens' algorithm 1, line by line: a class that was once the largest is full."""
    from nestling.core.seeds import make_generator

    y = torch.tensor([0] * 60 + [1] * 30 + [2] * 30 + [0, 1, 2, 3] * 25)
    generator = make_generator(5, "balanced replay")

    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    kept: list[tuple[int, int]] = []
    seen: dict[int, int] = {}
    full: set[int] = set()
    was_spared = False
    for i, c in enumerate(y.tolist()):
        seen[c] = seen.get(c, 0) + 1
        if len(kept) < 12:
            kept.append((i, c))
            continue
        sizes = {label: sum(one == label for _, one in kept) for _, label in kept}
        largest = sorted(label for label, size in sizes.items() if size == max(sizes.values()))
        full |= set(largest)
        victim = largest[draw(len(largest))]
        if c in full:
            was_spared |= c not in largest
            if draw(seen[c]) >= sizes[c]:
                continue
            victim = c
        places = [place for place, (_, label) in enumerate(kept) if label == victim]
        kept[places[draw(len(places))]] = (i, c)
    assert was_spared  # a class that is full and no longer the largest came by
    replay = BalancedReplay(12, seed=5)
    for rows in torch.arange(len(y)).split(7):
        replay.add({"i": rows, "y": y[rows]})
    assert replay.read_all()["i"].tolist() == [i for i, _ in kept]
    assert replay.num_seen == len(y)


def test_samples_are_different_examples_and_copies() -> None:
    replay = ReservoirReplay(10, seed=0)
    replay.add({"x": torch.arange(8.0)[:, None], "y": torch.arange(8)})
    drawn = replay.sample(100)
    assert sorted(drawn["y"].tolist()) == list(range(8))
    assert torch.equal(drawn["x"][:, 0].long(), drawn["y"])  # rows stay together
    drawn["x"].fill_(-1.0)
    assert float(replay.read_all()["x"].min()) == 0.0
    assert len(replay.sample(3)["y"].unique()) == 3


def test_wrong_use_is_named() -> None:
    with pytest.raises(SettingError, match="capacity 0"):
        ReservoirReplay(0, seed=0)
    with pytest.raises(NotFitted, match="empty"):
        ReservoirReplay(3, seed=0).sample(1)
    replay = ReservoirReplay(3, seed=0)
    replay.add({"x": torch.zeros(2, 4)})
    with pytest.raises(ShapeMismatch, match=r"\['x'\]"):
        replay.add({"z": torch.zeros(2, 4)})
    with pytest.raises(ShapeMismatch, match="int64"):
        replay.add({"x": torch.zeros(2, 4, dtype=torch.int64)})
    with pytest.raises(ShapeMismatch, match="'y'"):
        BalancedReplay(3, seed=0).add({"x": torch.zeros(2, 4)})


def test_a_column_holds_every_dtype_of_its_kind() -> None:
    replay = ReservoirReplay(9, seed=0)
    for dtype in (torch.uint8, torch.int64, torch.int32):
        replay.add({"y": torch.tensor([200, 7], dtype=dtype)})
    replay.add({"y": torch.tensor([70_000])})
    assert replay.read_all()["y"].tolist() == [200, 7, 200, 7, 200, 7, 70_000]
    values = ReservoirReplay(9, seed=0)
    values.add({"y": torch.ones(1)})
    values.add({"y": torch.full((1,), 1 / 3, dtype=torch.float64)})
    assert values.read_all()["y"].tolist() == [1.0, 1 / 3]
