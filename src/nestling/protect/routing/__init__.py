"""Modules per context over a shared backbone, chosen by routers and grown on surprise."""

from nestling.protect.routing.learned_router import LearnedRouter
from nestling.protect.routing.likelihood_router import LikelihoodRouter
from nestling.protect.routing.module_bank import ModuleBank
from nestling.protect.routing.module_growth import Growth, MergingRouter, merge_contexts
from nestling.protect.routing.routed_step import (
    StepResult,
    learn_held,
    learn_routed,
    predict_routed,
)
from nestling.protect.routing.router import Explanation, Router, TaskRouter
from nestling.protect.routing.router_tree import TreeRouter

__all__ = [
    "Explanation",
    "Growth",
    "LearnedRouter",
    "LikelihoodRouter",
    "MergingRouter",
    "ModuleBank",
    "Router",
    "StepResult",
    "TaskRouter",
    "TreeRouter",
    "learn_held",
    "learn_routed",
    "merge_contexts",
    "predict_routed",
]
