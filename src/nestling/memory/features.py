"""Fixed random features: what a linear memory needs to remember what is not linear.

One map, or several side by side, each of its own part of the inputs.

Letters: N examples, I inputs, F random features, D outputs.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from nestling.core.errors import SettingError, ShapeMismatch, suggest
from nestling.core.seeds import make_generator

FeatureKind = Literal["relu", "fourier", "product"]
KINDS = ("relu", "fourier", "product")


class Draws(NamedTuple):
    """What makes random features.

    Args:
        weights: w, (I, F).
        partners: v, (I, F); None but for products.
        phases: c, (F,).
    """

    weights: Tensor
    partners: Tensor | None
    phases: Tensor

    def select(self, chosen: Tensor) -> "Draws":
        """Those of some of the features, by their indices."""
        partners = None if self.partners is None else self.partners[:, chosen].contiguous()
        return Draws(self.weights[:, chosen].contiguous(), partners, self.phases[chosen])


def map_randomly(
    x_NI: Tensor,
    draws: Draws,
    kind: FeatureKind,
    *,
    passthrough: bool,
    num_drawn: int | None = None,
) -> Tensor:
    """Random features of inputs, see `RandomFeatures`: (N, F), or (N, I + F) with `passthrough`.

    Args:
        x_NI: (N, I), of the dtype of the weights.
        draws: weights, partners and phases.
        kind: "relu", "fourier" or "product".
        passthrough: the inputs come first.
        num_drawn: features that these are a part of; None: they are all.
    """
    if draws.partners is not None:
        phi = (x_NI @ draws.weights).mul_(x_NI @ draws.partners)
    elif kind == "relu":
        phi = (x_NI @ draws.weights).relu_()
    else:
        phi = torch.addmm(draws.phases, x_NI, draws.weights).cos_()
        phi.mul_(math.sqrt(2.0 / max(1, num_drawn or draws.weights.shape[1])))
    return torch.cat((x_NI, phi), dim=1) if passthrough else phi


def join_maps(
    x_NI: Tensor, maps: Iterable[Callable[[Tensor], Tensor]], widths: Sequence[int]
) -> Tensor:
    """Several maps side by side, each of its own part of the inputs: (N, I) -> (N, D).

    Args:
        x_NI: (N, I).
        maps: each (N, I_i) -> (N, D_i).
        widths: I_i; they add up to I.
    """
    views = x_NI.split(list(widths), dim=1)
    return torch.cat([one(view) for one, view in zip(maps, views, strict=True)], dim=1)


class Features(Protocol):
    """A fixed map of inputs that a memory learns from."""

    @property
    def num_inputs(self) -> int:
        """I."""

    @property
    def num_outputs(self) -> int:
        """D."""

    @property
    def is_coded(self) -> bool:
        """Whether it gives whole numbers from 0 to 127 as int8; else float64."""

    def __call__(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, D), on the CPU."""

    def read_config(self) -> dict[str, object]:
        """What makes these features what they are, ready for a `state_dict`."""


