"""Built-in models: multi-layer perceptron, convolutional network, transformer, CMS, memories."""

from nestling.models.build import build_model, list_models, load_model
from nestling.models.continuum import (
    CMS,
    CMSState,
    ContinuumBlock,
    StackedLevels,
    StackedState,
    load_cms_state,
    load_stacked_state,
    stack_levels,
)
from nestling.models.convnet import ConvNet
from nestling.models.delta_memory import DeltaMemory
from nestling.models.mlp import mlp
from nestling.models.transformer import Block, TransformerClassifier, gpt_blocks

__all__ = [
    "Block",
    "CMS",
    "CMSState",
    "ContinuumBlock",
    "ConvNet",
    "DeltaMemory",
    "StackedLevels",
    "StackedState",
    "TransformerClassifier",
    "build_model",
    "gpt_blocks",
    "list_models",
    "load_cms_state",
    "load_model",
    "load_stacked_state",
    "mlp",
    "stack_levels",
]
