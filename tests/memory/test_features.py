import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import SettingError, ShapeMismatch
from nestling.memory import RandomFeatures


def test_equal_seeds_give_equal_features_and_others_do_not() -> None:
    x = torch.randn(5, 7)
    assert torch.equal(RandomFeatures(7, 9, seed=1)(x), RandomFeatures(7, 9, seed=1)(x))
    assert not torch.equal(RandomFeatures(7, 9, seed=1)(x), RandomFeatures(7, 9, seed=2)(x))
    assert RandomFeatures(7, 9, seed=1) == RandomFeatures(7, 9, seed=1)
    assert RandomFeatures(7, 9, seed=1) != RandomFeatures(7, 9, seed=1, scale=2.0)


def test_drawing_them_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    RandomFeatures(7, 9, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@given(st.floats(1e-6, 1e6))
def test_relu_features_are_positively_homogeneous(factor: float) -> None:
    features = RandomFeatures(4, 20, seed=0)
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(features(factor * x), factor * features(x))


def test_fourier_features_approach_the_gaussian_kernel() -> None:
    scale = 0.7
    features = RandomFeatures(3, 40_000, kind="fourier", seed=0, scale=scale)
    x = torch.randn(6, 3, dtype=torch.float64)
    phi = features(x)
    bandwidth = math.sqrt(3) / scale
    wanted = torch.exp(-torch.cdist(x, x).square() / (2.0 * bandwidth**2))
    assert float((phi @ phi.T - wanted).abs().max()) < 0.03


def test_products_approach_the_squared_inner_product() -> None:
    features = RandomFeatures(3, 200_000, kind="product", seed=0, scale=0.5)
    x = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1)
    phi = features(x)
    wanted = (x @ x.T / 4 / 3).square()
    assert float((phi @ phi.T / 200_000 - wanted).abs().max()) < 0.002


def test_relu_features_approach_the_arc_cosine_kernel() -> None:
    features = RandomFeatures(3, 100_000, seed=0)
    x = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1)
    phi = features(x)
    angle = (x @ x.T).clamp(-1, 1).acos()
    wanted = (angle.sin() + (math.pi - angle) * angle.cos()) / (2 * math.pi)
    assert float((phi @ phi.T * 3 / 100_000 - wanted).abs().max()) < 0.01


def test_passthrough_scale_and_width() -> None:
    scale = torch.tensor([1.0, 0.0])
    features = RandomFeatures(2, 5, passthrough=True, scale=scale)
    x = torch.tensor([[1.0, 2.0], [1.0, -9.0]])
    phi = features(x)
    assert phi.shape == (2, features.num_outputs) == (2, 7)
    assert phi.dtype == torch.float64
    assert torch.equal(phi[:, :2], x.double())
    assert torch.equal(phi[0, 2:], phi[1, 2:])  # the second input counts for nothing


def test_blocks_of_any_shape_agree() -> None:
    features = RandomFeatures(50, 200, seed=0)
    x = torch.randn(100, 50)
    rows = torch.cat([features(row[None]) for row in x])
    torch.testing.assert_close(features(x), rows, rtol=1e-12, atol=1e-12)


def test_wrong_use_is_named() -> None:
    with pytest.raises(SettingError, match="'relu'"):
        RandomFeatures(2, 5, kind="rel")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="nothing"):
        RandomFeatures(2, 0)
    with pytest.raises(SettingError, match="scale"):
        RandomFeatures(2, 5, scale=math.nan)
    with pytest.raises(ShapeMismatch, match=r"\(N, 2\)"):
        RandomFeatures(2, 5)(torch.zeros(3, 4))
