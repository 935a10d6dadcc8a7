"""What passes from fast levels to slow ones, and proposals that change slow weights."""

from nestling.consolidate.proposal import Judge, Proposal, Verdict, propose
from nestling.consolidate.transfers import (
    average,
    ema_update,
    lookahead_step,
    merge_overlay,
    refit,
)

__all__ = [
    "Judge",
    "Proposal",
    "Verdict",
    "average",
    "ema_update",
    "lookahead_step",
    "merge_overlay",
    "propose",
    "refit",
]
