"""Outer rules of copy levels: slow weights behind the live ones, which go on from them."""

from nestling.levels.outer_rules.beaker_chain import (
    Chain,
    check_step,
    make_chain,
    measure_charge,
    step_beakers,
)
from nestling.levels.outer_rules.outer_steps import lookahead_step, outer_step, read_fast
from nestling.levels.outer_rules.rule_specs import (
    AnyRule,
    BeakersRule,
    LookaheadRule,
    OuterNesterovRule,
    OuterRule,
    beakers,
    lookahead,
    outer_nesterov,
)

__all__ = [
    "AnyRule",
    "BeakersRule",
    "Chain",
    "LookaheadRule",
    "OuterNesterovRule",
    "OuterRule",
    "beakers",
    "check_step",
    "lookahead",
    "lookahead_step",
    "make_chain",
    "measure_charge",
    "outer_nesterov",
    "outer_step",
    "read_fast",
    "step_beakers",
]
