"""Memories: online ridge regression, banks of it, the class prior and replay buffers."""

from nestling.memory.bank import MemoryBank
from nestling.memory.context import RecentContext
from nestling.memory.features import JoinedFeatures, RandomFeatures
from nestling.memory.mixing.gate import Mixture
from nestling.memory.mixing.mixture import (
    MixtureWeights,
    keep_absent,
    mix_experts,
    restrict_to_present,
)
from nestling.memory.prior import ClassPrior
from nestling.memory.replay_store import BalancedReplay, ReservoirReplay
from nestling.memory.ridge import RidgeMemory

__all__ = [
    "BalancedReplay",
    "ClassPrior",
    "JoinedFeatures",
    "MemoryBank",
    "Mixture",
    "MixtureWeights",
    "RandomFeatures",
    "RecentContext",
    "ReservoirReplay",
    "RidgeMemory",
    "keep_absent",
    "mix_experts",
    "restrict_to_present",
]
