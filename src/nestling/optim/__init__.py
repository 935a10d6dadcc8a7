"""Optimizers of levels: Adam, AdamW, SGD, deep optimizers, or any torch optimizer."""

from nestling.optim.custom import CustomOptimizer, OptimizerFactory
from nestling.optim.deep.dgd import DGD, dgd
from nestling.optim.deep.dmgd import DMGD, dmgd
from nestling.optim.deep.layer_record import record_layers
from nestling.optim.deep.m3 import M3, m3
from nestling.optim.deep.memory_momentum import MemoryMomentum, delta_momentum
from nestling.optim.deep.muon import Muon, muon
from nestling.optim.plain_specs import SGD, Adam, AdamW, Rate, adam, adamw, sgd
from nestling.optim.specs import OptimizerSpec

__all__ = [
    "Adam",
    "AdamW",
    "CustomOptimizer",
    "DGD",
    "DMGD",
    "M3",
    "MemoryMomentum",
    "Muon",
    "OptimizerFactory",
    "OptimizerSpec",
    "Rate",
    "SGD",
    "adam",
    "adamw",
    "delta_momentum",
    "dgd",
    "dmgd",
    "m3",
    "muon",
    "record_layers",
    "sgd",
]
