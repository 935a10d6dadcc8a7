"""Strength and degrees of freedom where features are too many to be decomposed."""

import pytest
import torch

from nestling.data import load_digits
from nestling.memory import RandomFeatures, RidgeMemory
from nestling.memory.exact import solve
from nestling.memory.exact.solve import MAX_DECOMPOSED, Solution, solve_ridge
from nestling.memory.exact.statistics import Statistics

NUM_FEATURES = 900


@pytest.fixture(scope="module", params=[60, 1200])
def stats(request: pytest.FixtureRequest) -> Statistics:
    x, y = load_digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: request.param]
    memory = RidgeMemory(64, num_outputs=10, features=RandomFeatures(64, NUM_FEATURES))
    memory.add(x[order], y[order])
    return memory.statistics


def solve_by_all(
    stats: Statistics, monkeypatch: pytest.MonkeyPatch, strength: float | None = None
) -> Solution:
    with monkeypatch.context() as patched:
        patched.setattr(solve, "MAX_DECOMPOSED", NUM_FEATURES)
        return solve_ridge(stats, strength)


def test_strength_of_some_features_stands_for_all(
    stats: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stats.num_features > MAX_DECOMPOSED
    found, wanted = solve_ridge(stats), solve_by_all(stats, monkeypatch)
    assert 0.5 < found.strength / wanted.strength < 2.0
    x, y = load_digits()
    features = RandomFeatures(64, NUM_FEATURES)(x)
    right = [
        ((features @ one.weights + one.intercept).argmax(1) == y).double().mean().item()
        for one in (found, wanted)
    ]
    assert right[0] == pytest.approx(right[1], abs=0.01)


def test_probed_freedom_is_near_the_exact_one(
    stats: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = solve_ridge(stats)
    exact = solve_by_all(stats, monkeypatch, found.strength)
    assert found.freedom == pytest.approx(exact.freedom, rel=0.04)
    assert torch.allclose(found.weights, exact.weights, rtol=1e-9, atol=1e-12)
    assert found.freedom == solve_ridge(stats).freedom  # its signs are fixed
