"""Update rules that a level can use."""

from nestling.optim.custom import CustomOptimizer, OptimizerFactory
from nestling.optim.specs import SGD, Adam, AdamW, OptimizerSpec, Rate, adam, adamw, sgd

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CustomOptimizer",
    "OptimizerFactory",
    "OptimizerSpec",
    "Rate",
    "adam",
    "adamw",
    "sgd",
]
