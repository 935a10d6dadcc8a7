"""Features in integers: inputs as codes, images as oriented gradients, random ReLU of both."""

from nestling.memory.coded.coded_features import CodedFeatures, choose_coded_features
from nestling.memory.coded.image_shape import ImageShape, find_image_shape
from nestling.memory.coded.input_codes import InputScale, choose_input_scale

__all__ = [
    "CodedFeatures",
    "ImageShape",
    "InputScale",
    "choose_coded_features",
    "choose_input_scale",
    "find_image_shape",
]