class RandomFeatures:
    """Random feature map (ReLU, Fourier or products), reproducible from its seed.

    relu:     phi_j(x) = max(0, w_j . (scale x))                 [Cho & Saul 2009, arc-cosine 1]
    fourier:  phi_j(x) = sqrt(2/F) cos(w_j . (scale x) + c_j)    [Rahimi & Recht 2007]
    product:  phi_j(x) = (w_j . (scale x)) (v_j . (scale x))     [Kar & Karnick 2012, degree 2]

    with w_j, v_j ~ N(0, 1/I) and c_j uniform on [0, 2 pi). ReLU has no bias and so is positively
    homogeneous: inputs that are all c > 0 times larger give features c times larger, which a
    memory's own scaling undoes. Fourier features stand for a Gaussian kernel whose bandwidth is
    sqrt(I)/scale in units of the inputs. Products stand for all pairs of inputs; give them the
    inputs beside (`passthrough`), and they do best on features of pre-trained encoders.

    Everything is computed in float64, so that the shape of a block does not matter to the answer.
    The weights are not saved: they come back from the seed.

    Differs: from the papers in that weights are divided by sqrt(I), so that `scale=1` fits
    inputs of unit variance whatever their number.

    Args:
        num_inputs: I, the width of the inputs.
        num_features: F >= 0.
        kind: "relu", "fourier" or "product".
        seed: which features; equal seeds give equal features.
        scale: factor on the inputs, a number or one per input (I,). It is a constant: nothing
            is estimated from data, so the order of the data cannot matter.
        passthrough: also give the inputs themselves (unscaled) in front, D = I + F.

    Raises:
        SettingError: an unknown kind, a scale that is not finite, or no output at all.

    >>> features = RandomFeatures(3, 8, seed=1, passthrough=True)
    >>> features(torch.ones(2, 3)).shape, features.num_outputs
    (torch.Size([2, 11]), 11)
    """

    is_coded = False

    def __init__(
        self,
        num_inputs: int,
        num_features: int,
        kind: FeatureKind = "relu",
        seed: int = 0,
        scale: Tensor | float = 1.0,
        passthrough: bool = False,
    ) -> None:
        if kind not in KINDS:
            raise SettingError(f"random features of kind {kind!r}; {suggest(str(kind), KINDS)}")
        if num_inputs < 1 or num_features < 0 or (num_features == 0 and not passthrough):
            raise SettingError(
                f"{num_features} random features of {num_inputs} inputs give nothing; "
                "1 or more of each works"
            )
        self.num_inputs = num_inputs
        self.num_features = num_features
        self.kind = kind
        self.seed = seed
        self.passthrough = passthrough
        self.scale = torch.as_tensor(scale, dtype=torch.float64, device="cpu").clone()
        if self.scale.shape not in ((), (num_inputs,)) or not bool(self.scale.isfinite().all()):
            raise SettingError(
                f"scale of shape {tuple(self.scale.shape)} for {num_inputs} inputs; "
                "a finite number or one per input works"
            )
        self.num_outputs = num_features + (num_inputs if passthrough else 0)
        generator = make_generator(seed, "random features", kind, num_inputs, num_features)
        weights_IF = torch.randn(
            num_inputs, num_features, generator=generator, dtype=torch.float64, device="cpu"
        ) / math.sqrt(num_inputs)
        partners_IF: Tensor | None = None
        if kind == "product":
            drawn_IF = torch.randn(
                num_inputs, num_features, generator=generator, dtype=torch.float64, device="cpu"
            )
            drawn_IF.div_(math.sqrt(num_inputs))
            partners_IF = (self.scale.reshape(-1, 1) * drawn_IF).contiguous()
        phases_F = torch.rand(num_features, generator=generator, dtype=torch.float64, device="cpu")
        # The scale is folded into the weights once: per input it stands on the rows.
        self.draws = Draws(
            (self.scale.reshape(-1, 1) * weights_IF).contiguous(),
            partners_IF,
            phases_F.mul_(2.0 * math.pi),
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Features of a batch.

        Args:
            x: (N, I), any floating or integer dtype.

        Returns: (N, D) float64 on the CPU.

        Raises:
            ShapeMismatch: x is not (N, I).
        """
        if x.ndim != 2 or x.shape[1] != self.num_inputs:
            raise ShapeMismatch(f"inputs of shape {tuple(x.shape)}; (N, {self.num_inputs}) works")
        wide = x.detach().to("cpu", torch.float64)
        return map_randomly(wide, self.draws, self.kind, passthrough=self.passthrough)

    def read_config(self) -> dict[str, object]:
        """What makes these features what they are, ready for a `state_dict`."""
        return {
            "kind": self.kind,
            "num_inputs": self.num_inputs,
            "num_features": self.num_features,
            "seed": self.seed,
            "scale": self.scale.clone(),
            "passthrough": self.passthrough,
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RandomFeatures):
            return NotImplemented
        mine, theirs = self.read_config(), other.read_config()
        scale, other_scale = mine.pop("scale"), theirs.pop("scale")
        assert isinstance(scale, Tensor)
        assert isinstance(other_scale, Tensor)
        return mine == theirs and torch.equal(scale, other_scale)

    def __hash__(self) -> int:
        return hash((self.kind, self.num_inputs, self.num_features, self.seed, self.passthrough))

    def __repr__(self) -> str:
        extra = ", passthrough=True" if self.passthrough else ""
        return (
            f"RandomFeatures({self.num_inputs}, {self.num_features}, kind={self.kind!r}, "
            f"seed={self.seed}{extra})"
        )


class JoinedFeatures:
    """Several random feature maps side by side, each of its own part of the inputs.

    Parts may differ in scale: none is mixed with another before a memory scales the features.

    Args:
        parts: one or more; the first reads the first `num_inputs` of the inputs, and so on.

    Raises:
        SettingError: no part.

    >>> joined = JoinedFeatures([RandomFeatures(3, 8), RandomFeatures(2, 4, passthrough=True)])
    >>> joined(torch.ones(7, 5)).shape
    torch.Size([7, 14])
    """

    is_coded = False

    def __init__(self, parts: Sequence[RandomFeatures]) -> None:
        if not parts:
            raise SettingError("joined features of no part; give one RandomFeatures or more")
        self.parts = tuple(parts)
        self.num_inputs = sum(part.num_inputs for part in parts)
        self.num_outputs = sum(part.num_outputs for part in parts)

    def __call__(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, D) float64 on the CPU; ShapeMismatch if x is not (N, I)."""
        if x.ndim != 2 or x.shape[1] != self.num_inputs:
            raise ShapeMismatch(f"inputs of shape {tuple(x.shape)}; (N, {self.num_inputs}) works")
        return join_maps(x, self.parts, [part.num_inputs for part in self.parts])

    def read_config(self) -> dict[str, object]:
        """What makes these features what they are, ready for a `state_dict`."""
        return {str(index): part.read_config() for index, part in enumerate(self.parts)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JoinedFeatures) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    def __repr__(self) -> str:
        return f"JoinedFeatures({list(self.parts)})"
