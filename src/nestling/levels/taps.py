"""What a memory level reads: the model's input, or what flows through a named submodule."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch, read_output
from nestling.core.errors import DataError, SettingError, ShapeMismatch, suggest
from nestling.core.heads import find_head
from nestling.core.modes import copy_module, eval_mode
from nestling.levels.spec import INPUT_OF

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Numbers that are left of feature maps.
MAX_POOLED = 512
# Channels, height, width.
ImageSize = tuple[int, int, int]
_REMEDY = "nl.Memory(..., on='input') or on='<submodule>' works"


def find_early_layer(model: nn.Module) -> str | None:
    """The name of a layer whose input is an early activation that tells what the last may not.

    It is the first linear layer behind all convolutions, if it is not the last one; else the
    convolution in the middle. None for models of tokens or sequences (embeddings, attention,
    recurrence): there, a row of an early activation says little of the whole.

    >>> find_early_layer(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)))
    '0'
    """
    sequential = (nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention, nn.RNNBase)
    if any(isinstance(module, sequential) for module in model.modules()):
        return None
    layers: list[tuple[str, nn.Module]] = [
        (n, m) for n, m in model.named_modules() if isinstance(m, (nn.Linear, *_CONV))
    ]
    convolutions = [i for i, (_, module) in enumerate(layers) if isinstance(module, _CONV)]
    linear = [name for name, _ in layers[convolutions[-1] + 1 if convolutions else 0 :]]
    if len(linear) > 1:
        return linear[0]
    if len(convolutions) > 1:
        return layers[convolutions[len(convolutions) // 2]][0]
    return None


@dataclass(frozen=True)
class Tap:
    """A place in a model where features are read.

    Args:
        name: of a submodule.
        side: what goes into it, or what comes out.
        pools: what is done with positions where the answer is one per example: nothing; the mean
            over all of them, features being last ("mean"); or means over a grid, features being
            second ("grid"), see `pool_grid`.
    """

    name: str
    side: Literal["input", "output"]
    pools: Literal["mean", "grid"] | None = None

    def __str__(self) -> str:
        return f"the {self.side} of {self.name!r}"


def pool_grid(maps: Tensor) -> Tensor:
    """Means of feature maps over a coarse grid: (N, C, L), (N, C, H, W) or deeper -> (N, G).

    The grid has 4 places a side, or fewer, so that at most 512 numbers are left if C allows it.

    >>> pool_grid(torch.zeros(2, 32, 14, 14)).shape, pool_grid(torch.zeros(2, 64, 14, 14)).shape
    (torch.Size([2, 512]), torch.Size([2, 256]))
    """
    num_sides = maps.ndim - 2
    if num_sides == 0:
        return maps
    most = int((MAX_POOLED / maps.shape[1]) ** (1.0 / num_sides) + 1e-9)
    places = [max(1, min(4, most, length)) for length in maps.shape[2:]]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[num_sides - 1]
    pooled: Tensor = pool(tuple(places))(maps)
    return pooled.flatten(1)


def read_taps(
    module: nn.Module | None, taps: Sequence[Tap | None], batch: Batch
) -> tuple[list[Tensor], Tensor | None]:
    """Run a model once and read what goes into or comes out of some of its submodules.

    The only place where a submodule is listened to: for as long as the call lasts, and to this
    thread's own pass, so that several may ask one model at once. torch.export traces it.

    Args:
        module: the model, in the modes that the caller wants; None where no tap needs one.
        taps: where to read; None for the model's input.
        batch: N examples.

    Returns: what was read at each place, (N, ...), and what the model answered; None if none was
        run.

    Raises:
        DataError: the input is not numeric features, or a submodule was not run.
    """
    if module is None:
        return [_read_input(batch) for _ in taps], None
    found: dict[int, Tensor] = {}
    handles = [
        module.get_submodule(tap.name).register_forward_hook(_keep(found, index, tap))
        for index, tap in enumerate(taps)
        if tap is not None
    ]
    try:
        output = read_output(batch.call(module))
    finally:
        for handle in handles:
            handle.remove()
    return _list_views(found, taps, batch), output


class StandingTaps:
    """Taps that stay on a module, which any number of threads may run at once.

    To listen for as long as one call lasts, as `read_taps` does, changes the module.

    Args:
        module: listened to from now on; in the modes that answers want.
        taps: where to read; None for the model's input.
    """

    def __init__(self, module: nn.Module, taps: Sequence[Tap | None]) -> None:
        self.module, self.taps = module, tuple(taps)
        self._heard = threading.local()  # of each thread's own pass
        for index, tap in enumerate(self.taps):
            if tap is not None:
                module.get_submodule(tap.name).register_forward_hook(self._keep(index, tap))

    def read(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """What is read at each place, (N, ...), and what the module answers; as `read_taps`."""
        found: dict[int, Tensor] = {}
        self._heard.found = found
        try:
            output = read_output(batch.call(self.module))
        finally:
            self._heard.found = None
        return _list_views(found, self.taps, batch), output

    def _keep(self, index: int, tap: Tap) -> Callable[..., None]:
        heard = self._heard

        def keep(_: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
            found: dict[int, Tensor] | None = getattr(heard, "found", None)
            if found is not None:
                found[index] = _first_tensor(inputs if tap.side == "input" else output)

        return keep


def _list_views(
    found: Mapping[int, Tensor], taps: Sequence[Tap | None], batch: Batch
) -> list[Tensor]:
    """What was read at each place; the batch's input where that is read."""
    for index, tap in enumerate(taps):
        if tap is not None and index not in found:
            raise DataError(f"submodule {tap.name!r} was not run in a forward pass; read another")
    return [_read_input(batch) if tap is None else found[i] for i, tap in enumerate(taps)]


