"""Modules per context over a shared spine: routers choose them, surprise grows them."""

from nestling.retain.routing.bank import ModuleBank
from nestling.retain.routing.growth import Growth, MergingRouter, merge_contexts
from nestling.retain.routing.learned import LearnedRouter
from nestling.retain.routing.likelihood import LikelihoodRouter
from nestling.retain.routing.router import Explanation, Router, TaskRouter
from nestling.retain.routing.step import (
    StepResult,
    learn_held,
    learn_routed,
    predict_routed,
)
from nestling.retain.routing.tree import TreeRouter

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
