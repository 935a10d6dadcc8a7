"""Search over the knobs of a plan: how well it retains against how fast it adapts."""

from nestling.learn.tuning.front import PREFERENCES, Point, choose_point, draw_front, find_front
from nestling.learn.tuning.jobs import TuneJob, load_tune_job
from nestling.learn.tuning.searching import Result, tune
from nestling.learn.tuning.space import Knob, apply_knobs, derive_space, read_space
from nestling.learn.tuning.trials import Trial

__all__ = [
    "Knob",
    "PREFERENCES",
    "Point",
    "Result",
    "Trial",
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