def align_views(
    views: Sequence[Tensor], taps: Sequence[Tap | None], target: Tensor | None
) -> list[Tensor]:
    """What `read_taps` read, a row per answer: (R, D) of each place; see `align_features`.

    Raises:
        ShapeMismatch: places give different numbers of rows.
    """
    rows = [
        align_features(fit_positions(view, tap, target), target)[0]
        for view, tap in zip(views, taps, strict=True)
    ]
    for row, tap in zip(rows, taps, strict=True):
        if row.shape[0] != rows[-1].shape[0]:
            raise ShapeMismatch(
                f"{tap or 'the model input'} gives {row.shape[0]} rows and {taps[-1]} "
                f"{rows[-1].shape[0]}; read places that give as many"
            )
    return rows


def find_image_size(views: Sequence[Tensor], rows: Sequence[Tensor]) -> ImageSize | None:
    """The shape (C, H, W) of what is read if that is one picture per row; None if it is not."""
    if len(views) != 1 or views[0].ndim != 4 or len(rows[0]) != len(views[0]):
        return None
    _, channels, height, width = views[0].shape
    return channels, height, width


class FeatureReader:
    """Reads features for one memory level.

    Args:
        model: the live model.
        reads: names, see `nestling.levels.Memory.on`: "input", a submodule's name for its output,
            "input of NAME" for its input, or None for the input of the last linear layer.
        frozen: read a copy of the model as it is now, so that the features never change.

    Raises:
        SettingError: there is no such submodule; names the nearest.
    """

    def __init__(self, model: nn.Module, reads: Sequence[str | None], frozen: bool) -> None:
        # None stands for the model's input.
        self.taps = [None if one == "input" else _find_tap(model, one) for one in reads]
        self.module: nn.Module | None = None
        self.is_frozen = frozen
        if any(self.taps):
            self.module = copy_module(model).requires_grad_(False) if frozen else model

    def describe(self) -> str:
        """What is read, in plain words.

        >>> FeatureReader(nn.Sequential(nn.Linear(2, 1)), [None], frozen=True).describe()
        "the input of '0' of a frozen copy of the model"
        """
        parts = ["the model's input" if tap is None else str(tap) for tap in self.taps]
        read = " and ".join(parts)
        if self.module is None:
            return read
        return f"{read} of {'a frozen copy of the model' if self.is_frozen else 'the live model'}"

    @torch.no_grad()
    def read(self, batch: Batch) -> tuple[list[Tensor], Tensor | None]:
        """Features of a batch, as the model computes them in evaluation mode.

        Args:
            batch: N examples.

        Returns: what was read at each place, (N, ...), detached; and what the module answered,
            None if none was run.

        Raises:
            DataError: the input is not numeric features, or a submodule was not run.
        """
        with nullcontext() if self.module is None else eval_mode(self.module):
            views, output = read_taps(self.module, self.taps, batch)
        return [view.detach() for view in views], output

    def read_rows(
        self, batch: Batch, target: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None, ImageSize | None]:
        """As `read`, a row per answer: (R, D) of each place, see `align_features`; and the shape of
        what is read if that is one picture (C, H, W) per row."""
        views, output = self.read(batch)
        rows = align_views(views, self.taps, target)
        return rows, output, find_image_size(views, rows)

    def state_dict(self) -> dict[str, Tensor]:
        """The frozen copy's weights; empty where none is kept."""
        if self.module is None or not self.is_frozen:
            return {}
        return {name: value.clone() for name, value in self.module.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the frozen copy back, in tensors of its own: who holds the old ones keeps them."""
        if self.module is not None and self.is_frozen:
            own = self.module.state_dict()
            copied = {
                name: value.to(own[name].device, own[name].dtype, copy=True)
                if name in own
                else value
                for name, value in state.items()
            }
            self.module.load_state_dict(copied, assign=True)


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
        return features.reshape(features.shape[0], math.prod(features.shape[1:])), target
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


def _find_tap(model: nn.Module, read: str | None) -> Tap:
    if read is None:
        return Tap(find_head(model, _REMEDY), "input")
    name = read.removeprefix(INPUT_OF)
    found = find_submodule(model, name, read)
    if name == read:
        return Tap(name, "output")
    return Tap(name, "input", "grid" if isinstance(found, _CONV) else "mean")


def find_submodule(model: nn.Module, name: str, read: str) -> nn.Module:
    """The submodule of a name, for a memory that reads it; SettingError with the nearest names."""
    known: dict[str, nn.Module] = dict(model.named_modules())
    if not name or name not in known:
        raise SettingError(
            f"memory reads submodule {read!r}, which the model does not have; "
            + suggest(name, filter(None, known))
        )
    return known[name]


def _keep(found: dict[int, Tensor], index: int, tap: Tap) -> Callable[..., None]:
    thread = threading.get_ident()

    def keep(_: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        if threading.get_ident() == thread:
            found[index] = _first_tensor(inputs if tap.side == "input" else output)

    return keep


def fit_positions(features: Tensor, tap: Tap | None, target: Tensor | None) -> Tensor:
    """Bring what a tap reads to a target that is one per example, or one per position."""
    if tap is None or tap.pools is None or features.ndim < 2:
        return features
    if target is None or target.ndim == 1 or target.is_floating_point():
        if tap.pools == "grid":
            return pool_grid(features)
        return features.flatten(1, -2).mean(dim=1) if features.ndim > 2 else features
    if features.ndim > 2:
        return features
    wide = features.reshape(len(features), *(1,) * (target.ndim - 1), -1)
    return wide.expand(*target.shape, features.shape[-1])


def _read_input(batch: Batch) -> Tensor:
    # Of keyword inputs the first by name: in which order they came means nothing.
    inputs = list(batch.inputs[:1]) or [batch.keywords[name] for name in sorted(batch.keywords)]
    first: Tensor = next((x for x in inputs if x.is_floating_point()), inputs[0])
    if not first.is_floating_point() and first.dtype != torch.uint8:
        raise DataError(
            f"a memory on 'input' needs numeric features, got {first.dtype} indices; "
            "nl.Memory(..., on=None) reads the last linear layer's input"
        )
    return first


def _first_tensor(value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    items = value if isinstance(value, tuple | list) else [getattr(value, "last_hidden_state", 0)]
    for item in items:
        if isinstance(item, Tensor):
            return item
    raise DataError(f"a submodule gave {type(value).__name__}, not a tensor; read another one")
