"""Slow twins: memories as their definitions read, from all examples, with numpy's solvers."""

import math

import numpy as np
import torch
from torch import Tensor

from nestling.memory.exact.solve import FREEDOM_CHARGE


def weigh_by_age(weight: Tensor, half_life: float) -> np.ndarray:
    """w_i 2^(-(N - 1 - i)/h), one example at a time."""
    last = len(weight) - 1
    return np.array(
        [float(w) * math.pow(2.0, -(last - i) / half_life) for i, w in enumerate(weight.double())]
    )


def centre_and_scale(phi: Tensor, weight: Tensor, aged: np.ndarray) -> tuple[np.ndarray, ...]:
    """Features about their aged mean, over their lifelong deviation; mean and deviation."""
    values, lifelong = phi.double().numpy(), weight.double().numpy()
    life_mean = np.average(values, axis=0, weights=lifelong)
    deviation = np.sqrt(np.average((values - life_mean) ** 2, axis=0, weights=lifelong))
    inverse = np.where(
        deviation > 1e-13 * np.abs(life_mean), 1.0 / np.maximum(deviation, 1e-300), 0
    )
    mean = np.average(values, axis=0, weights=aged)
    return (values - mean) * inverse, mean, inverse


def fit(
    phi: Tensor,
    y: Tensor,
    strength: float,
    half_life: float = math.inf,
    weight: Tensor | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and intercept by least squares on rows sqrt(w) z and sqrt(n lambda) I."""
    weight = torch.ones(len(phi)) if weight is None else weight
    aged = weigh_by_age(weight, half_life)
    z, mean, inverse = centre_and_scale(phi, weight, aged)
    targets = y.double().numpy()
    target_mean = np.average(targets, axis=0, weights=aged)
    root = np.sqrt(aged)[:, None]
    penalty = math.sqrt(aged.sum() * strength) * np.eye(z.shape[1])
    rows = np.vstack([root * z, penalty])
    wanted = np.vstack([root * (targets - target_mean), np.zeros((z.shape[1], targets.shape[1]))])
    solved = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    weights = solved * inverse[:, None]
    return weights, target_mean - mean @ weights


def cross_validate(phi: Tensor, y: Tensor, strength: float, half_life: float = math.inf) -> float:
    """The generalised cross-validation score, with the hat matrix written out."""
    weight = torch.ones(len(phi))
    aged = weigh_by_age(weight, half_life)
    z, _, _ = centre_and_scale(phi, weight, aged)
    targets = y.double().numpy()
    targets = targets - np.average(targets, axis=0, weights=aged)
    root = np.sqrt(aged)[:, None]
    rows, wanted, n = root * z, root * targets, aged.sum()
    hat = rows @ np.linalg.solve(rows.T @ rows + n * strength * np.eye(z.shape[1]), rows.T)
    freedom = 1.0 + np.trace(hat)
    num_effective = n**2 / (aged**2).sum()
    residual = ((wanted - hat @ wanted) ** 2).sum() / n
    room = 1.0 - FREEDOM_CHARGE * freedom / num_effective
    return float(residual / room**2) if room > 0 else math.inf
