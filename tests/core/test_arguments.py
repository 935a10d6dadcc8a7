"""What an argument is, said in words; numbers, devices and models checked before they are used."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from nestling.core.arguments import check_device, check_model, check_seed, check_whole
from nestling.core.errors import SettingError
from nestling.core.seeds import make_generator

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "half": (lambda: check_whole("n", 0.5, 1, "1 works"), "n=0.5; 1 works"),
    "truth": (lambda: check_whole("n", True, 1, "1 works"), "n=True; 1 works"),
    "too few": (lambda: check_whole("n", 0, 1, "1 works"), "n=0; 1 works"),
    "no seed": (lambda: check_seed("a"), "seed='a'; a whole number works"),
    "drawn from no seed": (lambda: make_generator(0.5), "seed=0.5; a whole number"),  # type: ignore[arg-type]
    "device": (lambda: check_device("gpu"), "device='gpu' cannot be used here"),
    "state": (lambda: check_model(nn.ReLU().state_dict(), "f"), "an OrderedDict; give the whole"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_one_line(case: str) -> None:
    act, words = WRONG[case]
    with pytest.raises(SettingError) as caught:
        act()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_count() -> None:
    assert check_whole("n", np.int64(3), 1, "1 works") == 3
    drawn = [torch.rand(2, generator=make_generator(seed)) for seed in (3, np.int64(3))]  # type: ignore[list-item]
    assert torch.equal(*drawn)
    assert check_device(None) is None
    assert check_device("cpu") == torch.device("cpu")
