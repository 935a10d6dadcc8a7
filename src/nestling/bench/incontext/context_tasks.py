"""Tasks of learning in context: associative recall, permuted labels and three formal languages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from nestling.bench.blocks.formal_languages import TASKS as LANGUAGES
from nestling.bench.blocks.formal_languages import Draw
from nestling.core.arguments import check_whole
from nestling.core.errors import SettingError
from nestling.core.seeds import make_generator

# Axes: B sequences, T positions, N pairs, F inputs of a position, K answers, D width of an item.

UNASKED = -100  # label of a position at which nothing is asked; cross-entropy leaves it out
NUM_KEYS, NUM_VALUES = 64, 16
NUM_CLASSES, ITEM_WIDTH, NOISE = 8, 16, 1.0

# Name -> language; names of parts are names of files, and are typed in a shell.
NAMES = {"parity": "parity", "aa": "(aa)*", "abab": "(abab)*"}

DrawSequences = Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]


def draw_recall(num: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Associative recall: pairs of key and value, then each key again, whose value is asked.

    The first half of a sequence holds length / 2 pairs of different keys with random values, a pair
    at each position; the second half asks all of its keys in random order.

    Args:
        num: B.
        length: T; even, at most twice the number of keys.
        generator: of everything.

    Returns: (B, T, F) one-hot keys and values, F = 64 + 16, the value 0 where it is asked; (B, T)
        labels.

    Raises:
        SettingError: a length that is odd or has more pairs than there are keys.
    """
    half = _halve(length, 2 * NUM_KEYS)
    scores_BK = torch.rand(num, NUM_KEYS, generator=generator, dtype=torch.float64, device="cpu")
    keys_BN = scores_BK.argsort(1)[:, :half]
    values_BN = torch.randint(NUM_VALUES, (num, half), generator=generator, device="cpu")
    order_BN = _draw_orders(num, half, generator)
    keys_BT = torch.cat([keys_BN, keys_BN.gather(1, order_BN)], 1)
    labels_BT = torch.cat([torch.full_like(values_BN, UNASKED), values_BN.gather(1, order_BN)], 1)
    inputs_BTF = torch.cat([_one_hot(keys_BT, NUM_KEYS), _show_answers(values_BN, NUM_VALUES)], 2)
    return inputs_BTF, labels_BT


def draw_labels(
    prototypes_KD: Tensor, num: int, length: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Permuted labels: items of known classes, whose labels are dealt anew for each sequence.

    Items are a class's prototype and noise of deviation 1. The first half shows length / 2
    items, each class equally often, with the label of their class in this sequence; the second
    half shows other items, whose label is asked. Without what the sequence shows it is a guess.

    Args:
        prototypes_KD: (K, D), the same for all sequences.
        num: B.
        length: T; a multiple of 2 K.
        generator: of everything.

    Returns: (B, T, F) items and one-hot labels, F = D + K, the label 0 where it is asked; (B, T)
        labels.

    Raises:
        SettingError: a length that is no multiple of 2 K.
    """
    num_classes = len(prototypes_KD)
    half = _halve(length)
    if half % num_classes:
        raise SettingError(f"length={length}; a multiple of {2 * num_classes} works")
    deal_BK = _draw_orders(num, num_classes, generator)
    classes_BT = torch.cat([_draw_orders(num, half, generator) % num_classes for _ in range(2)], 1)
    labels_BT = deal_BK.gather(1, classes_BT)
    shape = (num, length, prototypes_KD.shape[1])
    noise_BTD = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
    items_BTD = prototypes_KD[classes_BT] + NOISE * noise_BTD
    inputs_BTF = torch.cat([items_BTD, _show_answers(labels_BT[:, :half], num_classes)], 2)
    labels_BT[:, :half] = UNASKED
    return inputs_BTF, labels_BT


def draw_prototypes(seed: int) -> Tensor:
    """(K, D) prototypes of the classes of `draw_labels`."""
    generator = make_generator(seed, "prototypes")
    shape = (NUM_CLASSES, ITEM_WIDTH)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


@dataclass(frozen=True)
class ContextTask:
    """A task: how sequences are drawn, what a model of it is given and gives, and for how long.

    Args:
        draw: seed of the task -> function of (number, length, generator) that gives (B, T, F)
            inputs and (B, T) labels, `UNASKED` where nothing is asked.
        num_inputs: F.
        num_answers: K.
        width: of the models.
        train_length: T of training.
        test_length: T of the longer sequences that are asked too.
        batch_size: sequences of a step.
        num_steps: optimizer steps.
        asks_late: whether of the longer sequences only positions after the training length are
            asked, as all of them have labels; otherwise all positions with a label are.
    """

    draw: Callable[[int], DrawSequences]
    num_inputs: int
    num_answers: int
    width: int
    train_length: int
    test_length: int
    batch_size: int
    num_steps: int
    asks_late: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "train_length", "batch_size", "num_steps"):
            check_whole(name, getattr(self, name), 1, "1 or more works")


def _make_language(draw: Draw) -> ContextTask:
    def draw_one_hot(num: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        letters_BT, labels_BT = draw(num, length, generator)
        return _one_hot(letters_BT, 2), labels_BT

    return ContextTask(lambda _: draw_one_hot, 2, 2, 32, 40, 256, 8, 400, asks_late=True)


def _bind_prototypes(seed: int) -> DrawSequences:
    prototypes_KD = draw_prototypes(seed)
    return lambda num, length, generator: draw_labels(prototypes_KD, num, length, generator)


CONTEXT_TASKS: Mapping[str, ContextTask] = {
    "recall": ContextTask(
        lambda _: draw_recall, NUM_KEYS + NUM_VALUES, NUM_VALUES, 64, 32, 64, 16, 400
    ),
    "labels": ContextTask(
        _bind_prototypes, ITEM_WIDTH + NUM_CLASSES, NUM_CLASSES, 64, 32, 64, 16, 600
    ),
    **{name: _make_language(LANGUAGES[language]) for name, language in NAMES.items()},
}


def _halve(length: int, most: int | None = None) -> int:
    """Half of an even length."""
    check_whole("length", length, 2, "an even number of 2 or more works")
    if length % 2 or (most is not None and length > most):
        limit = "" if most is None else f" up to {most}"
        raise SettingError(f"length={length}; an even number{limit} works")
    return length // 2


def _draw_orders(num: int, length: int, generator: torch.Generator) -> Tensor:
    """(B, N) a random order of 0 to N - 1 for each sequence."""
    scores_BN = torch.rand(num, length, generator=generator, dtype=torch.float64, device="cpu")
    return scores_BN.argsort(1)


def _one_hot(numbers_BT: Tensor, size: int) -> Tensor:
    return functional.one_hot(numbers_BT, size).to(torch.float32)


def _show_answers(answers_BN: Tensor, size: int) -> Tensor:
    """(B, 2 N, K) one-hot answers in the first half, nothing in the second."""
    shown_BNK = _one_hot(answers_BN, size)
    return torch.cat([shown_BNK, torch.zeros_like(shown_BNK)], 1)
