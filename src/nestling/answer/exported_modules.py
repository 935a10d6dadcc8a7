"""One plain module that answers as the learner does, for torch.export, ONNX and safetensors.

Axis letters: N examples, I inputs, F features, D random features, K classes or outputs.
"""

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nestling.core.batches import Batch
from nestling.core.errors import MissingExtra, ShapeMismatch
from nestling.core.modes import copy_module
from nestling.levels.low_rank import strip_parametrization
from nestling.levels.taps import Tap, align_views, find_submodule, read_taps
from nestling.memory import JoinedFeatures, RandomFeatures
from nestling.memory.features import Draws, join_maps, map_randomly
from nestling.memory.prequential import answer_linearly


class RandomMap(nn.Module):
    """`nestling.memory.RandomFeatures` as a module: what it draws are buffers.

    Args:
        features: left untouched.
    """

    def __init__(self, features: RandomFeatures) -> None:
        super().__init__()
        self.kind, self.passthrough = features.kind, features.passthrough
        weights, partners, phases = features.draws
        self.weights: Tensor
        self.partners: Tensor | None
        self.phases: Tensor
        self.register_buffer("weights", weights.clone())
        self.register_buffer("partners", None if partners is None else partners.clone())
        self.register_buffer("phases", phases.clone())

    def forward(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, D), in the dtype of what was drawn."""
        draws = Draws(self.weights, self.partners, self.phases)
        wide = x.to(self.weights.dtype)
        return map_randomly(wide, draws, self.kind, passthrough=self.passthrough)


class JoinedMap(nn.Module):
    """`nestling.memory.JoinedFeatures` as a module.

    Args:
        features: left untouched.
    """

    def __init__(self, features: JoinedFeatures) -> None:
        super().__init__()
        self.maps = nn.ModuleList(RandomMap(part) for part in features.parts)
        self.widths = [part.num_inputs for part in features.parts]

    def forward(self, x: Tensor) -> Tensor:
        """(N, sum I_i) -> (N, sum D_i)."""
        return join_maps(x, self.maps, self.widths)


class RidgeHead(nn.Module):
    """A solved ridge memory: one affine map of features, see `answer_linearly`.

    Centring and scaling of the features, and calibration, are folded into both. A class that was
    never seen has an offset of -inf and so probability 0; a constant answer has no weights and
    offset log p.

    Args:
        weights_DK: (D, K).
        offset_K: (K,).
        classifies: whether it gives probabilities.

    Raises:
        ShapeMismatch: both differ in K.
    """

    def __init__(self, weights_DK: Tensor, offset_K: Tensor, *, classifies: bool = True) -> None:
        super().__init__()
        if weights_DK.shape[1:] != offset_K.shape:
            raise ShapeMismatch(
                f"weights {tuple(weights_DK.shape)} need an offset of shape "
                f"{tuple(weights_DK.shape[1:])}, not {tuple(offset_K.shape)}"
            )
        self.classifies = classifies
        self.weights: Tensor
        self.offset: Tensor
        self.register_buffer("weights", weights_DK.detach().clone())
        self.register_buffer("offset", offset_K.detach().clone())

    def forward(self, phi: Tensor) -> Tensor:
        """(N, D) -> probabilities or values (N, K), in the dtype of the weights."""
        wide = phi.to(self.weights.dtype)
        return answer_linearly(wide, self.weights, self.offset, classifies=self.classifies)


class FeatureTap(nn.Module):
    """What a memory reads, and the answer of the model that was run for it.

    Args:
        model: kept, not copied; None where only the model's input is read.
        taps: where to read; None for the model's input.

    Raises:
        SettingError: the model has no such submodule.
    """

    def __init__(self, model: nn.Module | None, taps: Sequence[Tap | None]) -> None:
        super().__init__()
        for tap in taps:
            if tap is not None and model is not None:
                find_submodule(model, tap.name, tap.name)
        self.model, self.taps = model, tuple(taps)

    def forward(self, *inputs: Tensor, **keywords: Tensor) -> tuple[Tensor, Tensor | None]:
        """The model's inputs -> (what is read of them side by side (N, F), float64, and the
        model's output; None if it was not run)."""
        views, output = read_taps(self.model, self.taps, Batch(inputs, keywords))
        rows = align_views(views, self.taps, None)
        return torch.cat([row.double() for row in rows], dim=1), output


def bake_model(model: nn.Module) -> nn.Module:
    """A plain copy for answering: overlays and other parametrizations folded in, no gradients.

    Args:
        model: left untouched.

    Returns: a deep copy in evaluation mode whose parameters need no gradient.

    >>> bake_model(nn.Linear(1, 1)).training
    False
    """
    baked = copy_module(model).eval().requires_grad_(False)
    for module in list(baked.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                strip_parametrization(module, name, keep_value=True)
    return baked.requires_grad_(False)


def save_onnx(module: nn.Module, example: Sequence[Tensor], path: Path) -> None:
    """Write a read-out as an ONNX file whose batch size is free, or leave what was there.

    Args:
        module: in evaluation mode.
        example: its inputs, each (N, ...) with N >= 2.
        path: the file; weights of more than 1 GB go into a second one, `path` + ".data".

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra("ONNX export needs onnx: pip install 'nestling[onnx]'") from error
    shapes = {"inputs": tuple({0: torch.export.Dim("batch")} for _ in example)}
    program = torch.export.export(module, tuple(example), dynamic_shapes=shapes, strict=False)
    num_bytes = sum(tensor.nbytes for tensor in module.state_dict().values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter warns of its own code
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            torch.onnx.export(
                program,
                (),
                str(Path(folder) / path.name),
                dynamo=True,
                verbose=False,
                external_data=num_bytes > 1e9,
            )
            # The data first: a model file is never there without what it points to.
            for file in sorted(Path(folder).iterdir(), key=lambda file: -len(file.name)):
                os.replace(file, path.parent / file.name)
