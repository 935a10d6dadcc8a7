"""Dreams are like what came: classes, marginals, correlations; and they come from sums alone."""

import pytest
import torch
from torch import Tensor

from nestling.consolidate import draw_codes
from nestling.consolidate.dreams import find_correlations, find_moments, find_root, pool_covariances
from nestling.core.errors import NotFitted, SettingError
from nestling.data import load_digits
from nestling.memory.exact.class_sums import ClassSums


def sum_digits(num: int = 1_700) -> tuple[ClassSums, Tensor, Tensor]:
    x, y = load_digits()
    codes = (x[:num] * 127).round().to(torch.uint8)
    sums = ClassSums(64)
    sums.add(codes, y[:num])
    return sums, codes, y[:num]


def draw(sums: ClassSums, num: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return draw_codes(sums, num, generator=torch.Generator().manual_seed(seed))


def test_moments_are_those_of_each_class() -> None:
    sums, codes, y = sum_digits()
    sums.sum_up()
    pooled = torch.zeros(64, 64, dtype=torch.float64)
    for label in range(10):
        rows = codes[y == label].double()
        mean, covariance = find_moments(sums, label)
        assert torch.allclose(mean, rows.mean(0), rtol=0, atol=1e-9)
        assert torch.allclose(covariance, torch.cov(rows.T, correction=0), rtol=0, atol=1e-6)
        pooled += covariance * len(rows) / len(codes)
    assert torch.allclose(pool_covariances(sums), pooled, rtol=0, atol=1e-6)


def test_dreams_have_the_marginals_and_correlations_of_their_class() -> None:
    sums, codes, y = sum_digits()
    drawn, classes = draw(sums, 40_000)
    assert drawn.dtype == torch.uint8
    assert drawn.shape == (40_000, 64)
    assert torch.bincount(classes).tolist() == [4_000] * 10
    for label in (1, 8):
        real, dreamt = codes[y == label].float(), drawn[classes == label].float()
        # A histogram gives the mean to within the noise of 4,000 draws.
        assert float((real.mean(0) - dreamt.mean(0)).abs().max()) < 3.0
        assert bool((dreamt.std(0)[real.std(0) == 0] == 0).all())
        varies = real.std(0) > 5
        gap = torch.corrcoef(real[:, varies].T) - torch.corrcoef(dreamt[:, varies].T)
        assert float(gap.abs().mean()) < 0.04
        # Values that never came in a place do not come in a dream.
        for place in (10, 20, 36):
            assert set(dreamt[:, place].tolist()) <= set(real[:, place].tolist())


def test_correlating_matters() -> None:
    """Dreams without correlations would fail the test above by far."""
    sums, codes, y = sum_digits()
    drawn, classes = draw(sums, 10_000)
    real, dreamt = codes[y == 0].float(), drawn[classes == 0].float()
    varies = real.std(0) > 5
    wanted = torch.corrcoef(real[:, varies].T)
    found = torch.corrcoef(dreamt[:, varies].T)
    alone = torch.eye(len(wanted))
    assert float((wanted - found).square().mean()) < 0.1 * float((wanted - alone).square().mean())


def test_the_same_seed_gives_the_same_dreams_in_whatever_order_examples_came() -> None:
    sums, codes, y = sum_digits(500)
    turned = ClassSums(64)
    for rows, labels in zip(codes.flip(0).split(7), y.flip(0).split(7), strict=True):
        turned.add(rows, labels)
    (one, _), (other, _) = draw(sums, 500), draw(turned, 500)
    assert torch.equal(one, other)
    assert not torch.equal(one, draw(sums, 500, seed=1)[0])


def test_no_dream_is_an_example() -> None:
    sums, codes, _ = sum_digits()
    drawn, _ = draw(sums, 2_000)
    stored = {bytes(row.numpy()) for row in codes}
    assert not any(bytes(row.numpy()) in stored for row in drawn)


def test_a_class_of_one_example_has_the_spread_of_all() -> None:
    sums, codes, _ = sum_digits()
    sums.add(codes[:1].clone(), torch.tensor([11]))  # and no example of class 10
    drawn, classes = draw(sums, 11_000)
    assert sorted(set(classes.tolist())) == [*range(10), 11]
    single = drawn[classes == 11].float()
    assert len(single) == 1_000
    pooled = pool_covariances(sums).diagonal().sqrt()
    inner = (codes[0] > 40) & (codes[0] < 90) & (pooled > 10)
    assert bool(inner.any())
    assert float((single.mean(0) - codes[0].float())[inner].abs().max()) < 6.0
    assert float((single.std(0)[inner] / pooled[inner] - 1).abs().max()) < 0.25


def test_classes_of_one_example_each_are_dreamt_as_they_were() -> None:
    sums = ClassSums(3)
    sums.add(torch.tensor([[1, 2, 3], [9, 9, 9]], dtype=torch.uint8), torch.tensor([0, 1]))
    drawn, classes = draw(sums, 5)
    assert classes.tolist() == [0, 0, 0, 1, 1]
    assert drawn.tolist() == [[1, 2, 3]] * 3 + [[9, 9, 9]] * 2


def test_a_root_of_what_is_no_correlation_matrix_has_diagonal_one() -> None:
    wrong = torch.tensor([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]])
    root = find_root(wrong)
    assert torch.allclose((root @ root.T).diagonal(), torch.ones(3))
    assert find_correlations(torch.zeros(2, 2)).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_nothing_to_dream_of_and_too_few_dreams_are_errors() -> None:
    with pytest.raises(NotFitted, match="nothing to dream of: no example was summed"):
        draw(ClassSums(3), 5)
    sums, _, _ = sum_digits()
    with pytest.raises(SettingError, match="9 dreams of 10 classes; 10 or more work"):
        draw(sums, 9)
