"""Networks of streams against torch's own gradients, SGD and AdamW."""

import numpy as np
import pytest
import torch
from torch import nn

from nestling.streams.experts.expert_arrays import grow_network, make_adam_network, make_network
from nestling.streams.kernels.network import (
    answer_linear,
    answer_network,
    follow_square,
    learn_by_adamw,
    learn_by_sgd,
    learn_linear,
    softmax_into,
)

NUM_INPUTS, NUM_CLASSES, UNITS = 5, 3, 64


def make_twin(weights: np.ndarray) -> nn.Sequential:
    """The same network of torch, from one vector [W1, b1, W2, b2, W3, b3]."""
    twin = nn.Sequential(
        nn.Linear(NUM_INPUTS, UNITS),
        nn.ReLU(),
        nn.Linear(UNITS, UNITS),
        nn.ReLU(),
        nn.Linear(UNITS, NUM_CLASSES),
    )
    nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), twin.parameters())
    return twin


def make_weights(seed: int = 0, *, all_active: bool = False) -> np.ndarray:
    """Weights, the last layer's included; with `all_active` no unit is ever silent."""
    weights = make_network(NUM_INPUTS, NUM_CLASSES, seed)["weights"]
    generator = np.random.default_rng(seed)
    last = NUM_CLASSES * (UNITS + 1)
    weights[-last:] = generator.normal(size=last) / 8
    if all_active:
        biases = slice(UNITS * NUM_INPUTS, UNITS * (NUM_INPUTS + 1))
        weights[biases] = 5.0
        start = UNITS * (NUM_INPUTS + 1)
        second = slice(start, start + UNITS * UNITS)
        weights[second] = np.abs(weights[second])
    return weights


def read(twin: nn.Sequential) -> np.ndarray:
    return nn.utils.parameters_to_vector(twin.parameters()).detach().numpy()


