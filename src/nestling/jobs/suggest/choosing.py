"""From measurements to a plan: every choice with its reason and the number that it rests on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nestling.core.errors import SettingError
from nestling.jobs.suggest.linearity import NUM_SPLITS
from nestling.jobs.suggest.rates import (
    FAST_LR,
    MAX_PERIOD,
    MIN_CONFLICT,
    SLOW_LR,
    TARGET_SNR,
    choose_period,
    choose_rate,
    join_blocks,
)
from nestling.jobs.suggest.signals import GroupMeasurement, Measurements
from nestling.learn.default import HALF_LIVES
from nestling.levels import Level, Memory, Plan, mix
from nestling.optim import adamw

# Features may be this much worse than the input, in accuracy or R squared, and still be kept:
# less than can be measured on a few hundred examples. On digits and breast cancer 0 and 0.01 did
# no better and no worse, to within a test example or two.
MARGIN = 0.005
# A block is important if its weights hold this many times the Fisher of the mean weight.
HIGH_FISHER = 2.0
FISHER_PERIODS = 4
# The default's own period for a network beside a memory: at a strong signal nothing
# has to be averaged, and every second step costs half.
NETWORK_PERIOD = 2
REPLAY_ADVISED = 200


@dataclass(frozen=True)
class Reason:
    """Reason for one choice of a suggested plan.

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
    """Suggested plan with a reason for each of its choices.

    Attributes:
        plan: fits the measured model.
        reasons: in the order of the levels; advice comes last.
    """

    plan: Plan
    reasons: tuple[Reason, ...]


def suggest_plan(measurements: Measurements) -> Suggestion:
    """Suggest a plan from measurements: levels, periods, learning rates and memory.

    If a memory on the model's features answers held-out examples about as well as one on random
    features of the input, or better, the features are worth keeping: the memory reads them, the
    head learns fast, and the blocks before it slowly. If not, the memory reads random features
    of the input and the whole network learns beside it, as in `make_default_plan`. Periods come
    from `choose_period`, rates from `choose_rate`.

    Args:
        measurements: of `measure_model`.

    Raises:
        SettingError: no block with weights, or nothing that a memory could read.
    """
    if not measurements.groups:
        raise SettingError("the measurements hold no block with weights; measure a trainable model")
    keeps = keeps_features(measurements)
    if keeps and measurements.head is None:
        raise SettingError(
            "the input is no numbers and the model has no linear layer, so no memory can read "
            "anything; write a plan of gradient levels by hand, see docs/levels.md"
        )
    memory, reasons = _choose_memory(measurements, keeps)
    if keeps:
        levels, more = _split_levels(measurements)
    else:
        levels, more = _choose_network(measurements)
    plan = Plan(memory, *levels, readout=mix("memory", "live"))
    return Suggestion(plan, (*reasons, *more, *_advise(measurements)))


def suggest_token_plan() -> Suggestion:
    """The plan of a model of token sequences, of which only stacking is measured."""
    said = (
        "a model that gives logits of every next token: signal and conflict are measured on one "
        "answer per example, so this is the slow rate of any plan; see also what pays as stacking"
    )
    plan = Plan(Level("network", match=("*",), optimizer=adamw(lr=SLOW_LR)))
    return Suggestion(plan, (Reason("network", "lr", f"{SLOW_LR:g}", said),))


def keeps_features(measurements: Measurements) -> bool:
    """Whether the features are worth keeping: expected score >= that of the input - margin.

    Where the input is no numbers (indices of words), there is nothing else that a memory can read.
    """
    own, other = measurements.linearity.features_expected, measurements.linearity.input_expected
    if other is None:
        return True
    return own is not None and own >= other - MARGIN


def _choose_memory(measurements: Measurements, keeps: bool) -> tuple[Memory, list[Reason]]:
    read = measurements.linearity
    where, verdict, gain = _judge_features(measurements, keeps)
    num_random = 0 if keeps and gain is not None and gain < 0.0 else read.num_random
    unit = "accuracy" if measurements.num_classes else "R squared"
    said = (
        f"{read.num_held_out} examples, held out in {NUM_SPLITS} splits: a memory on the model's "
        f"features has {unit} {_show(read.features)}, one on random features of the input "
        f"{_show(read.input_random)}; expected of all {measurements.num_examples} examples: "
        f"{_show(read.features_expected)} and {_show(read.input_expected)} (margin {MARGIN}): "
        f"{verdict}"
    )
    why = "what is read is too wide to be kept itself"
    if gain is not None:
        beside = "beside the features" if keeps else "instead of the plain input"
        why = f"random features {beside} change {unit} by {gain:+.3f}"
    if num_random:
        classes = measurements.num_classes
        why += f"; {num_random} for {measurements.num_examples} examples"
        why += f" of {classes} classes" if classes else ""
    memory = Memory(
        "memory",
        on=None if keeps else "input",
        half_lives=HALF_LIVES,
        num_features=num_random,
        include_read=keeps and read.features is not None,
        block=256,
    )
    return memory, [
        Reason("memory", "on", where, said),
        Reason("memory", "num_features", str(num_random), why),
    ]


def _judge_features(measurements: Measurements, keeps: bool) -> tuple[str, str, float | None]:
    """What the memory reads, why, and what random features add to it (None: not measured)."""
    read = measurements.linearity
    if keeps:
        verdict = "the features are worth keeping"
        if read.input_random is None:
            verdict = "the input is no numbers, so the features are all that can be read"
        return (
            "the input of the last linear layer",
            verdict,
            _subtract(read.features_random, read.features),
        )
    verdict = "the features are not worth keeping yet"
    if measurements.head is None:
        verdict = "the model has no linear layer that shows its features"
    elif read.features is None:
        verdict = "the features are too wide for a memory"
    return "input", verdict, _subtract(read.input_random, read.input)


def _subtract(score: float | None, other: float | None) -> float | None:
    return None if score is None or other is None else score - other


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
            "be stored, else retain=[nestling.protect.EWC(20.0)]",
        )
    ]


def _show(score: float | None) -> str:
    return "none" if score is None else f"{score:.3f}"
