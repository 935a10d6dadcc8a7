"""Update rules that a level can use."""

from nestling.optim.specs import SGD, Adam, AdamW, OptimizerSpec, adam, adamw, sgd

__all__ = ["SGD", "Adam", "AdamW", "OptimizerSpec", "adam", "adamw", "sgd"]
