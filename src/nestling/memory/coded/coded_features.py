"""What a memory sees of an input, in integers: chosen by the kind of input, then fixed.

Letters: N examples, I inputs, D features.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from nestling.core.errors import SettingError, ShapeMismatch, suggest
from nestling.memory.coded.image_shape import (
    LEAST_SIDE,
    ImageShape,
    find_image_shape,
    list_square_shapes,
)
from nestling.memory.coded.input_codes import (
    InputScale,
    ScaleKind,
    check_whole,
    choose_input_scale,
    encode_inputs,
)
from nestling.memory.coded.oriented_gradients import (
    GradientGrid,
    compute_gradient_codes,
    lay_grid,
    shrink_pixels,
)
from nestling.memory.coded.relu_codes import draw_weights, map_codes

CodedKind = Literal["auto", "image", "coded"]
CodedSize = Literal["default", "large", "huge"]
KINDS = ("auto", "image", "coded")
# Features of gradients beside features of raw pixels; all are multiples of 8, which int8 products
# are fastest with.
SIZES = {"default": (1000, 504), "large": (2672, 1328), "huge": (5344, 2656)}
# Features of a number beside others say the same again beyond so many: of few numbers, fewer.
MOST_PER_INPUT, LEAST_FEW = 64, 256
# A code beside inputs that are no images: features forget the length of what they see.
CONSTANT = 64


class CodedDraws(NamedTuple):
    """What makes coded features of inputs that are whole numbers already.

    Args:
        image: the shape of the inputs if they are images.
        grid: where the cells of such an image lie.
        image_weights: (J, F) int8, of gradients and means; F = 0 for none.
        raw_weights: (I, F) int8, of the inputs themselves and of the constant; F = 0 for none.
        constant: 0 to 127, a code beside the inputs; 0 for none.
        in_bytes: the inputs have 8 bits, which are halved where 7 are wanted.
    """

    image: ImageShape | None
    grid: GradientGrid | None
    image_weights: Tensor
    raw_weights: Tensor
    constant: int
    in_bytes: bool


def map_whole_numbers(
    x_NI: Tensor,
    draws: CodedDraws,
    code_images: Callable[[Tensor, GradientGrid], Tensor],
    map_into_codes: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Coded features of inputs on their scale, (N, D) int8. torch.export traces it.

    Args:
        x_NI: (N, I) float32, whole numbers from `encode_inputs`.
        draws: what makes the features.
        code_images: as `compute_gradient_codes`.
        map_into_codes: as `map_codes`.
    """
    parts = []
    if draws.image is not None and draws.grid is not None:
        pixels_NCHW = shrink_pixels(draws.image.unflatten(x_NI), draws.grid)
        x_NI = pixels_NCHW.flatten(1)
        if draws.image_weights.shape[1]:
            parts.append(map_into_codes(code_images(pixels_NCHW, draws.grid), draws.image_weights))
    if draws.raw_weights.shape[1]:
        z_NI = (x_NI.mul(0.5).floor_() if draws.in_bytes else x_NI).to(torch.int8)
        if draws.constant:
            z_NI = torch.nn.functional.pad(z_NI, (0, 1), value=draws.constant)
        parts.append(map_into_codes(z_NI, draws.raw_weights))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class CodedFeatures:
    """Features of inputs as 7-bit integers, 0 to 127, the same bits on every machine.

    Images: random ReLU of [oriented gradients, cell means], then random ReLU of raw pixels.
    Other inputs: random ReLU of the inputs and a constant.

    Nothing is estimated from data but the scale of the inputs, which stays: so a memory's sums
    of products of these are exact integers, in any order.

    Args:
        num_inputs: I, numbers of one flat input.
        scale: how inputs become integers.
        image: the shape of the inputs if they are images.
        num_image_features: features of gradients and means; 0 without an image.
        num_raw_features: features of the inputs themselves.
        seed: which random weights; equal seeds give equal features.
        constant: 0 to 127, a code beside the inputs that keeps their length; 0 for none.

    Raises:
        SettingError: numbers that do not fit together.

    >>> features = CodedFeatures(2, InputScale("signed", 0.0, 32.0), num_raw_features=8)
    >>> features(torch.tensor([[1.0, -2.0]])).shape
    torch.Size([1, 8])
    """

    is_coded = True

    def __init__(
        self,
        num_inputs: int,
        scale: InputScale,
        *,
        image: ImageShape | None = None,
        num_image_features: int = 0,
        num_raw_features: int = 0,
        seed: int = 0,
        constant: int = 0,
    ) -> None:
        if num_inputs < 1 or min(num_image_features, num_raw_features) < 0:
            raise SettingError(
                f"{num_image_features} + {num_raw_features} features of {num_inputs} inputs; "
                "1 input and 0 features or more work"
            )
        if num_image_features + num_raw_features == 0:
            raise SettingError("coded features of no number; 1 feature or more works")
        if image is not None and image.num_inputs != num_inputs:
            raise SettingError(
                f"images of {image.channels} x {image.height} x {image.width} from {num_inputs} "
                f"inputs; {image.num_inputs} inputs work"
            )
        if image is None and num_image_features > 0:
            raise SettingError(
                f"{num_image_features} features of gradients without an image; "
                "give image=, or num_image_features=0"
            )
        if image is not None and scale.kind == "signed":
            raise SettingError("an image with signed inputs; a scale of pixels works: 'unit'")
        if not 0 <= constant <= 127:
            raise SettingError(f"constant={constant}; 0 to 127 works")
        self.num_inputs = num_inputs
        self.scale = scale
        self.image = image
        self.num_image_features = num_image_features
        self.num_raw_features = num_raw_features
        self.seed = seed
        self.constant = constant
        self.num_outputs = num_image_features + num_raw_features
        # What the scale could not hold: counted, since clipped inputs cost accuracy unseen.
        self.num_clipped = 0
        self.num_seen = 0
        grid: GradientGrid | None = None
        num_gradients, num_raw = 1, num_inputs
        if image is not None:
            grid = lay_grid(image.channels, image.height, image.width)
            # Raw pixels of large images are those of the smaller ones that gradients see.
            num_gradients, num_raw = grid.num_codes, grid.channels * grid.height * grid.width
        self.draws = CodedDraws(
            image,
            grid,
            draw_weights(num_gradients, num_image_features, seed, "gradients"),
            draw_weights(num_raw + (constant > 0), num_raw_features, seed, "raw"),
            constant,
            scale.high > 127,
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Features of a batch.

        Args:
            x: (N, I), or images (N, C, H, W) of the known shape; any dtype.

        Returns: (N, D) int8 on the CPU, 0 to 127.

        Raises:
            ShapeMismatch: another shape.
            NonFiniteInput: NaN or infinity.
            DataError: fractions where the scale is of whole pixels.
        """
        codes_NI, num_clipped = encode_inputs(self._flatten(x), self.scale)
        self.num_clipped += num_clipped
        self.num_seen += codes_NI.numel()
        return map_whole_numbers(codes_NI, self.draws, compute_gradient_codes, map_codes)

    def check(self, x_NI: Tensor) -> None:
        """Raise what a call would raise of finite inputs of the right shape: DataError for
        fractions where the scale is of whole pixels."""
        check_whole(x_NI, self.scale)

    def describe(self) -> str:
        """What was found of the inputs and what is made of them, in one line."""
        where = f"numbers {_NAMES[self.scale.kind]}"
        if self.image is None:
            return (
                f"{self.num_inputs} inputs taken as {where}, no image: "
                f"{self.num_raw_features} random features"
            )
        found = "given" if self.image.roughness is None else "found in flat inputs, neighbours"
        if self.image.roughness is not None:
            found += f" differ {self.image.roughness:.2f} times as much as any pixels"
        return (
            f"images of {self.image.channels} x {self.image.height} x {self.image.width} "
            f"({found}), {where}: {self.num_image_features} features of oriented gradients beside "
            f"{self.num_raw_features} of raw pixels"
        )

    def read_config(self) -> dict[str, object]:
        """What makes these features what they are, ready for a `state_dict` and for JSON."""
        return {
            "kind": "coded",
            "num_inputs": self.num_inputs,
            "scale": self.scale.read_config(),
            "image": None if self.image is None else self.image.read_config(),
            "num_image_features": self.num_image_features,
            "num_raw_features": self.num_raw_features,
            "seed": self.seed,
            "constant": self.constant,
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CodedFeatures):
            return NotImplemented
        return self.read_config() == other.read_config()

    def __hash__(self) -> int:
        return hash((self.num_inputs, self.scale, self.image, self.num_outputs, self.seed))

    def __repr__(self) -> str:
        return (
            f"CodedFeatures({self.num_inputs}, {self.scale}, image={self.image}, "
            f"num_image_features={self.num_image_features}, "
            f"num_raw_features={self.num_raw_features}, seed={self.seed}, "
            f"constant={self.constant})"
        )

    def _flatten(self, x: Tensor) -> Tensor:
        if x.ndim > 2 and self.image is not None and not self.image.channels_last:
            shape = (self.image.channels, self.image.height, self.image.width)
            if x.shape[1:] == shape:
                return x.flatten(1)
        if x.ndim != 2 or x.shape[1] != self.num_inputs:
            raise ShapeMismatch(f"inputs of shape {tuple(x.shape)}; (N, {self.num_inputs}) works")
        return x


_NAMES: dict[ScaleKind, str] = {
    "bytes": "0 to 255",
    "unit": "0 to 1",
    "pixels": "of any range",
    "signed": "of any size",
}


def read_coded_features(config: Mapping[str, object]) -> CodedFeatures:
    """The features that a `read_config` describes; needs no data.

    Raises:
        SettingError: it describes none.
    """
    try:
        scale = InputScale(**cast(dict[str, Any], config["scale"]))
        image = config["image"]
        return CodedFeatures(
            cast(int, config["num_inputs"]),
            scale,
            image=None if image is None else ImageShape(**cast(dict[str, Any], image)),
            num_image_features=cast(int, config["num_image_features"]),
            num_raw_features=cast(int, config["num_raw_features"]),
            seed=cast(int, config["seed"]),
            constant=cast(int, config["constant"]),
        )
    except (KeyError, TypeError) as error:
        raise SettingError(f"{error!r} in what should describe coded features") from None


def choose_coded_features(
    x_first: Tensor,
    kind: CodedKind = "auto",
    size: CodedSize = "default",
    shape: tuple[int, int, int] | None = None,
    seed: int = 0,
) -> CodedFeatures:
    """Features in integers that fit the first inputs: of images, or of numbers.

    Args:
        x_first: (N, I) or images (N, C, H, W), N >= 1; the first 256 are read.
        kind: "auto": images if the shape says so or neighbours vary together; "image": images
            in any case; "coded": numbers in any case.
        size: "default": 1,504 features; "large": 4,000; "huge": 8,000. Of fewer than 24 numbers
            that are no image, fewer.
        shape: (C, H, W), channels first, if it is known.
        seed: which random weights.

    Raises:
        SettingError: an unknown kind or size, or an image whose shape cannot be guessed.
        DataError, NonFiniteInput: no row; NaN or infinity.

    >>> rows = torch.arange(8.0) * torch.tensor([[1.0], [2.0]])
    >>> [choose_coded_features(x).num_outputs for x in (rows, rows.repeat(1, 8))]
    [512, 1504]
    """
    if kind not in KINDS:
        raise SettingError(f"coded features of kind {kind!r}; {suggest(kind, KINDS)}")
    if size not in SIZES:
        raise SettingError(f"coded features of size {size!r}; {suggest(size, SIZES)}")
    if shape is None and x_first.ndim == 4:
        shape = cast(tuple[int, int, int], tuple(x_first.shape[1:]))
    x_NI = x_first.flatten(1) if x_first.ndim > 2 else x_first
    if x_NI.ndim != 2 or x_NI.shape[1] == 0:
        raise ShapeMismatch(f"inputs of shape {tuple(x_first.shape)}; (N, I) works")
    image = None if kind == "coded" else _decide_shape(x_NI, shape, required=kind == "image")
    num_image_features, num_raw_features = SIZES[size]
    if image is None:
        num_all = num_image_features + num_raw_features
        share = num_all / sum(SIZES["default"])
        most = int(share * max(LEAST_FEW, MOST_PER_INPUT * x_NI.shape[1])) // 8 * 8
        num_image_features, num_raw_features = 0, min(num_all, most)
    scale = choose_input_scale(x_NI, pixels=image is not None)
    return CodedFeatures(
        x_NI.shape[1],
        scale,
        image=image,
        num_image_features=num_image_features,
        num_raw_features=num_raw_features,
        seed=seed,
        constant=CONSTANT if image is None else 0,
    )


def _decide_shape(
    x_NI: Tensor, shape: tuple[int, int, int] | None, *, required: bool
) -> ImageShape | None:
    """The given shape, the one found, or if an image is required the only one possible."""
    num_inputs = x_NI.shape[1]
    if shape is not None:
        channels, height, width = shape
        if channels * height * width != num_inputs:
            raise SettingError(
                f"shape {shape} for {num_inputs} inputs; (C, H, W) with C * H * W = {num_inputs} "
                "works"
            )
        if required or min(height, width) >= LEAST_SIDE:
            return ImageShape(channels, height, width)
        return None
    found = find_image_shape(x_NI)
    if found is not None or not required:
        return found
    possible = list_square_shapes(num_inputs)
    if not possible:
        raise SettingError(
            f"{num_inputs} inputs are no square image of 1 or 3 channels and at least "
            f"{LEAST_SIDE} x {LEAST_SIDE}; give images as (N, C, H, W)"
        )
    return possible[0]
