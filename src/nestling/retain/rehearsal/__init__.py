"""Rehearsal: some of what came by is kept and learned, or held, again."""

from nestling.retain.rehearsal.averages import EMAReader, MeanER, ramp_decay
from nestling.retain.rehearsal.clser import CLSER, choose_answers
from nestling.retain.rehearsal.der import DER, DERpp, answer_distance
from nestling.retain.rehearsal.er import ER, ERACE
from nestling.retain.rehearsal.gdumb import GDumb
from nestling.retain.rehearsal.gem import AGEM, GEM
from nestling.retain.rehearsal.gradients import solve_dual

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
