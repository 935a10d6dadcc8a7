"""From measurements to a plan: every choice with its reason and the number that it rests on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nestling.core.errors import PlanError
from nestling.learn.default import HALF_LIVES
from nestling.learn.suggest.linearity import Linearity
from nestling.learn.suggest.measuring import GroupMeasurement, Measurements
from nestling.levels import Level, Memory, Plan, mix
from nestling.optim import adamw

# An update from a mean gradient with as much signal as noise points the right way more often
# than not; averaging on costs updates.
TARGET_SNR = 1.0
MAX_PERIOD = 64
# Rates of the default plan: a part that is to learn, and features that are to stay.
FAST_LR, SLOW_LR = 1e-3, 1e-4
# Scores that are nearer than this are equal, whatever the number of examples: a point of
# accuracy, or a hundredth of R squared.
MIN_MARGIN = 0.01
# Cosines of independent noise scatter around zero; only what is clearly below counts.
MIN_CONFLICT = -0.1
# The part of the rate that conflict and noise must leave: a level that hardly moves is of no use.
MIN_SHARE_OF_RATE = 0.25
# A block is important if its weights hold this many times the Fisher of the mean weight.
HIGH_FISHER = 2.0
FISHER_PERIODS = 4
# The default's own period for a network beside a memory: at a strong signal, every second step
# costs half and loses nothing.
NETWORK_PERIOD = 2
REPLAY_ADVISED = 200


@dataclass(frozen=True)
class Reason:
    """Why a value was chosen.

    Attributes:
        level: name of the level; "learner" for advice beyond the plan.
        choice: the field that was chosen, e.g. "period".
        value: what was chosen.
        reason: in words, with the measured number.
    """

    level: str
    choice: str
    value: str
    reason: str


@dataclass(frozen=True)
class Suggestion:
    """A plan and why it is so.

    Attributes:
        plan: fits the measured model.
        reasons: in the order of the levels; advice comes last.
    """

    plan: Plan
    reasons: tuple[Reason, ...]


def suggest_plan(measurements: Measurements) -> Suggestion:
    """Choose levels, periods, rates and memory.

    If a memory on the model's features answers held-out examples about as well as one on random
    features of the input, or better, the features are worth keeping: the memory reads them, the
    head learns fast, and the blocks before it slowly. If not, the memory reads random features
    of the input and the whole network learns beside it, as in `make_default_plan`. Periods come
    from `choose_period`, rates from `choose_rate`.

    Args:
        measurements: of `measure_model`.

    Raises:
        PlanError: nothing was measured that a plan could be made of.
    """
    if not measurements.groups:
        raise PlanError("the measurements hold no block with weights; measure a trainable model")
    keeps = keeps_features(measurements)
    memory, reasons = _choose_memory(measurements, keeps)
    if keeps:
        levels, more = _split_levels(measurements)
    else:
        levels, more = _choose_network(measurements)
    plan = Plan(memory, *levels, readout=mix("memory", "live"))
    return Suggestion(plan, (*reasons, *more, *_advise(measurements)))


def keeps_features(measurements: Measurements) -> bool:
    """Whether the model's features are worth keeping: score >= that of the input - margin."""
    read = measurements.linearity
    if read.features is None:
        return False
    if read.input_random is None:
        return True
    return read.features >= read.input_random - compute_margin(read)


def compute_margin(read: Linearity) -> float:
    """One standard error of a share at the number of examples held out, at least 0.01.

    sqrt(a (1 - a) / N); for R squared, which may be negative, a is cut to [0, 1].
    """
    best = max(score for score in (read.features, read.input_random, 0.0) if score is not None)
    share = min(1.0, best)
    return max(MIN_MARGIN, math.sqrt(share * (1.0 - share) / read.num_held_out))


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
    power = 2.0 * math.log2(TARGET_SNR / snr) if math.isfinite(snr) else 0.0
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


def _choose_memory(measurements: Measurements, keeps: bool) -> tuple[Memory, list[Reason]]:
    read = measurements.linearity
    unit = "accuracy" if measurements.num_classes else "R squared"
    own, other = _show(read.features), _show(read.input_random)
    margin = compute_margin(read)
    said = (
        f"on {read.num_held_out} held-out examples a memory on the model's features has {unit} "
        f"{own}, one on random features of the input {other} (margin {margin:.3f}): "
    )
    if keeps:
        gain = (read.features_random or 0.0) - (read.features or 0.0)
        is_helped = read.features_random is not None and gain > 0.0
        num_random = read.num_random if is_helped else 0
        where = "the input of the last linear layer"
        reasons = [Reason("memory", "on", where, said + "the features are worth keeping")]
        why = f"random features beside them change {unit} by {gain:+.3f}"
    else:
        num_random, where = read.num_random, "input"
        verdict = "the features are not worth keeping yet"
        if read.features is None:
            verdict = "the model has no linear layer that shows its features"
        reasons = [Reason("memory", "on", where, said + verdict)]
        gain = (read.input_random or 0.0) - (read.input or 0.0)
        why = f"against the plain input they change {unit} by {gain:+.3f}"
        if read.input is None:
            why = "the input is too wide to be read as it is"
    if num_random:
        classes = measurements.num_classes
        why += f"; {num_random} are enough for {measurements.num_examples} examples"
        why += f" of {classes} classes" if classes else ""
    reasons.append(Reason("memory", "num_features", str(num_random), why))
    memory = Memory(
        "memory",
        on=None if keeps else "input",
        half_lives=HALF_LIVES,
        num_features=num_random,
        include_read=keeps and read.features is not None,
        block=256,
    )
    return memory, reasons


