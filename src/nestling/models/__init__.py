"""Built-in models: multi-layer perceptron, convolutional network, transformer, CMS."""

from nestling.models.build import build_model, list_models, load_model
from nestling.models.continuum import CMS, CMSState, ContinuumBlock, load_cms_state
from nestling.models.convnet import ConvNet
from nestling.models.mlp import mlp
from nestling.models.transformer import Block, TransformerClassifier, gpt_blocks

__all__ = [
    "Block",
    "CMS",
    "CMSState",
    "ContinuumBlock",
    "ConvNet",
    "TransformerClassifier",
    "build_model",
    "gpt_blocks",
    "list_models",
    "load_cms_state",
    "load_model",
    "mlp",
]
