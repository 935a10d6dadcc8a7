"""Persons whose images are in another hand, or turned."""

import torch

from nestling.data.persons import KINDS, make_kinds, make_writers


def test_no_image_is_in_two_parts() -> None:
    for person in (next(make_writers(3)), next(make_kinds(3, KINDS))):
        sizes = [len(part[1]) for part in (person.trained, person.others, person.stream)]
        assert sizes == [1000, 300, 300]
        assert len(person.own[1]) == 1797 - 1600
        both = torch.cat([person.stream[0], person.own[0]])
        assert len(both.unique(dim=0)) > 0.99 * len(both)
        assert 0.0 <= float(both.min()) <= float(both.max()) <= 1.0
