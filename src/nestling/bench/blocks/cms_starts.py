"""Do learned initial states pay? A CMS in context, with initial states trained and frozen."""

from typing import Literal

import torch
from torch import Tensor, nn

from nestling.bench.result import SuiteResult
from nestling.bench.timing import Rows
from nestling.core.seeds import make_generator
from nestling.models.continuum import CMS

# Axes: B sequences, T tokens, C width, K width of a pair's key and of its value.

Arm = Literal["trained", "frozen", "no writes"]
ARMS: tuple[Arm, ...] = ("trained", "frozen", "no writes")
PAIR, NUM_STORED, NUM_ASKED = 8, 48, 16
BATCH_SIZE, LAST = 16, 0.1  # the share of steps, at the end, whose loss counts


class PairReader(nn.Module):
    """Reads pairs, then answers keys: embedding, one `CMS`, linear head.

    Args:
        rate: as of `CMS`.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.embed = nn.Linear(2 * PAIR + 1, 32)
        self.memory = CMS(32, (8, 32), hidden=64, rate=rate)
        self.head = nn.Linear(32, PAIR)

    def forward(self, tokens_BTC: Tensor) -> Tensor:
        """(B, T, 2 K + 1) -> (B, T, K)."""
        answers_BTK: Tensor = self.head(self.memory(self.embed(tokens_BTC)))
        return answers_BTK


def measure_learned_starts(
    *, num_steps: int = 300, seeds: tuple[int, ...] = (0, 1, 2)
) -> SuiteResult:
    """Train a CMS on maps that differ between sequences, its initial states trained or frozen.

    Each sequence stores pairs (k, M k) of a map M = M_0 + D, D its own, then asks for values of
    fresh keys. Only the initial output layers are frozen; all else is trained in each arm.

    Args:
        num_steps: steps of AdamW, rate 3e-3.
        seeds: one run of each arm for each.

    Returns: figures `loss_trained`, `loss_frozen` and `loss_no_writes` (mean squared error over
        the last tenth of steps on sequences never seen before, mean over seeds; 1 says nothing
        was learned); rows for each seed.
    """
    rows: Rows = [
        {"part": "initial states", "side": arm, "seed": seed, "loss": _train(arm, seed, num_steps)}
        for seed in seeds
        for arm in ARMS
    ]
    figures = {}
    for arm in ARMS:
        losses = [float(str(row["loss"])) for row in rows if row["side"] == arm]
        figures[f"loss_{arm.replace(' ', '_')}"] = sum(losses) / len(losses)
    return SuiteResult("blocks", figures=figures, rows=rows)


def _train(arm: Arm, seed: int, num_steps: int) -> float:
    """Loss of one arm at the end of training."""
    generator = make_generator(seed, "learned starts")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PairReader(rate=0.0 if arm == "no writes" else 1.0)
    shared_KK = torch.randn(PAIR, PAIR, generator=generator, dtype=torch.float32, device="cpu")
    if arm == "frozen":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.endswith("initial"))
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(free, lr=3e-3)
    losses: list[float] = []
    for _ in range(num_steps):
        tokens_BTC, values_BAK = _draw_sequences(shared_KK, generator)
        loss = (model(tokens_BTC)[:, NUM_STORED:] - values_BAK).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
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
