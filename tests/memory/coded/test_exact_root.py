import math
import re
from pathlib import Path

import torch

from nestling.memory import coded
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


def test_the_room_takes_no_other_root_or_power() -> None:
    """A last bit seldom reaches a code of 7 bits: no test on a few inputs would see it."""
    for path in Path(str(coded.__file__)).parent.glob("*.py"):
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.S)
        found = re.findall(r"\w+\.(?:r?sqrt_?|pow_?|norm|exp_?|log_?|cos_?)\(", code)
        assert set(found) <= {"math.sqrt(", "np.sqrt("}, path.name
