"""Inputs as integers: on a scale that the first rows choose, and that stays.

Letters: N examples, I inputs.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from nestling.core.errors import DataError, NonFiniteInput, SettingError, suggest

ScaleKind = Literal["bytes", "unit", "pixels", "signed"]
KINDS = ("bytes", "unit", "pixels", "signed")
MOST_FIRST_ROWS = 256
# Root mean square of signed codes, about: four times that is still within their 7 bits.
USUAL_CODE = 32.0
# Of the numbers in the first rows so many may lie beyond a scale; a heavy tail costs no more.
MOST_BEYOND = 0.005
LEAST_TOP_BYTE = 32.0


@dataclass(frozen=True)
class InputScale:
    """How inputs become integers: code = round((x - offset) factor), within low to high.

    Args:
        kind: "bytes": whole numbers 0 to 255 as they are; "unit": [0, 1] times 255; "pixels":
            pixels on another range, e.g. standardised, as 0 to 255; "signed": any numbers as
            -127 to 127.
        offset: what becomes 0; 0 but for "pixels".
        factor: codes per unit of the input, above 0.

    Raises:
        SettingError: an unknown kind, or numbers that are no scale.

    >>> encode_inputs(torch.tensor([[0.0, 0.5, 1.0, 1.5]]), InputScale("unit", 0.0, 255.0))
    (tensor([[  0., 128., 255., 255.]]), 1)
    """

    kind: ScaleKind
    offset: float = 0.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingError(f"input scale of kind {self.kind!r}; {suggest(self.kind, KINDS)}")
        if not (math.isfinite(self.offset) and 0.0 < self.factor < math.inf):
            raise SettingError(
                f"input scale with offset {self.offset} and factor {self.factor}; "
                "a finite offset and a finite factor above 0 work"
            )

    @property
    def low(self) -> int:
        """The smallest code."""
        return -127 if self.kind == "signed" else 0

    @property
    def high(self) -> int:
        """The largest code."""
        return 127 if self.kind == "signed" else 255

    def read_config(self) -> dict[str, object]:
        """What makes this scale, ready for JSON."""
        return asdict(self)


def choose_input_scale(x_NI: Tensor, *, pixels: bool) -> InputScale:
    """The scale of integer codes that fits the first inputs, wide enough for those to come.

    Pixels keep 8 bits: uint8 and whole numbers up to 255 are taken as they are, floats in
    [0, 1] times 255, any other range as 0 to 255. Other numbers are multiplied so that their
    root mean square is about 32 of 127; all factors that data decide are powers of two, so that
    nearly equal first batches choose the same.

    Args:
        x_NI: (N, I), N >= 1; the first 256 rows are read.
        pixels: whether they are the pixels of images.

    Raises:
        NonFiniteInput: NaN or infinity.
        DataError: no row.

    >>> choose_input_scale(torch.tensor([[-1.0, 1.1]]), pixels=False)
    InputScale(kind='signed', offset=0.0, factor=32.0)
    """
    rows = x_NI[:MOST_FIRST_ROWS].detach().to("cpu")
    if rows.numel() == 0:
        raise DataError(f"inputs of shape {tuple(rows.shape)} choose no scale; 1 row or more works")
    if rows.dtype == torch.uint8:
        return InputScale("bytes")
    values = rows.to(torch.float64)
    low, high = (float(bound) for bound in values.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NonFiniteInput("inputs hold NaN or infinity; drop or fill those rows first")
    if not pixels:
        return InputScale("signed", 0.0, _choose_signed_factor(values))
    if low >= 0.0 and high <= 1.0:
        return InputScale("unit", 0.0, 255.0)
    if high == low:
        return InputScale("pixels", low)
    # Dark images are bytes too; whole numbers up to a few, as scikit-learn's digits, are not.
    if low >= 0.0 and LEAST_TOP_BYTE <= high <= 255.0 and torch.equal(values, values.round()):
        return InputScale("bytes")
    # The largest power of two with which the whole range fits: 128 to 255 codes.
    return InputScale("pixels", low, _round_to_power(255.0 / (high - low), math.floor))


def encode_inputs(x_NI: Tensor, scale: InputScale) -> tuple[Tensor, int]:
    """Inputs as whole numbers on a scale, and how many lay beyond it.

    Args:
        x_NI: (N, I) of any dtype; uint8 where pixels are expected means 0 to 255.
        scale: see `choose_input_scale`.

    Returns: (N, I) float32 holding integers, and the number of inputs that were clipped.

    Raises:
        NonFiniteInput: NaN or infinity.
        DataError: fractions where bytes are expected.
    """
    if x_NI.dtype == torch.uint8 and scale.kind in ("bytes", "unit"):
        return x_NI.to("cpu", torch.float32), 0
    dtype = torch.float64 if x_NI.dtype == torch.float64 else torch.float32
    exact_NI = x_NI.detach().to("cpu", dtype)
    codes_NI = round_inputs(exact_NI, scale)
    if codes_NI.numel() == 0:
        return codes_NI, 0
    low, high = (float(bound) for bound in codes_NI.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NonFiniteInput("inputs hold NaN or infinity; drop or fill those rows first")
    check_whole(x_NI, scale)
    if low >= scale.low and high <= scale.high:
        return codes_NI.float(), 0
    num_clipped = int(((codes_NI < scale.low) | (codes_NI > scale.high)).sum())
    return codes_NI.clamp_(scale.low, scale.high).float(), num_clipped


def round_inputs(x_NI: Tensor, scale: InputScale) -> Tensor:
    """Inputs as whole numbers, not yet clipped: round((x - offset) factor), (N, I).

    torch.export traces it.

    Args:
        x_NI: (N, I) float32 or float64; left untouched.
        scale: see `choose_input_scale`.
    """
    if scale.kind == "signed":
        return x_NI.mul(scale.factor).round_()
    # A tensor: torch's ONNX exporter rounds a plain number beside float64 to float32.
    offset = torch.tensor(scale.offset, dtype=x_NI.dtype, device=x_NI.device)
    return x_NI.sub(offset).mul_(scale.factor).round_()


def check_whole(x_NI: Tensor, scale: InputScale) -> None:
    """Raise DataError if inputs are fractions where the scale is of whole pixels."""
    if scale.kind == "bytes" and x_NI.is_floating_point() and bool((x_NI != x_NI.round()).any()):
        raise DataError(
            "fractions where the first inputs were whole pixels of 0 to 255; "
            "the same units work: (255 * x).round()"
        )


def _choose_signed_factor(values: Tensor) -> float:
    """The power of two that brings the root mean square to about 32 and clips next to nothing."""
    largest = float(values.abs().max())
    if largest == 0.0:
        return USUAL_CODE
    # Divided first: squares of huge numbers overflow.
    rms = largest * float((values / largest).square().mean().sqrt())
    factor = _round_to_power(USUAL_CODE / rms, round)
    num_allowed = MOST_BEYOND * values.numel()
    while float((values.abs() * factor > 127.0).sum()) > num_allowed:
        factor /= 2.0
    return factor


def _round_to_power(number: float, rounding: Callable[[float], int]) -> float:
    """The power of two beside a number, within what float32 can multiply by."""
    return 2.0 ** min(100, max(-100, rounding(math.log2(number))))
