import math

import torch

from nestling.memory.coded.exact_root import take_root_


def test_roots_are_rightly_rounded() -> None:
    x = torch.arange(1, 20_000, dtype=torch.float64) * 977
    wanted = torch.tensor([math.sqrt(value) for value in x.tolist()], dtype=torch.float64)
    assert torch.equal(take_root_(x), wanted)
    # A float64 root of a float32 number, rounded again, is the right float32 root.
    narrow = torch.arange(1, 20_000, dtype=torch.float32) / 977
    exact = [math.sqrt(value) for value in narrow.tolist()]
    assert torch.equal(take_root_(narrow), torch.tensor(exact, dtype=torch.float32))


def test_views_are_changed_in_place() -> None:
    x = torch.full((4, 6), 4.0)
    assert take_root_(x[:, ::2]).tolist() == [[2.0] * 3] * 4
    assert x.tolist() == [[2.0, 4.0] * 3] * 4