def _split_levels(measurements: Measurements) -> tuple[list[Level], list[Reason]]:
    """The head, and the blocks before it: those with the same period share a level."""
    head = next((one for one in measurements.groups if one.name == measurements.head), None)
    spine = [one for one in measurements.groups if one is not head]
    levels: list[Level] = []
    reasons: list[Reason] = []
    if head is not None:
        match = (head.pattern,)
        levels.append(Level("head", match=match, optimizer=adamw(lr=FAST_LR)))
        reasons.append(
            Reason(
                *("head", "period", "1"),
                f"the head ({head.num_weights} weights) is what has to follow new data; "
                f"signal-to-noise {head.snr:.2f}",
            )
        )
    by_period: dict[int, list[GroupMeasurement]] = {}
    for block in spine:
        by_period.setdefault(_slow_down(block, spine), []).append(block)
    for period in sorted(by_period):
        blocks = by_period[period]
        name = "spine" if len(by_period) == 1 else f"spine-{period}"
        level, why = _make_level(name, blocks, spine, period, SLOW_LR)
        levels.append(level)
        reasons += why
    return levels, reasons


def _choose_network(measurements: Measurements) -> tuple[list[Level], list[Reason]]:
    """The whole network as one level: none of it holds what must stay."""
    blocks = measurements.groups
    whole = join_blocks(blocks)
    wanted = choose_period(whole.snr)
    if wanted > NETWORK_PERIOD:
        level, reasons = _make_level("network", blocks, blocks, wanted, FAST_LR, match=("*",))
        return [level], reasons
    level, reasons = _make_level("network", blocks, blocks, NETWORK_PERIOD, FAST_LR, match=("*",))
    # Here the steps between are left out, not averaged, which is what saves their cost.
    said = (
        f"signal-to-noise {whole.snr:.2f} needs a mean over {wanted} steps only, so the network "
        "learns at every second step at half the cost; what is known stays in the memory"
    )
    reasons[0] = replace(reasons[0], reason=said)
    return [replace(level, between="skip")], reasons


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


def _slow_down(block: GroupMeasurement, spine: Sequence[GroupMeasurement]) -> int:
    """The block's period: by its signal, and longer where the model's answers hang on it."""
    period = choose_period(block.snr)
    if _is_important(block, spine):
        period = min(MAX_PERIOD, period * FISHER_PERIODS)
    return period


def _is_important(block: GroupMeasurement, spine: Sequence[GroupMeasurement]) -> bool:
    return len(spine) > 1 and block.fisher > HIGH_FISHER * join_blocks(spine).fisher


def _make_level(
    name: str,
    blocks: Sequence[GroupMeasurement],
    spine: Sequence[GroupMeasurement],
    period: int,
    base: float,
    match: tuple[str, ...] | None = None,
) -> tuple[Level, list[Reason]]:
    whole = join_blocks(blocks)
    rate = choose_rate(base, whole.snr, period, whole.conflict)
    level = Level(
        name,
        match=match or tuple(block.pattern for block in blocks),
        period=period,
        optimizer=adamw(lr=rate),
    )
    of = f"{whole.name}: " if whole.name and match is None else ""
    if whole.signal == 0.0:
        why = "signal-to-noise 0.00: no gradient stands out here; the longest period"
    else:
        why = f"signal-to-noise {whole.snr:.2f}, {_explain(period)}"
    if match is None and (held := [block for block in blocks if _is_important(block, spine)]):
        shown = ", ".join(f"{block.name} {block.fisher_share:.2f}" for block in held)
        share = sum(block.num_weights for block in held) / sum(one.num_weights for one in spine)
        why += (
            f"; {FISHER_PERIODS} times as long for a high share of the Fisher information "
            f"({shown}, of {share:.0%} of the spine's weights)"
        )
    reasons = [Reason(name, "period", str(period), of + why)]
    said = f"base {base:g}; "
    said += f"old and new gradients have cosine {whole.conflict:+.2f}"
    said += ": they conflict" if whole.conflict < MIN_CONFLICT else ": no conflict"
    clear = whole.snr * math.sqrt(period)
    if clear < TARGET_SNR:
        said += f"; averaged signal-to-noise {clear:.2f}"
    reasons.append(Reason(name, "lr", f"{rate:g}", said))
    return level, reasons


def _explain(period: int) -> str:
    if period == 1:
        return "one batch is enough"
    return f"a mean over {period} steps"


def _advise(measurements: Measurements) -> list[Reason]:
    worst = min(measurements.groups, key=lambda block: block.conflict)
    if worst.conflict >= MIN_CONFLICT:
        return []
    where = f"block {worst.name}" if worst.name else "the model"
    return [
        Reason(
            "learner",
            "replay",
            str(REPLAY_ADVISED),
            f"old and new gradients of {where} have cosine {worst.conflict:+.2f}, so the network "
            f"forgets while it learns: nl.Learner(..., replay={REPLAY_ADVISED}) if examples may "
            "be stored, else retain=[nestling.retain.EWC(20.0)]",
        )
    ]


def _show(score: float | None) -> str:
    return "none" if score is None else f"{score:.3f}"
