"""One plain module that answers as the learner does, for torch.export, ONNX and safetensors.

Axis letters: N examples, F features, D random features, K classes or outputs, E experts.
"""

import functools
import os
import tempfile
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nestling.core.batches import read_output
from nestling.core.errors import MissingExtra, SettingError, ShapeMismatch, suggest
from nestling.core.modes import copy_module
from nestling.levels.low_rank import strip_parametrization
from nestling.levels.taps import Tap, fit_positions

Task = Literal["classification", "regression"]


class RandomMap(nn.Module):
    """Fixed random features with plain buffers.

    phi(x) = gain * g(x W + b), g = ReLU or cosine, or (x W) (x V) element by element; with
    `passthrough` x itself is put before it

    Args:
        matrix_FD: W, (F, D).
        bias_D: b, (D,); None: no bias.
        kind: g, "relu", "fourier" (cosine) or "product".
        partner_FD: V, (F, D); for products.
        gain: factor, e.g. sqrt(2 / D).
        passthrough: whether x comes first, as in (N, F + D).
    """

    def __init__(
        self,
        matrix_FD: Tensor,
        bias_D: Tensor | None = None,
        *,
        kind: Literal["relu", "fourier", "product"] = "relu",
        partner_FD: Tensor | None = None,
        gain: float = 1.0,
        passthrough: bool = False,
    ) -> None:
        super().__init__()
        bias_D = matrix_FD.new_zeros(matrix_FD.shape[1]) if bias_D is None else bias_D
        self.kind, self.gain, self.passthrough = kind, gain, passthrough
        self.matrix: Tensor
        self.bias: Tensor
        self.register_buffer("matrix", matrix_FD.detach().clone())
        self.register_buffer("bias", bias_D.detach().clone())
        self.partner: Tensor | None
        self.register_buffer("partner", None if partner_FD is None else partner_FD.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, D) or (N, F + D), in the dtype of W."""
        x = x.flatten(1).to(self.matrix.dtype)
        z = x @ self.matrix + self.bias
        if self.partner is not None:
            phi = z * (x @ self.partner)
        else:
            phi = self.gain * (torch.relu(z) if self.kind == "relu" else torch.cos(z))
        return torch.cat([x, phi], dim=1) if self.passthrough else phi


class JoinedMap(nn.Module):
    """Several maps side by side, each of its own part of the inputs.

    Args:
        maps: (N, F_i) -> (N, D_i).
        widths: F_i.
    """

    def __init__(self, maps: Sequence[nn.Module], widths: Sequence[int]) -> None:
        super().__init__()
        self.maps, self.widths = nn.ModuleList(maps), list(widths)

    def forward(self, x: Tensor) -> Tensor:
        """(N, sum F_i) -> (N, sum D_i)."""
        views = x.split(self.widths, dim=1)
        return torch.cat([one(view) for one, view in zip(self.maps, views, strict=True)], dim=1)


class RidgeHead(nn.Module):
    """A solved ridge memory: an affine map of features, as calibrated probabilities or values.

    p(x) = softmax((phi(x) C + c) / temperature);  y(x) = phi(x) C + c

    Centring and scaling of the features are folded into C and c. A class that was never seen
    has c = -inf and so probability 0; a constant answer has C = 0 and c = log p.

    Args:
        coefficients_DK: C, (D, K).
        intercept_K: c, (K,).
        temperature: > 0; only for classification.
        features: phi, e.g. a `RandomMap`; None: the input itself, flattened.
        task: "classification" or "regression".

    Raises:
        ShapeMismatch: C and c differ in K.
    """

    def __init__(
        self,
        coefficients_DK: Tensor,
        intercept_K: Tensor,
        *,
        temperature: float = 1.0,
        features: nn.Module | None = None,
        task: Task = "classification",
    ) -> None:
        super().__init__()
        if coefficients_DK.shape[1:] != intercept_K.shape:
            raise ShapeMismatch(
                f"coefficients {tuple(coefficients_DK.shape)} need an intercept of shape "
                f"{tuple(coefficients_DK.shape[1:])}, not {tuple(intercept_K.shape)}"
            )
        self.task, self.temperature, self.features = task, temperature, features
        self.coefficients: Tensor
        self.intercept: Tensor
        self.register_buffer("coefficients", coefficients_DK.detach().clone())
        self.register_buffer("intercept", intercept_K.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> probabilities or values (N, K), in the dtype of C."""
        phi = x.flatten(1) if self.features is None else self.features(x)
        scores = phi.to(self.coefficients.dtype) @ self.coefficients + self.intercept
        if self.task == "regression":
            return scores
        return torch.softmax(scores / self.temperature, dim=1)


class FeatureTap(nn.Module):
    """A model that also returns what goes into or comes out of some of its submodules.

    Args:
        model: kept, not copied.
        taps: where to read.

    Raises:
        SettingError: the model has no such submodule.
    """

    def __init__(self, model: nn.Module, taps: Sequence[Tap]) -> None:
        super().__init__()
        known = dict(model.named_modules())
        for tap in taps:
            if tap.name not in known:
                raise SettingError(
                    f"no submodule {tap.name!r}; " + suggest(tap.name, filter(None, known))
                )
        self.model, self.taps = model, tuple(taps)
        # By thread and tap, so that several may ask at once; empty again after each call.
        self._seen: dict[tuple[int, int], Any] = {}
        for index, tap in enumerate(self.taps):
            known[tap.name].register_forward_hook(functools.partial(self._keep, index))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The model's inputs -> (its features at the taps side by side (N, F), its output)."""
        thread = threading.get_ident()
        try:
            output = read_output(self.model(*inputs))
        finally:
            seen = [self._seen.pop((thread, index), None) for index in range(len(self.taps))]
        for value, tap in zip(seen, self.taps, strict=True):
            if value is None:
                raise SettingError(f"submodule {tap.name!r} did not run; tap one that always runs")
        rows = [
            fit_positions(read_output(value), tap, None).flatten(1)
            for value, tap in zip(seen, self.taps, strict=True)
        ]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1), output

    def _keep(self, index: int, _: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        value = inputs[0] if self.taps[index].side == "input" else output
        self._seen[(threading.get_ident(), index)] = value


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
