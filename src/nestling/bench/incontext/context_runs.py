"""One model learns one task in context: trained, tuned on a seed of its own, asked on others."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.bench.incontext.context_models import (
    CONTEXT_MODELS,
    ContextReader,
    Shape,
    count_parameters,
)
from nestling.bench.incontext.context_tasks import UNASKED, ContextTask, DrawSequences
from nestling.core.errors import NonFiniteInput
from nestling.core.machine import use_threads
from nestling.core.seeds import make_generator

# Axes: B sequences, T positions.

LEARNING_RATES = (3e-3, 1e-2)  # each is tried by each model, on one seed that is no test seed
TUNING_SEED = 100
WARM_UP, NUM_ASKED = 0.1, 64  # share of steps; sequences of a test


@dataclass(frozen=True)
class ContextRun:
    """What one run came to.

    Args:
        within: accuracy on new sequences of the training length.
        beyond: accuracy on longer ones: of formal languages at the positions after the training
            length, otherwise at all positions that are asked.
        whole: share of the longer sequences without an error.
        loss: cross-entropy on the sequences of `within`; infinite where training blew up.
        seconds: of this thread, which other processes do not lengthen.
        num_parameters: of the whole model.
    """

    within: float
    beyond: float
    whole: float
    loss: float
    seconds: float
    num_parameters: int


def choose_shape(task: ContextTask) -> Shape:
    """Heads of a task's models: of width 1 to write formal languages, otherwise two.

    >>> from nestling.bench.incontext.context_tasks import CONTEXT_TASKS
    >>> choose_shape(CONTEXT_TASKS["recall"])
    Shape(width=64, num_heads=2, num_writing=2)
    """
    if task.asks_late:
        return Shape(task.width, 4, task.width)
    return Shape(task.width, 2, 2)


def make_reader(task: ContextTask, model: str) -> ContextReader:
    """A model for a task, with torch's seed as it stands."""
    block = CONTEXT_MODELS[model](choose_shape(task))
    return ContextReader(task.num_inputs, task.num_answers, task.width, block)


def run_task(task: ContextTask, model: str, lr: float, seed: int) -> ContextRun:
    """Train a model on a task and ask it, with one thread.

    AdamW with warm-up and a cosine, gradients clipped at 1. It stays in training mode, in which a
    CMS writes; there is nothing in it, such as dropout, that is for training only.

    Args:
        task: what is learned.
        model: name of one of `CONTEXT_MODELS`.
        lr: AdamW's learning rate at its highest.
        seed: of weights and sequences.

    Returns: its figures; a run that blew up has accuracy 0 and infinite loss.

    Raises:
        KeyError: no such model.
    """
    generator = make_generator(seed, "in context")
    draw = task.draw(seed)
    start = time.thread_time()
    with torch.random.fork_rng(devices=[]), use_threads(1):
        torch.manual_seed(seed)
        reader = make_reader(task, model)
        failed = ContextRun(0.0, 0.0, 0.0, math.inf, 0.0, count_parameters(reader))
        try:
            train_reader(reader, task, draw, lr, generator)
            found = ask_reader(reader, task, draw, generator, failed)
        except NonFiniteInput:  # a memory refuses what a diverged model gives it
            found = failed
    return replace(found, seconds=time.thread_time() - start)


def tune_and_run(
    task: ContextTask, model: str, seeds: Sequence[int], rates: Sequence[float] = LEARNING_RATES
) -> tuple[float, list[ContextRun]]:
    """Choose a learning rate by the loss on a seed of its own, then run every test seed.

    Args:
        task: what is learned.
        model: name of one of `CONTEXT_MODELS`.
        seeds: a run each.
        rates: learning rates that are tried; one is not tried, but taken.

    Returns: the learning rate, by the least loss at the training length; a run per seed.
    """
    chosen = rates[0]
    if len(rates) > 1:
        losses = [run_task(task, model, lr, TUNING_SEED).loss for lr in rates]
        chosen = rates[losses.index(min(losses))]
    return chosen, [run_task(task, model, chosen, seed) for seed in seeds]


def train_reader(
    reader: nn.Module,
    task: ContextTask,
    draw: DrawSequences,
    lr: float,
    generator: torch.Generator,
) -> None:
    """Train a model on fresh sequences at each step, in place.

    Raises:
        NonFiniteInput: it blew up.
    """
    optimizer = torch.optim.AdamW(reader.parameters(), lr)
    num_warm_up = max(1, int(WARM_UP * task.num_steps))
    for step in range(task.num_steps):
        warm_up = min(1.0, (step + 1) / num_warm_up)
        for group in optimizer.param_groups:
            group["lr"] = lr * warm_up * (1 + math.cos(math.pi * step / task.num_steps)) / 2
        loss = _find_loss(reader, *draw(task.batch_size, task.train_length, generator))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()


@torch.no_grad()
def ask_reader(
    reader: nn.Module,
    task: ContextTask,
    draw: DrawSequences,
    generator: torch.Generator,
    run: ContextRun,
) -> ContextRun:
    """Ask a model on new sequences, as long as those of training and longer.

    Args:
        reader: (B, T, F) -> (B, T, K) logits.
        task: what it learned.
        draw: its sequences.
        generator: of new ones.
        run: gives everything but accuracies and loss.

    Returns: the run with accuracies and loss.
    """
    inputs_BTF, labels_BT = draw(NUM_ASKED, task.train_length, generator)
    loss = float(_find_loss(reader, inputs_BTF, labels_BT))
    right_BT, asked_BT = _find_right(reader, inputs_BTF, labels_BT)
    within = float(right_BT[asked_BT].float().mean())
    right_BT, asked_BT = _find_right(reader, *draw(NUM_ASKED, task.test_length, generator))
    whole = float((right_BT | ~asked_BT).all(1).float().mean())
    if task.asks_late:
        asked_BT[:, : task.train_length] = False
    beyond = float(right_BT[asked_BT].float().mean())
    if not math.isfinite(loss):
        return replace(run, loss=math.inf)
    return replace(run, within=within, beyond=beyond, whole=whole, loss=loss)


def _find_loss(reader: nn.Module, inputs_BTF: Tensor, labels_BT: Tensor) -> Tensor:
    logits_NK = reader(inputs_BTF).flatten(0, 1)
    return functional.cross_entropy(logits_NK, labels_BT.flatten(), ignore_index=UNASKED)


def _find_right(reader: nn.Module, inputs_BTF: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T) each: whether the answer is right, and whether one is asked."""
    return reader(inputs_BTF).argmax(-1) == labels_BT, labels_BT != UNASKED
