"""One plain module that answers as the learner does, for torch.export, ONNX and safetensors.

Axis letters: N examples, C channels, H height, W width, I inputs or codes, F features,
J codes of an image, D random features, K classes or outputs.
"""

import math
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
from nestling.memory.coded.coded_features import CodedDraws, CodedFeatures, map_whole_numbers
from nestling.memory.coded.input_codes import round_inputs
from nestling.memory.coded.integer_products import multiply_in_floats
from nestling.memory.coded.oriented_gradients import GradientGrid, code_gradients
from nestling.memory.coded.relu_codes import scale_products
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


class CodedMap(nn.Module):
    """`nestling.memory.coded.CodedFeatures` as a module: what it draws are buffers.

    The same equations, on all rows at once and without the processor's int8 products. Sums of
    integers are exact in every runtime. Square roots are taken in float64, and rounded to
    float32 where a last bit could matter, so a runtime whose roots are a last bit off gives other
    features in next to no case, and then by a code or two. Of float32 rows the codes are those of
    float32, of float64 rows those of float64, as in the learner.

    It cannot refuse rows: NaN or infinity makes all features of a row NaN, and fractions among
    pixels of 0 to 255 are rounded.

    Args:
        features: left untouched.
    """

    def __init__(self, features: CodedFeatures) -> None:
        super().__init__()
        self.scale = features.scale
        grid = features.draws.grid
        nothing = torch.empty(0, dtype=torch.int8, device="cpu")
        self.draws = features.draws._replace(image_weights=nothing, raw_weights=nothing)
        if grid is not None:
            grid = grid._replace(pooling=nothing, boxes=nothing, turns=nothing)
            self.draws = self.draws._replace(grid=grid)
        self.image_weights: Tensor
        self.raw_weights: Tensor
        self.pooling: Tensor
        self.boxes: Tensor
        self.turns: Tensor
        for name in ("image_weights", "raw_weights"):
            self.register_buffer(name, getattr(features.draws, name).clone())
        if features.draws.grid is not None:
            for name in ("pooling", "boxes", "turns"):
                self.register_buffer(name, getattr(features.draws.grid, name).clone())

    def forward(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, D) float32, whole numbers 0 to 127."""
        exact = x if x.dtype == torch.float64 else x.float()
        # Images lie one behind the other where gradients are taken: NaN would reach the next.
        is_finite = exact.isfinite().all(dim=1, keepdim=True)
        exact = torch.where(is_finite, exact, 0.0)
        codes = round_inputs(exact, self.scale).clamp(self.scale.low, self.scale.high).float()
        phi = map_whole_numbers(codes, self.read_draws(), _code_images, _map_codes)
        return torch.where(is_finite, phi.float(), math.nan)

    def read_draws(self) -> CodedDraws:
        """What makes the features, from the buffers."""
        draws = self.draws._replace(image_weights=self.image_weights, raw_weights=self.raw_weights)
        if draws.grid is None:
            return draws
        grid = draws.grid._replace(pooling=self.pooling, boxes=self.boxes, turns=self.turns)
        return draws._replace(grid=grid)


def _code_images(pixels_NCHW: Tensor, grid: GradientGrid) -> Tensor:
    """`compute_gradient_codes` without its loop over the batch: (N, J) int8."""
    return code_gradients(pixels_NCHW, grid, _take_root)


def _map_codes(z_NI: Tensor, weights_IF: Tensor) -> Tensor:
    """`nestling.memory.coded.relu_codes.map_codes` by products that every runtime has."""
    return scale_products(multiply_in_floats(z_NI, weights_IF), z_NI, _take_root)


def _take_root(x: Tensor) -> Tensor:
    """The square root; of float32 numbers by float64, which rounds it rightly everywhere."""
    return x.double().sqrt().to(x.dtype)


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
        """The model's inputs -> (what is read of them side by side (N, F), and the model's output;
        None if it was not run). Floats keep their type, which decides how they are rounded."""
        views, output = read_taps(self.model, self.taps, Batch(inputs, keywords))
        rows = align_views(views, self.taps, None)
        wide = [row if row.is_floating_point() else row.float() for row in rows]
        return wide[0] if len(wide) == 1 else torch.cat(wide, dim=1), output


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
