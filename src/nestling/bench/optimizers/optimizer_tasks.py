"""Small tasks for optimizers: an MLP and a ViT on Fashion-MNIST, a byte-level GPT on questions.

Axes: B batch, P patches, T bytes, C width, K classes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.bench.suites.parallel_cells import CellFolders
from nestling.core.seeds import make_generator
from nestling.data import load
from nestling.data.sources import obtain
from nestling.data.sources.texts import read_banking77
from nestling.models import mlp
from nestling.models.transformer import gpt_blocks

Batch = tuple[Tensor, Tensor]  # inputs, and the class of each example or byte

WIDTH, NUM_LAYERS, NUM_HEADS = 64, 2, 4
BATCH_SIZE, NUM_HELD_OUT, NUM_TRAIN = 64, 2_000, 50_000
SIDE, PATCH, NUM_CLASSES = 28, 7, 10
NUM_BYTES, LENGTH, NUM_TEXTS, NUM_WINDOWS = 256, 64, 12, 256


@dataclass(frozen=True)
class OptimizerTask:
    """What is learned, and where it is judged.

    Args:
        make_model: a new model, from torch's generator.
        body: name of the module whose matrices a rule for matrices takes.
        draw: a training batch.
        validation: held out of training, for the choice of settings.
        test: never seen before the final runs.
        num_classes: K.
    """

    make_model: Callable[[], nn.Module]
    body: str
    draw: Callable[[torch.Generator], Batch]
    validation: Batch
    test: Batch
    num_classes: int

    @property
    def guess(self) -> float:
        """Cross-entropy of an even guess, log K."""
        return math.log(self.num_classes)


class PatchTransformer(nn.Module):
    """Small vision transformer (ViT): patches as tokens, blocks, mean pooling, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH * PATCH, WIDTH)
        self.position = nn.Parameter(torch.empty((SIDE // PATCH) ** 2, WIDTH).normal_(std=0.02))
        self.blocks = gpt_blocks(NUM_LAYERS, WIDTH, NUM_HEADS, causal=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, NUM_CLASSES)

    def forward(self, x_BPI: Tensor) -> Tensor:
        """(B, P, pixels of a patch) -> (B, K) logits."""
        seen_BPC = self.blocks(self.embed(x_BPI) + self.position)
        logits_BK: Tensor = self.head(self.norm(seen_BPC).mean(dim=1))
        return logits_BK


class ByteGPT(nn.Module):
    """Small language model of bytes: embedding, causal blocks, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(NUM_BYTES, WIDTH)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.position = nn.Parameter(torch.empty(LENGTH, WIDTH).normal_(std=0.02))
        self.blocks = gpt_blocks(NUM_LAYERS, WIDTH, NUM_HEADS)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, NUM_BYTES)

    def forward(self, bytes_BT: Tensor) -> Tensor:
        """(B, T) integers -> (B, T, 256) logits of the next byte."""
        x_BTC = self.embed(bytes_BT) + self.position[: bytes_BT.shape[1]]
        logits_BTK: Tensor = self.head(self.norm(self.blocks(x_BTC)))
        return logits_BTK


def make_mlp_task(place: CellFolders) -> OptimizerTask:
    """Fashion-MNIST for an MLP 784-128-128-10, batches of 64."""
    return _make_images(place, lambda: mlp([SIDE * SIDE, 128, 128, NUM_CLASSES]), "trunk", _flat)


def make_vit_task(place: CellFolders) -> OptimizerTask:
    """Fashion-MNIST in 16 patches of 7 x 7 for a ViT of width 64, batches of 64."""
    return _make_images(place, PatchTransformer, "blocks", cut_patches)


def make_lm_task(place: CellFolders) -> OptimizerTask:
    """Bytes of Banking77's questions for a GPT of width 64, batches of 12 windows of 64.

    A tenth of the training questions is for validation; the test file is for the test.
    """
    train, test = (
        [text for text, _ in read_banking77(path)]
        for path in obtain("banking77", place.data, offline=place.offline)
    )
    generator = make_generator(0, "questions")
    order = torch.randperm(len(train), generator=generator, device="cpu").tolist()
    shuffled = [train[row] for row in order]
    num_kept = len(shuffled) - len(shuffled) // 10
    learned = encode_texts(shuffled[:num_kept])
    mixed = torch.randperm(len(test), generator=generator, device="cpu").tolist()
    held_out = (encode_texts(shuffled[num_kept:]), encode_texts([test[row] for row in mixed]))
    validation, tested = (cut_windows(one, spread_starts(one)) for one in held_out)

    def draw(generator: torch.Generator) -> Batch:
        high = len(learned) - LENGTH
        starts = torch.randint(high, (NUM_TEXTS,), generator=generator, device="cpu")
        return cut_windows(learned, starts)

    return OptimizerTask(ByteGPT, "blocks", draw, validation, tested, NUM_BYTES)


TASKS: Mapping[str, Callable[[CellFolders], OptimizerTask]] = {
    "mlp": make_mlp_task,
    "vit": make_vit_task,
    "lm": make_lm_task,
}


def cut_patches(images_BN: Tensor) -> Tensor:
    """Images of 28 x 28 as 16 patches of 7 x 7: (B, 784) -> (B, 16, 49).

    >>> cut_patches(torch.arange(784.0)[None])[0, 1, :2]
    tensor([7., 8.])
    """
    images_B1HW = images_BN.reshape(-1, 1, SIDE, SIDE)
    return functional.unfold(images_B1HW, PATCH, stride=PATCH).mT


def encode_texts(texts: list[str]) -> Tensor:
    """Texts as one row of bytes, a line each.

    >>> encode_texts(["a", "b"])
    tensor([97, 10, 98])
    """
    return torch.tensor(list("\n".join(texts).encode()), dtype=torch.long, device="cpu")


def cut_windows(text_T: Tensor, starts_B: Tensor) -> Batch:
    """Windows of a text, and of each byte the next one: (B, 64) twice."""
    places_BT = starts_B[:, None] + torch.arange(LENGTH, device=text_T.device)
    return text_T[places_BT], text_T[places_BT + 1]


def spread_starts(text_T: Tensor) -> Tensor:
    """Starts of windows that do not overlap, spread evenly over a text; 256 or fewer."""
    count = min(NUM_WINDOWS, (len(text_T) - 1) // LENGTH)
    return torch.arange(count, device=text_T.device) * ((len(text_T) - 1) // count)


def _flat(images_BN: Tensor) -> Tensor:
    return images_BN


def _make_images(
    place: CellFolders,
    make_model: Callable[[], nn.Module],
    body: str,
    shape: Callable[[Tensor], Tensor],
) -> OptimizerTask:
    x, y, x_test, y_test = load("fashion-mnist", place.data, offline=place.offline)
    end = NUM_TRAIN + NUM_HELD_OUT
    validation = shape(x[NUM_TRAIN:end]), y[NUM_TRAIN:end]
    test = shape(x_test[:NUM_HELD_OUT]), y_test[:NUM_HELD_OUT]

    def draw(generator: torch.Generator) -> Batch:
        rows = torch.randint(NUM_TRAIN, (BATCH_SIZE,), generator=generator, device="cpu")
        return shape(x[rows]), y[rows]

    return OptimizerTask(make_model, body, draw, validation, test, NUM_CLASSES)
