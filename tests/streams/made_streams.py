"""Streams that grow in mid-course, and how two learners are compared bit for bit."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import torch

import nestling as nl

Example = tuple[dict[Any, Any], Any]
Learner = nl.StreamClassifier | nl.StreamRegressor


def make_growing(num_events: int = 150, seed: int = 0) -> list[Example]:
    """Events whose columns, categories and classes appear one after the other."""
    generator = np.random.default_rng(seed)
    examples: list[Example] = []
    for n in range(num_events):
        size, width = generator.normal(size=2).tolist()
        x: dict[Any, Any] = {"size": size, "color": ["red", "blue", "green"][min(n // 15, n % 3)]}
        if n % 7:
            x["width"] = width
        if n >= 20:
            x["paid"] = datetime(2024, 1, 1) + timedelta(hours=13 * n)
        if n >= 50:
            x["late"] = 1e7 + n
        if n >= 90 and n % 2:
            x[f"kind {n // 40}"] = f"v{n % 5}"
        known = ["up", "down", 3, True][: 1 + (n >= 4) + (n >= 60) + (n >= 110)]
        examples.append((x, known[int(abs(2 * size)) % len(known)]))
    return examples


def make_values(num_events: int = 150, seed: int = 0) -> list[Example]:
    """The same events with numbers as targets."""
    examples = make_growing(num_events, seed)
    return [(x, 50.0 + 3.0 * x["size"] + n % 4) for n, (x, _) in enumerate(examples)]


def make_learner(*, values: bool = False, seed: int = 0, **arguments: Any) -> Learner:
    """A new learner of classes, or of values."""
    kind = nl.StreamRegressor if values else nl.StreamClassifier
    return kind(seed=seed, **arguments)


def make_either(num_events: int = 150, *, values: bool = False, seed: int = 0) -> list[Example]:
    """Examples for `make_learner`."""
    return make_values(num_events, seed) if values else make_growing(num_events, seed)


def learn_all(learner: Learner, examples: list[Example]) -> None:
    """Learn one after the other."""
    for x, y in examples:
        learner.learn_one(x, y=y)


def flatten(state: Any, path: str = "") -> dict[str, Any]:
    """Leaves of a state by their paths; tensors as bytes."""
    if isinstance(state, torch.Tensor):
        return {path: (str(state.dtype), tuple(state.shape), state.numpy().tobytes())}
    if isinstance(state, dict):
        found = {f"{path}/": tuple(map(str, state))}
        for name, value in state.items():
            found |= flatten(value, f"{path}/{name}")
        return found
    if isinstance(state, list | tuple):
        found = {f"{path}[]": len(state)}
        for at, value in enumerate(state):
            found |= flatten(value, f"{path}/{at}")
        return found
    return {path: (type(state).__name__, repr(state))}


def assert_same(one: Learner, other: Learner) -> None:
    """The whole states are the same, to the bit."""
    first, second = flatten(one.state_dict()), flatten(other.state_dict())
    assert [name for name in first if first[name] != second.get(name)] == []
    assert first.keys() == second.keys()
    assert one.levels.digests() == other.levels.digests()


def assert_finite(learner: Learner) -> None:
    """No array of the state holds NaN or infinity."""
    parts = learner.state_dict()["run"]["pool"]["parts"]
    spoilt = [
        f"{name}.{key}"
        for name, part in parts.items()
        for key, tensor in part.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    assert spoilt == []
