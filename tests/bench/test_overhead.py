"""What the overhead suite compares is comparable; the times themselves are `nestling bench`'s."""

import torch
from torch import nn

from nestling.bench.optimizer_cost import compare_bits, make_thirds
from nestling.bench.skip_cost import count_saved_bytes, make_skipping_plan
from nestling.levels import assign_levels
from nestling.models import TransformerClassifier, gpt_blocks


def test_one_level_gives_the_bits_of_adamw() -> None:
    assert compare_bits(num_steps=2)


def test_thirds_are_equal() -> None:
    model = gpt_blocks(6, 16, 2)
    sizes = {name: param.numel() for name, param in model.named_parameters()}
    claims = assign_levels(model, make_thirds())
    totals = {sum(sizes[name] for name in names) for names in claims.values()}
    assert len(claims) == 3
    assert len(totals) == 1


def test_ten_of_twelve_blocks_skip() -> None:
    model = TransformerClassifier(8, 2, length=4, width=8, num_layers=12, num_heads=2)
    lower = assign_levels(model, make_skipping_plan())["lower"]
    blocks = {name.split(".")[1] for name in lower if name.startswith("blocks.")}
    assert blocks == {str(index) for index in range(10)}
    assert "embed.weight" in lower


def test_saved_bytes_are_those_of_the_activations() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.ones(16, 4)
    with count_saved_bytes(model) as saved:
        model(x).sum().backward()
    # The input of the first layer, and the ReLU's output, which the second layer shares.
    assert sum(saved) == 4 * 16 * (4 + 8)
