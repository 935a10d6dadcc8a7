"""Hyperparameter search for a plan: retention against adaptation."""

from nestling.jobs.tune.front import PREFERENCES, Point, choose_point, draw_front, find_front
from nestling.jobs.tune.searching import Result, tune
from nestling.jobs.tune.space import Knob, apply_knobs, derive_space, read_space
from nestling.jobs.tune.trials import PlanTrial
from nestling.jobs.tune.tuning_job import TuneJob, load_tune_job

__all__ = [
    "Knob",
    "PREFERENCES",
    "Point",
    "Result",
    "PlanTrial",
    "TuneJob",
    "apply_knobs",
    "choose_point",
    "derive_space",
    "draw_front",
    "find_front",
    "load_tune_job",
    "read_space",
    "tune",
]
