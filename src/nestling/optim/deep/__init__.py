"""Deep optimizers: gradient descent whose momentum is a memory of its own."""

from nestling.optim.deep.m3 import M3, M3Optimizer, m3, m3_update
from nestling.optim.deep.muon import Muon, MuonOptimizer, muon, muon_update
from nestling.optim.deep.newton_schulz import orthogonalize, orthogonalize_all

__all__ = [
    "M3",
    "M3Optimizer",
    "Muon",
    "MuonOptimizer",
    "m3",
    "m3_update",
    "muon",
    "muon_update",
    "orthogonalize",
    "orthogonalize_all",
]
