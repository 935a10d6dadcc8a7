"""Memories: online ridge regression, banks of it, the class prior and replay buffers."""

from nestling.memory.bank import MemoryBank
from nestling.memory.context import RecentContext
from nestling.memory.features import JoinedFeatures, RandomFeatures
from nestling.memory.gate import FixedShare, fixed_share_update
from nestling.memory.mixture import mix_experts, mix_on_present, restrict_to_present
from nestling.memory.prior import ClassPrior
from nestling.memory.replay_store import BalancedReplay, ReservoirReplay
from nestling.memory.ridge import RidgeMemory

__all__ = [
    "BalancedReplay",
    "ClassPrior",
    "FixedShare",
    "JoinedFeatures",
    "MemoryBank",
    "RandomFeatures",
    "RecentContext",
    "ReservoirReplay",
    "RidgeMemory",
    "fixed_share_update",
    "mix_experts",
    "mix_on_present",
    "restrict_to_present",
]
