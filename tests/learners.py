"""Small models, data and comparisons for the tests of the learner."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

import nestling as nl


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_mlp(num_inputs: int = 4, num_outputs: int = 2, *, width: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(num_inputs, width), nn.ReLU(), nn.Linear(width, num_outputs))


def make_batch(seed: int = 0, num: int = 16, num_classes: int = 2) -> tuple[Tensor, Tensor]:
    """Inputs (N, 4) and classes that can be learned from them."""
    x = draw(num, 4, seed=seed)
    return x, (x[:, 0] > 0).long() if num_classes == 2 else x[:, :num_classes].argmax(1)


def read_answer(learner: nl.Learner, x: Any) -> Tensor:
    """Probabilities (N, K), or values (N, M)."""
    return learner.predict(x) if learner.task == "regression" else learner.predict_proba(x)


def read_state(learner: nl.Learner) -> dict[str, Any]:
    """All of a learner's state but the time that it took."""
    state = copy.deepcopy(learner.state_dict())
    return {key: value for key, value in state.items() if key != "seconds"}


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """Where two nested states differ in a bit; wall times do not count."""
    if where.endswith(".seconds"):
        return []
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        same = left.dtype == right.dtype and left.shape == right.shape
        wide = (left.nan_to_num(7.0), right.nan_to_num(7.0)) if same else (left, right)
        same = same and torch.equal(*wide) and torch.equal(left.isnan(), right.isnan())
        return [] if same else [where]
    if isinstance(left, dict) and isinstance(right, dict):
        if left.keys() != right.keys():
            return [f"{where}: {sorted(map(str, left.keys() ^ right.keys()))}"]
        return [d for key in left for d in differences(left[key], right[key], f"{where}.{key}")]
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) != len(right):
            return [f"{where}: length"]
        pairs = enumerate(zip(left, right, strict=True))
        return [d for index, (a, b) in pairs for d in differences(a, b, f"{where}[{index}]")]
    is_nan = left != left and right != right
    return [] if type(left) is type(right) and (left == right or is_nan) else [where]
