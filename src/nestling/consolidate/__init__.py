"""Consolidation: averages, transfers and judged proposals that change slow weights."""

from nestling.consolidate.anchors import (
    Comparison,
    bound_fall,
    bound_share,
    compare_on_anchors,
    promise,
    share_confidence,
)
from nestling.consolidate.beakers import Beakers
from nestling.consolidate.dreams import draw_codes
from nestling.consolidate.gated import AnchorGate
from nestling.consolidate.offline import consolidate_offline, distil_divergence
from nestling.consolidate.outer import OuterNesterov
from nestling.consolidate.proposal import Judge, Proposal, Verdict, propose
from nestling.consolidate.slow_rates import split_rates
from nestling.consolidate.teaching import (
    Dreams,
    draw_weights,
    dream,
    mix_targets,
    score_agreement,
    teach_asleep,
)
from nestling.consolidate.transfers import (
    average,
    ema_update,
    merge_overlay,
    refit,
)
from nestling.levels.outer_rules import (
    Chain,
    lookahead_step,
    make_chain,
    measure_charge,
    outer_step,
    step_beakers,
)

__all__ = [
    "AnchorGate",
    "Beakers",
    "Chain",
    "Comparison",
    "Dreams",
    "Judge",
    "OuterNesterov",
    "Proposal",
    "Verdict",
    "average",
    "bound_fall",
    "bound_share",
    "compare_on_anchors",
    "consolidate_offline",
    "distil_divergence",
    "draw_codes",
    "draw_weights",
    "dream",
    "ema_update",
    "lookahead_step",
    "make_chain",
    "measure_charge",
    "merge_overlay",
    "mix_targets",
    "outer_step",
    "promise",
    "propose",
    "refit",
    "score_agreement",
    "share_confidence",
    "split_rates",
    "step_beakers",
    "teach_asleep",
]
