"""Plain models that a job can name."""

from nestling.models.build import build_model, list_models, load_model
from nestling.models.convnet import ConvNet
from nestling.models.mlp import mlp
from nestling.models.transformer import Block, TransformerClassifier, gpt_blocks

__all__ = [
    "Block",
    "ConvNet",
    "TransformerClassifier",
    "build_model",
    "gpt_blocks",
    "list_models",
    "load_model",
    "mlp",
]
