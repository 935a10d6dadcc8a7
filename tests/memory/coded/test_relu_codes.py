import torch

from nestling.core.machine import use_threads
from nestling.memory.coded.relu_codes import draw_weights, map_codes


def draw(num: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(width)
    return torch.randint(-127, 128, (num, width), generator=generator, dtype=torch.int8)


def test_codes_are_the_equation() -> None:
    z, w = draw(9, 50), draw_weights(50, 40, seed=3, part="raw")
    exact = z.double() @ w.double() / z.double().norm(dim=1, keepdim=True)
    wanted = (exact * 127 / (4.5 * 30)).round().clamp(0, 127)
    assert torch.equal(map_codes(z, w).double(), wanted)
    assert 0.3 < float((wanted == 0).double().mean()) < 0.7


def test_the_batch_and_the_threads_change_no_bit() -> None:
    z, w = draw(512, 1200), draw_weights(1200, 104, seed=0, part="raw")
    whole = map_codes(z, w)
    for num_threads in (1, 2):
        with use_threads(num_threads):
            for batch in (1, 7, 32, 256, 512):
                few = z[: 40 * batch]
                codes = torch.cat([map_codes(part, w) for part in few.split(batch)])
                assert torch.equal(codes, whole[: len(few)])


def test_nothing_gives_nothing() -> None:
    w = draw_weights(5, 8, seed=0, part="raw")
    assert int(map_codes(torch.zeros(2, 5, dtype=torch.int8), w).max()) == 0
    assert map_codes(torch.zeros(0, 5, dtype=torch.int8), w).shape == (0, 8)


def test_weights_are_drawn_by_seed_and_part() -> None:
    first = draw_weights(40, 30, seed=0, part="raw")
    assert torch.equal(first, draw_weights(40, 30, seed=0, part="raw"))
    assert not torch.equal(first, draw_weights(40, 30, seed=1, part="raw"))
    assert not torch.equal(first, draw_weights(40, 30, seed=0, part="gradients"))
    assert 28 < float(first.double().std()) < 32
    assert int(first.min()) >= -127
