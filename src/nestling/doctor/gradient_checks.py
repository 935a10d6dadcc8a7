"""Whether every parameter of a write rule is reached by gradient, and whether learning works."""

import math

import torch
from torch import Tensor

from nestling.doctor.check_results import Check, failed, list_names, passed, skipped
from nestling.doctor.examined_model import ExaminedModel, Mode
from nestling.doctor.practice import Practice
from nestling.doctor.sequence_checks import draw_like

REACHED, CHANCE = "write rules receive gradient", "learns above chance"
NUM_STEPS = 3  # as many as there are batches
# Tried in turn: what is learned by heart at one of them is learned.
RATES, NUM_FITS, LEARNED = (1e-2, 1e-1, 1e-3), 60, 0.1


def check_gradients(subject: ExaminedModel, practice: Practice) -> Check:
    """Whether every trainable parameter has a gradient that is not zero in one of three steps,
    on three batches.

    Keys, values, queries, rates, decays and initial states of a memory are among them. Two calls
    are made, the second with the state of the first, so that what only lasts counts.
    """
    if subject.learns_by_itself:
        return skipped(REACHED, "model", "its outputs carry no gradient; it learns by its own rule")
    one = subject.copy()
    named = {name: p for name, p in one.module.named_parameters() if p.requires_grad}
    if not named:
        return skipped(REACHED, "model", "no parameter is trainable (requires_grad)")
    optimizer = torch.optim.Adam(named.values(), lr=1e-2)
    reached: set[str] = set()
    # The second batch is another one, the third far from the first: clamps may open there.
    x = one.x
    batches = [x, draw_like(x, "gradient"), 3 * x if x.is_floating_point() else x]
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        loss = _lose_twice(one, batches[step], practice, step)
        if not loss.requires_grad:
            return failed(
                REACHED, "model", "the output has no graph; drop no_grad() and detach() before it"
            )
        loss.backward()
        for name, param in named.items():
            grad = param.grad
            if grad is not None and bool(
                (grad.coalesce().values() if grad.is_sparse else grad).any()
            ):
                reached.add(name)
        optimizer.step()
    dead = [name for name in named if name not in reached]
    if dead:
        return failed(
            REACHED,
            list_names(dead),
            f"{len(dead)} of {len(named)} parameters got no gradient in {NUM_STEPS} steps; look "
            "for detach(), no_grad(), .item() or a closed clamp on their way to the output",
        )
    return passed(REACHED, "model", f"all {len(named)} parameters got gradient")


def check_chance(subject: ExaminedModel, practice: Practice) -> Check:
    """Whether the model learns by heart at all: accuracy is shown beside forgetting.

    It learns the first half of the samples, then the second. Forgetting of what was never known
    says nothing: at chance the check fails.
    """
    if subject.learns_by_itself:
        return skipped(CHANCE, "model", "its outputs carry no gradient; it learns by its own rule")
    half = len(subject.x) // 2
    if half < 1:
        return skipped(CHANCE, "model", "the inputs are one sample; two or more show it")
    if not any(param.requires_grad for param in subject.module.parameters()):
        return skipped(CHANCE, "model", "no parameter is trainable (requires_grad)")
    said = ""
    for rate in RATES:
        one = subject.copy()
        optimizer = torch.optim.Adam(one.module.parameters(), lr=rate)
        parts = [(subject.x[rows], practice.select(rows)) for rows in _halve(half)]
        loss = _fit(one, optimizer, *parts[0])
        learned, chance, number = _score(one, *parts[0])
        if math.isfinite(loss):
            loss = _fit(one, optimizer, *parts[1])
        kept, _, _ = _score(one, *parts[0])
        kind = "accuracy" if practice.num_classes else "variance explained"
        said = (
            f"{kind} {learned:.2f} where chance is {chance:.2f}, after the second half {kept:.2f}: "
            f"forgetting {learned - kept:.2f}"
        )
        bound = 0.01
        if practice.num_classes:
            bound = chance + 2 * math.sqrt(max(chance * (1 - chance), 1e-9) / number)
        if math.isfinite(loss) and learned > min(bound, 0.99):
            return passed(CHANCE, "model", said)
    return failed(
        CHANCE,
        "model",
        f"{said} says nothing, since {NUM_FITS} steps of Adam on {half} samples taught it nothing; "
        "see that the output depends on the input and on the weights",
    )


def _halve(half: int) -> tuple[slice, slice]:
    return slice(0, half), slice(half, 2 * half)


def _lose_twice(one: ExaminedModel, x: Tensor, practice: Practice, salt: int) -> Tensor:
    """Loss of a call and of one that goes on from its state."""
    y, state = one.call(x, write=True, salt=salt)
    loss = practice.loss(y)
    if one.has_state:
        again, _ = one.call(x, state, write=True, salt=salt)
        loss = loss + practice.loss(again)
    return loss


def _fit(
    one: ExaminedModel, optimizer: torch.optim.Optimizer, x: Tensor, practice: Practice
) -> float:
    """Learn one batch; the last loss."""
    one.module.train()
    loss = math.nan
    for step in range(NUM_FITS):
        optimizer.zero_grad()
        value = practice.loss(one.call(x, write=True, salt=step)[0])
        if value.requires_grad:
            value.backward()
            optimizer.step()
        loss = float(value.detach())
        if not math.isfinite(loss) or loss < LEARNED:
            break
    return loss


@torch.no_grad()
def _score(one: ExaminedModel, x: Tensor, practice: Practice) -> tuple[float, float, int]:
    """Score in evaluation or in training mode, whichever is better (some write in one only)."""
    modes: tuple[Mode, ...] = ("eval", "train")
    return max(practice.score(one.copy(mode).call(x, write=True)[0]) for mode in modes)
