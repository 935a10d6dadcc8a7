"""Periods and rates from the signal, the noise and the conflict of gradients."""

import math
from collections.abc import Sequence

from nestling.jobs.suggest.signals import GroupMeasurement

# A mean gradient with as much signal as noise has cosine 0.7 with the true one; averaging on
# would cost more updates than the better direction is worth.
TARGET_SNR = 1.0
MAX_PERIOD = 64
# Rates of the default plan: a part that is to learn, and features that are to stay.
FAST_LR, SLOW_LR = 1e-3, 1e-4
# Cosines of independent noise scatter around zero; only what is clearly below counts.
MIN_CONFLICT = -0.1
# The part of the rate that conflict and noise must leave: a level that hardly moves is of no use.
MIN_SHARE_OF_RATE = 0.25


def choose_period(snr: float) -> int:
    """Steps whose mean gradient has as much signal as noise.

    A mean over T independent batches has sqrt(T) times the ratio of one:
    T = (target / snr)^2, rounded to a power of two, from 1 to 64.

    Args:
        snr: signal over noise of one batch's gradient, >= 0.

    >>> [choose_period(snr) for snr in (3.0, 0.5, 0.2, 0.0)]
    [1, 4, 32, 64]
    """
    if snr <= 0.0:
        return MAX_PERIOD
    power = 2.0 * (math.log2(TARGET_SNR) - math.log2(snr)) if math.isfinite(snr) else 0.0
    period: int = 2 ** max(0, min(round(power), round(math.log2(MAX_PERIOD))))
    return period


def choose_rate(base: float, snr: float, period: int, conflict: float) -> float:
    """The base rate, less where averaging cannot make up for noise, and where old and new differ.

    lr = base * min(1, snr sqrt(period) / target) * (1 + min(0, cosine)), at least a quarter of
    the base. Of a step along the new gradient, -cosine is the share that undoes the old one.

    Args:
        base: rate of a level with a clear signal and no conflict.
        snr: signal over noise of one batch's gradient.
        period: batches that are averaged.
        conflict: cosine of old and new mean gradient.

    Returns: two significant digits.

    >>> choose_rate(1e-3, 2.0, 1, 0.9), choose_rate(1e-3, 2.0, 1, -0.5)
    (0.001, 0.0005)
    """
    clear = min(1.0, snr * math.sqrt(period) / TARGET_SNR)
    # The period was rounded, so up to the root of two is no lack of signal.
    clear = 1.0 if clear > 0.7 else clear
    agreed = 1.0 + conflict if conflict < MIN_CONFLICT else 1.0
    return float(f"{base * max(MIN_SHARE_OF_RATE, clear * agreed):.2g}")


def join_blocks(blocks: Sequence[GroupMeasurement]) -> GroupMeasurement:
    """Several blocks as one: squares of signal and noise add up, the worst conflict counts.

    Args:
        blocks: at least one.
    """
    num_weights = sum(block.num_weights for block in blocks)
    return GroupMeasurement(
        name=", ".join(block.name for block in blocks),
        pattern="*",
        num_weights=num_weights,
        signal=math.hypot(*(block.signal for block in blocks)),
        noise=math.hypot(*(block.noise for block in blocks)),
        conflict=min(block.conflict for block in blocks),
        fisher=sum(block.fisher * block.num_weights for block in blocks) / num_weights,
        fisher_share=sum(block.fisher_share for block in blocks),
    )
