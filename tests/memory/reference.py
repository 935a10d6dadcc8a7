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


class SlowMixture:
    """The gate of class answers as its docstring reads, one example at a time, in plain Python.

    Args:
        start: first weights per zone and expert.
        tempers: per zone.
        switch_rate: of the share over experts.
    """

    # Rates, least log-probability, doubts of experts and ways, switch rate of ways.
    CONSTANTS = ((0.002, 0.008, 0.03), -7.0, 0.1, 0.01, 0.002)

    def __init__(
        self, start: list[list[float]], tempers: tuple[float, ...], switch_rate: float
    ) -> None:
        self.tempers, self.switch_rate = tempers, switch_rate
        self.speaks = [[w > 0.0 for w in row] for row in start]
        floored = [[max(w, 1e-3) if w > 0.0 else 0.0 for w in row] for row in start]
        self.prior = [[w / sum(row) for w in row] for row in floored]
        self.mixers = [[list(row) for row in start] for _ in self.CONSTANTS[0]]
        self.share = [list(row) for row in self.prior]
        self.top = [0.25] * 4

    def pool(self, answers: list[list[float]], zones: list[float]) -> list[list[float]]:
        """Every way to mix: probabilities per way and class."""
        E, K = len(answers), len(answers[0])
        ways = []
        for mixer in self.mixers:
            blended = [
                sum(z * row[e] for z, row in zip(zones, mixer, strict=True)) for e in range(E)
            ]
            scores = [
                math.exp(sum(blended[e] * self.log(answers[e][k]) for e in range(E)))
                if any(answers[e][k] > 0 for e in range(E))
                else 0.0
                for k in range(K)
            ]
            ways.append([score / sum(scores) for score in scores])
        shares = [
            sum(z * row[e] for z, row in zip(zones, self.share, strict=True)) for e in range(E)
        ]
        ways.append([sum(shares[e] * answers[e][k] for e in range(E)) for k in range(K)])
        return ways

    def log(self, probability: float) -> float:
        """ln p, never under the floor."""
        return max(math.log(max(probability, 1e-300)), self.CONSTANTS[1])

    def observe(
        self,
        answers: list[list[float]],
        label: int,
        zones: list[float],
        present: list[bool] | None,
        heard: float,
    ) -> None:
        """Hear of one example."""
        if heard == 0.0:
            return
        rates, _, doubt, top_doubt, top_switch = self.CONSTANTS
        E, K = len(answers), len(answers[0])
        allowed = [k for k in range(K) if present is None or present[k] or k == label]
        ways = [restrict(way, allowed) for way in self.pool(answers, zones)]
        own = [restrict(one, allowed)[label] for one in answers]
        losses = [-math.log((1 - doubt) * p + doubt / len(allowed)) for p in own]
        top = [-math.log((1 - top_doubt) * q[label] + top_doubt / len(allowed)) for q in ways]
        scales = [z * t * heard for z, t in zip(zones, self.tempers, strict=True)]
        for r, rate in enumerate(rates):
            for e in range(E):
                mean = sum(ways[r][k] * self.log(answers[e][k]) for k in range(K))
                gained = self.log(answers[e][label]) - mean
                for z, scale in enumerate(scales):
                    moved = self.mixers[r][z][e] + rate * scale * gained
                    self.mixers[r][z][e] = max(moved, 0.0) if self.speaks[z][e] else 0.0
        for z, scale in enumerate(scales):
            self.share[z] = share(self.share[z], losses, scale, self.switch_rate, self.prior[z])
        self.top = share(self.top, top, sum(scales), top_switch, [0.25] * 4)


def restrict(probabilities: list[float], allowed: list[int]) -> list[float]:
    """p(c | c is allowed); even where nothing is left."""
    total = sum(probabilities[k] for k in allowed)
    if total <= 1e-12:
        return [1.0 / len(allowed) if k in allowed else 0.0 for k in range(len(probabilities))]
    return [p / total if k in allowed else 0.0 for k, p in enumerate(probabilities)]


def share(
    weights: list[float], losses: list[float], scale: float, switch_rate: float, prior: list[float]
) -> list[float]:
    """One trial of a fixed share that returns to a prior."""
    joint = [w * math.exp(-scale * loss) for w, loss in zip(weights, losses, strict=True)]
    stays = (1.0 - switch_rate) ** scale
    return [stays * w / sum(joint) + (1.0 - stays) * p for w, p in zip(joint, prior, strict=True)]
