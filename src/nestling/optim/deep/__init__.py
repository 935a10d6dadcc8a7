"""Deep optimizers: gradient descent whose momentum is a memory of its own."""

from nestling.optim.deep.dgd import DGD, DGDOptimizer, dgd, dgd_update
from nestling.optim.deep.dmgd import DMGD, DMGDOptimizer, dmgd, dmgd_update
from nestling.optim.deep.layer_record import InputMoment, RecordedLayer, record_layers, record_step
from nestling.optim.deep.m3 import M3, M3Optimizer, m3, m3_update
from nestling.optim.deep.memory_momentum import (
    MemoryMomentum,
    MemoryMomentumOptimizer,
    delta_momentum,
    momentum_update,
)
from nestling.optim.deep.muon import Muon, MuonOptimizer, muon, muon_update
from nestling.optim.deep.newton_schulz import orthogonalize, orthogonalize_all

__all__ = [
    "DGD",
    "DGDOptimizer",
    "DMGD",
    "DMGDOptimizer",
    "InputMoment",
    "M3",
    "M3Optimizer",
    "MemoryMomentum",
    "MemoryMomentumOptimizer",
    "Muon",
    "MuonOptimizer",
    "RecordedLayer",
    "delta_momentum",
    "dgd",
    "dgd_update",
    "dmgd",
    "dmgd_update",
    "m3",
    "m3_update",
    "momentum_update",
    "muon",
    "muon_update",
    "orthogonalize",
    "orthogonalize_all",
    "record_layers",
    "record_step",
]
