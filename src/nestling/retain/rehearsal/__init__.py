"""Rehearsal: some of what came by is kept and learned, or held, again."""

from nestling.retain.rehearsal.der import DER, DERpp, answer_distance
from nestling.retain.rehearsal.er import ER, ERACE
from nestling.retain.rehearsal.gem import AGEM, GEM
from nestling.retain.rehearsal.gradients import solve_dual

__all__ = ["AGEM", "DER", "DERpp", "ER", "ERACE", "GEM", "answer_distance", "solve_dual"]
