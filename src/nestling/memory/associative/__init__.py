"""Associative memories written token by token: Hebbian, delta, Oja and Omega rules, retention."""

from nestling.memory.associative.chunked_mlp import write_mlp
from nestling.memory.associative.chunked_writes import write_pairs
from nestling.memory.associative.fast_state import FastState
from nestling.memory.associative.inner_objectives import (
    DECAY,
    DOT,
    L2,
    InnerObjective,
    WeightRetention,
    find_loss,
    find_push,
    find_weights,
)
from nestling.memory.associative.linear_loop import loop_pairs
from nestling.memory.associative.mlp_loop import loop_mlp
from nestling.memory.associative.mlp_state import DeepFastState
from nestling.memory.associative.named_rules import (
    write_delta,
    write_hebbian,
    write_oja,
    write_omega,
)
from nestling.memory.associative.write_rule import DELTA, HEBBIAN, OJA, WriteRule

__all__ = [
    "DECAY",
    "DELTA",
    "DOT",
    "DeepFastState",
    "FastState",
    "HEBBIAN",
    "InnerObjective",
    "L2",
    "OJA",
    "WeightRetention",
    "WriteRule",
    "find_loss",
    "find_push",
    "find_weights",
    "loop_mlp",
    "loop_pairs",
    "write_delta",
    "write_hebbian",
    "write_mlp",
    "write_oja",
    "write_omega",
    "write_pairs",
]
