"""Optimizers of levels: Adam, AdamW, SGD, deep optimizers, or any torch optimizer."""

from nestling.optim.custom import CustomOptimizer, OptimizerFactory
from nestling.optim.deep.m3 import M3, m3
from nestling.optim.deep.muon import Muon, muon
from nestling.optim.plain_specs import SGD, Adam, AdamW, Rate, adam, adamw, sgd
from nestling.optim.specs import OptimizerSpec

__all__ = [
    "M3",
    "SGD",
    "Adam",
    "AdamW",
    "CustomOptimizer",
    "Muon",
    "OptimizerFactory",
    "OptimizerSpec",
    "Rate",
    "adam",
    "adamw",
    "m3",
    "muon",
    "sgd",
]
