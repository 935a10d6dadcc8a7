"""Rows like those of the census, small: what is earned follows the inputs, not the sex."""

import torch

from nestling.core.seeds import make_generator
from nestling.data.groups import GroupedRows


def make_rows(count: int, seed: int = 0) -> GroupedRows:
    """Eight inputs, of which the first says the sex and three others the label, with noise."""
    generator = make_generator(seed, "rows of tests")
    x = torch.randn(count, 8, generator=generator)
    is_female = x[:, 0] > 0
    score = x[:, 1] + x[:, 2] - x[:, 3] + 0.5 * torch.randn(count, generator=generator)
    columns = {
        "sex": tuple("female" if one else "male" for one in is_female.tolist()),
        "age group": tuple("over 55" if one else "55 and under" for one in (x[:, 4] > 1).tolist()),
        "race": tuple("White" if one else "Black" for one in (x[:, 5] > -0.5).tolist()),
    }
    return GroupedRows(x, (score > 0).long(), columns)
