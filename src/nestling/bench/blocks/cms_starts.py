"""Do learned initial states pay? A CMS in context, with initial states trained and frozen."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nestling.bench.result import SuiteResult
from nestling.bench.timing import Rows
from nestling.core.seeds import make_generator
from nestling.models.continuum import CMS

# Axes: B sequences, T tokens, C width, K width of a pair's key and of its value.

PAIR, NUM_STORED, NUM_ASKED = 8, 8, 16
BATCH_SIZE, LAST = 16, 0.1  # the share of steps, at the end, whose loss counts
LEARNING_RATE = 3e-3


class PairReader(nn.Module):
    """Reads pairs, then answers keys: embedding, one `CMS`, linear head.

    Args:
        rate: as of `CMS`.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.embed = nn.Linear(2 * PAIR + 1, 32)
        self.memory = CMS(32, (8, 16), hidden=64, rate=rate)
        self.head = nn.Linear(32, PAIR)

    def forward(self, tokens_BTC: Tensor) -> Tensor:
        """(B, T, 2 K + 1) -> (B, T, K)."""
        answers_BTK: Tensor = self.head(self.memory(self.embed(tokens_BTC)))
        return answers_BTK


def measure_learned_starts(
    *, num_steps: int = 300, seeds: tuple[int, ...] = (0, 1, 2)
) -> SuiteResult:
    """Train a CMS on maps that differ between sequences, its initial states trained or frozen.

    Each sequence stores 8 pairs (k, M k) of a map M = M_0 + D, D its own, M_0 shared by a family
    of sequences, then asks for the values of 16 fresh keys. First everything is trained on one
    family; then, on another, the initial states only (`trained`), nothing (`frozen`: it adapts by
    its writes in context), or the initial states of the same model without writes. The `whole_`
    pair trains all else from the start, with initial states trained and as they were drawn.

    Args:
        num_steps: steps of AdamW, rate 3e-3, in each of the two stages.
        seeds: one run of each side for each.

    Returns: figures `loss_trained`, `loss_frozen`, `loss_no_writes`, `loss_whole_trained` and
        `loss_whole_frozen`: mean squared error over the last tenth of steps, on sequences never
        seen before, mean over seeds; 1 says that nothing was learned. Rows for each seed.
    """
    rows: Rows = [
        {"part": "initial states", "side": side, "seed": seed, "loss": loss}
        for seed in seeds
        for side, loss in _compare(seed, num_steps).items()
    ]
    figures: dict[str, float] = {}
    for row in rows:
        name = f"loss_{row['side']}"
        figures[name] = figures.get(name, 0.0) + float(str(row["loss"])) / len(seeds)
    return SuiteResult("blocks", figures=figures, rows=rows)


def _compare(seed: int, num_steps: int) -> dict[str, float]:
    """Loss of every side with one seed."""
    draws = make_generator(seed, "families")
    first_KK, second_KK = (
        torch.randn(PAIR, PAIR, generator=draws, dtype=torch.float32, device="cpu")
        for _ in range(2)
    )

    def make(rate: float) -> PairReader:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return PairReader(rate)

    def train(model: PairReader, shared_KK: Tensor, trained: Callable[[str], bool]) -> float:
        return _train(model, shared_KK, trained, make_generator(seed, "sequences"), num_steps)

    losses = {}
    whole, still = make(1.0), make(0.0)
    losses["whole_trained"] = train(whole, first_KK, lambda _: True)
    losses["whole_frozen"] = train(make(1.0), first_KK, lambda name: not _is_start(name))
    train(still, first_KK, lambda _: True)
    losses["frozen"] = train(copy.deepcopy(whole), second_KK, lambda _: False)
    losses["trained"] = train(whole, second_KK, _is_start)
    losses["no_writes"] = train(still, second_KK, _is_start)
    return losses


def _is_start(name: str) -> bool:
    """Whether a parameter is an initial state."""
    return name.endswith("initial")


def _train(
    model: PairReader,
    shared_KK: Tensor,
    trained: Callable[[str], bool],
    generator: torch.Generator,
    num_steps: int,
) -> float:
    """Train some parameters on a family of maps; the loss at the end."""
    free = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained(name))
        if parameter.requires_grad:
            free.append(parameter)
    optimizer = torch.optim.AdamW(free, lr=LEARNING_RATE) if free else None
    losses: list[float] = []
    for _ in range(num_steps):
        tokens_BTC, values_BAK = _draw_sequences(shared_KK, generator)
        loss = (model(tokens_BTC)[:, NUM_STORED:] - values_BAK).square().mean()
        losses.append(loss.item())
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    last = losses[-max(1, int(LAST * num_steps)) :]
    return sum(last) / len(last)


def _draw_sequences(shared_KK: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(B, T, 2 K + 1) pairs, then keys with zeros for values; (B, asked, K) what is asked for."""
    length = NUM_STORED + NUM_ASKED

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")

    own_BKK = draw(BATCH_SIZE, PAIR, PAIR)
    maps_BKK = (shared_KK + own_BKK) / (2 * PAIR) ** 0.5  # values of variance 1
    keys_BTK = draw(BATCH_SIZE, length, PAIR)
    values_BTK = keys_BTK @ maps_BKK.mT
    asked_BT1 = torch.zeros(BATCH_SIZE, length, 1, dtype=torch.float32, device="cpu")
    asked_BT1[:, NUM_STORED:] = 1
    tokens_BTC = torch.cat([keys_BTK, values_BTK * (1 - asked_BT1), asked_BT1], -1)
    return tokens_BTC, values_BTK[:, NUM_STORED:]
