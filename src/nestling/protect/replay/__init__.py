"""Replay (rehearsal) methods: stored examples are learned again."""

from nestling.protect.replay.clser import CLSER, choose_answers
from nestling.protect.replay.der import DER, DERpp, answer_distance
from nestling.protect.replay.er import ER, ERACE
from nestling.protect.replay.gdumb import GDumb
from nestling.protect.replay.gem import AGEM, GEM
from nestling.protect.replay.gradient_products import solve_dual
from nestling.protect.replay.weight_averages import EMAReader, MeanER, ramp_decay

__all__ = [
    "AGEM",
    "CLSER",
    "DER",
    "ER",
    "ERACE",
    "GEM",
    "DERpp",
    "EMAReader",
    "GDumb",
    "MeanER",
    "answer_distance",
    "choose_answers",
    "ramp_decay",
    "solve_dual",
]
