"""Regularisation and distillation losses that hold old weights or old answers."""

from nestling.protect.penalties.distillation import LwF, MaskAbsent, distillation_loss, mask_absent
from nestling.protect.penalties.ewc import EWC, OnlineEWC, ewc_penalty
from nestling.protect.penalties.fisher import estimate_fisher
from nestling.protect.penalties.l2sp import L2SP, l2sp_penalty
from nestling.protect.penalties.path_importance import MAS, SI, estimate_sensitivity, weigh_path

__all__ = [
    "EWC",
    "L2SP",
    "LwF",
    "MAS",
    "MaskAbsent",
    "OnlineEWC",
    "SI",
    "distillation_loss",
    "estimate_fisher",
    "estimate_sensitivity",
    "ewc_penalty",
    "l2sp_penalty",
    "mask_absent",
    "weigh_path",
]
