"""What a memory level reads: the model's input, or what flows through a named submodule."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.errors import DataError, PlanError, ShapeMismatch, suggest
from nestling.core.modes import eval_mode
from nestling.learn.batches import Batch


def find_last_linear(model: nn.Module) -> str:
    """The name of the last linear layer in the order of registration.

    Args:
        model: any module.

    Raises:
        PlanError: it has none.

    >>> find_last_linear(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)))
    '2'
    """
    names: list[str] = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear)
    ]
    if not names:
        raise PlanError(
            "the model has no linear layer whose input a memory could read; "
            "nl.Memory(..., on='input') or on='<submodule>' works"
        )
    return names[-1]


class FeatureReader:
    """Reads features for one memory level.

    Args:
        model: the live model.
        on: "input", a submodule's name for its output, or None for the input of the last
            linear layer.
        frozen: read a copy of the model as it is now, so that the features never change.

    Raises:
        PlanError: there is no such submodule; names the nearest.
    """

    def __init__(self, model: nn.Module, on: str | None, frozen: bool) -> None:
        self.on = on
        self.module: nn.Module | None = None
        self.tap, self._reads_input = "", False
        if on == "input":
            return
        self._reads_input = on is None
        self.tap = find_last_linear(model) if on is None else on
        known = [name for name, _ in model.named_modules() if name]
        if self.tap not in known:
            raise PlanError(
                f"memory reads submodule {on!r}, which the model does not have; "
                + suggest(self.tap, known)
            )
        self.module = copy.deepcopy(model).requires_grad_(False) if frozen else model
        self.is_frozen = frozen

    def describe(self) -> str:
        """What is read, in plain words.

        >>> FeatureReader(nn.Sequential(nn.Linear(2, 1)), None, frozen=True).describe()
        "the input of '0' of a frozen copy of the model"
        """
        if self.module is None:
            return "the model's input"
        side = "input" if self._reads_input else "output"
        whose = "a frozen copy of the model" if self.is_frozen else "the live model"
        return f"the {side} of {self.tap!r} of {whose}"

    @torch.no_grad()
    def read(self, batch: Batch) -> Tensor:
        """Features of a batch, as the model computes them in evaluation mode.

        Args:
            batch: N examples.

        Returns: (N, ...), detached.

        Raises:
            DataError: the input is not numeric features, or the submodule was not run.
        """
        if self.module is None:
            return _read_input(batch)
        found: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
            found.append(_first_tensor(inputs if self._reads_input else output).detach())

        handle = self.module.get_submodule(self.tap).register_forward_hook(keep)
        try:
            with eval_mode(self.module):
                batch.call(self.module)
        finally:
            handle.remove()
        if not found:
            raise DataError(f"submodule {self.tap!r} was not run in a forward pass; read another")
        return found[-1]

    def state_dict(self) -> dict[str, Tensor]:
        """The frozen copy's weights; empty where none is kept."""
        if self.module is None or not self.is_frozen:
            return {}
        return {name: value.clone() for name, value in self.module.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the frozen copy back."""
        if self.module is not None and self.is_frozen:
            self.module.load_state_dict(dict(state))


def align_features(features: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """One row per answer: a row per example, or per position of a sequence or dense target.

    Args:
        features: (N, ...), or (N, T, D) or (N, D, H, W) beside a target per position.
        target: (N,), (N, M), (N, T) or (N, H, W); None where only a prediction is asked.

    Returns: features (R, D) and the target (R,) or (R, M), positions with label -100 dropped.

    Raises:
        ShapeMismatch: the positions of both do not agree.

    >>> align_features(torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.long))[0].shape
    torch.Size([10, 3])
    """
    if target is None or target.ndim == 1 or target.is_floating_point():
        return features.reshape(len(features), math.prod(features.shape[1:])), target
    if features.shape[:-1] == target.shape:
        rows = features.reshape(-1, features.shape[-1])
    elif features.shape[:1] + features.shape[2:] == target.shape:
        rows = features.movedim(1, -1).reshape(-1, features.shape[1])
    else:
        raise ShapeMismatch(
            f"features of shape {tuple(features.shape)} give no row per position of a target of "
            f"shape {tuple(target.shape)}; let the memory read a submodule that does"
        )
    flat = target.reshape(-1)
    kept = flat >= 0
    return rows[kept], flat[kept]


def _read_input(batch: Batch) -> Tensor:
    first = next(iter(batch.features.values()))
    if not first.is_floating_point() and first.dtype != torch.uint8:
        raise DataError(
            f"a memory on 'input' needs numeric features, got {first.dtype} indices; "
            "nl.Memory(..., on=None) reads the last linear layer's input"
        )
    return first.detach()


def _first_tensor(value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    items = value if isinstance(value, tuple | list) else [getattr(value, "last_hidden_state", 0)]
    for item in items:
        if isinstance(item, Tensor):
            return item
    raise DataError(f"a submodule gave {type(value).__name__}, not a tensor; read another one")