def answer(weights: np.ndarray, x: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    rooms = tuple(np.zeros(n, np.float32) for n in (UNITS, UNITS, NUM_INPUTS))
    z = np.zeros(NUM_CLASSES)
    answer_network(weights, *rooms, x, z)
    return rooms, z


def make_error(z: np.ndarray, label: int) -> np.ndarray:
    p = np.zeros(NUM_CLASSES)
    softmax_into(z, p)
    p[label] -= 1.0
    return p.astype(np.float32)


def test_answers_and_steps_of_sgd_are_those_of_torch() -> None:
    weights = make_weights()
    twin = make_twin(weights)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    generator = np.random.default_rng(1)
    for n in range(200):
        x, label = generator.normal(size=NUM_INPUTS), n % NUM_CLASSES
        rooms, z = answer(weights, x)
        z_twin = twin(torch.from_numpy(x).float())
        np.testing.assert_allclose(z, z_twin.detach(), atol=2e-5)
        learn_by_sgd(weights, *rooms, make_error(z, label), 0.05)
        optimizer.zero_grad()
        nn.functional.cross_entropy(z_twin, torch.tensor(label)).backward()
        optimizer.step()
        np.testing.assert_allclose(weights, read(twin), atol=2e-5)


def test_steps_of_adamw_are_those_of_torch_where_no_unit_is_silent() -> None:
    weights = make_weights(all_active=True)
    twin = make_twin(weights)
    groups = [
        {"params": [p for p in twin.parameters() if p.ndim == 2], "weight_decay": 0.01},
        {"params": [p for p in twin.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    arrays = make_adam_network(NUM_INPUTS, NUM_CLASSES, 0)
    generator = np.random.default_rng(1)
    for n in range(60):
        x, label = generator.uniform(-0.5, 0.5, NUM_INPUTS), n % NUM_CLASSES
        rooms, z = answer(weights, x)
        assert (rooms[0] > 0).all()
        assert (rooms[1] > 0).all()
        error = make_error(z, label)
        learn_by_adamw(weights, *rooms, arrays["moments"], arrays["faded"], error, 1e-3, 0.01)
        z_twin = twin(torch.from_numpy(x).float())
        optimizer.zero_grad()
        nn.functional.cross_entropy(z_twin, torch.tensor(label)).backward()
        optimizer.step()
        # Where a gradient is about zero, the sign of a step of AdamW hangs on rounding.
        away = np.abs(weights - read(twin))
        assert np.quantile(away, 0.99) < 1e-4
        assert away.max() < 2e-3 * (n + 1)


def test_rows_of_silent_units_do_not_move() -> None:
    """Torch's AdamW would decay them, and move them by what their moments remember."""
    weights = make_weights()
    arrays = make_adam_network(NUM_INPUTS, NUM_CLASSES, 0)
    generator = np.random.default_rng(1)
    silent_seen = 0
    for n in range(40):
        before = weights.copy()
        rooms, z = answer(weights, generator.normal(size=NUM_INPUTS))
        faded = arrays["faded"].copy()
        error = make_error(z, n % NUM_CLASSES)
        learn_by_adamw(weights, *rooms, arrays["moments"], arrays["faded"], error, 1e-3, 0.01)
        first = slice(0, UNITS * NUM_INPUTS)
        moved = (weights[first] != before[first]).reshape(UNITS, NUM_INPUTS)
        silent = rooms[0] == 0.0
        silent_seen += silent.sum()
        assert not moved[silent].any()
        assert moved[~silent].any(axis=1).mean() > 0.9
        still = arrays["faded"][:, :UNITS] == faded[:, :UNITS]
        assert still[:, silent].all()
    assert silent_seen > 100


def test_softmax_regression_is_that_of_torch() -> None:
    weights = np.zeros((NUM_CLASSES, NUM_INPUTS + 1))
    twin = torch.zeros(NUM_CLASSES, NUM_INPUTS + 1, dtype=torch.float64, requires_grad=True)
    generator = np.random.default_rng(1)
    for n in range(100):
        x, label = 6.0 * generator.normal(size=NUM_INPUTS), n % NUM_CLASSES
        z = np.zeros(NUM_CLASSES)
        answer_linear(weights, x, z)
        z_twin = twin @ torch.tensor([*x, 1.0], dtype=torch.float64)
        np.testing.assert_allclose(z, z_twin.detach(), atol=1e-6)
        learn_linear(weights, x, make_error(z, label), 0.01)
        (slope,) = torch.autograd.grad(
            nn.functional.cross_entropy(z_twin, torch.tensor(label)), [twin]
        )
        with torch.no_grad():
            twin -= 0.01 / max(1.0, float(x @ x) / 64.0) * slope
        np.testing.assert_allclose(weights, twin.detach(), atol=1e-6)


def test_large_inputs_get_smaller_steps() -> None:
    square = np.zeros(1)
    squares = np.random.default_rng(0).uniform(100.0, 300.0, 50)
    for n, size in enumerate(squares):
        x = np.full(4, np.sqrt(size / 4), np.float32)
        found = follow_square(square, x, n)
        assert found == pytest.approx(min(1.0, 64.0 / squares[: n + 1].mean()), rel=1e-5)


@pytest.mark.parametrize("make", [make_network, make_adam_network])
def test_a_network_that_grows_answers_as_before(make: object) -> None:
    arrays = make(NUM_INPUTS, NUM_CLASSES, 0)
    arrays["weights"][:] = make_weights()
    if "faded" in arrays:
        arrays["faded"] *= 0.5
    places = np.array([0, 1, 3, 4, 6])
    grown = grow_network(arrays, places, 7, NUM_CLASSES + 1, 0)
    x = np.random.default_rng(0).normal(size=NUM_INPUTS)
    wide = np.zeros(7)
    wide[places] = x
    rooms = tuple(np.zeros(n, np.float32) for n in (UNITS, UNITS, 7))
    z = np.zeros(NUM_CLASSES + 1)
    answer_network(grown["weights"], *rooms, wide, z)
    np.testing.assert_allclose(z[:NUM_CLASSES], answer(arrays["weights"], x)[1], atol=1e-6)
    assert z[NUM_CLASSES] == 0.0
    if "faded" in grown:
        grown_faded, kept = grown["faded"], arrays["faded"].shape[1]
        np.testing.assert_array_equal(grown_faded[:, :kept], arrays["faded"])
        assert (grown_faded[:, kept:] == 1.0).all()  # a unit that comes has no moment yet
    assert {name: values.dtype for name, values in grown.items()} == {
        name: values.dtype for name, values in arrays.items()
    }
