"""Deep optimizers: gradient descent whose momentum is a memory of its own."""

from nestling.optim.deep.muon import Muon, MuonOptimizer, muon, muon_update
from nestling.optim.deep.newton_schulz import orthogonalize, orthogonalize_all

__all__ = [
    "Muon",
    "MuonOptimizer",
    "muon",
    "muon_update",
    "orthogonalize",
    "orthogonalize_all",
]
