"""Inputs to examine a model on: as asked, or guessed from its first layer."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nestling.core.arguments import check_whole
from nestling.core.errors import ModelError, NestlingError, SettingError
from nestling.core.seeds import make_generator
from nestling.doctor.examined_model import check_parameters, prepare_model
from nestling.doctor.period_checks import find_periods

NUM_SAMPLES, NUM_SEQUENCES, LENGTH, LONG, MOST_LENGTH = 32, 4, 24, 256, 1100


def make_inputs(shape: Sequence[int], *, tokens: int | None = None, seed: int = 0) -> Tensor:
    """Random inputs: standard normal numbers, or whole numbers below `tokens`.

    Args:
        shape: e.g. (16, 64), (4, 32, 64) for (samples, tokens, width), or (4, 32) with `tokens`.
        tokens: size of the vocabulary; None for numbers.
        seed: of what is drawn.

    Raises:
        SettingError: a side below 1, or fewer than 2 tokens.

    >>> make_inputs((2, 3), tokens=5).dtype
    torch.int64
    """
    sides = [check_whole("shape", side, 1, "sides of 1 or more work") for side in shape]
    if not sides:
        raise SettingError("shape=(); (16, 64) works: samples first")
    generator = make_generator(seed, "inputs")
    if tokens is None:
        return torch.randn(sides, generator=generator, device="cpu", dtype=torch.float32)
    tokens = check_whole("tokens", tokens, 2, "2 or more works")
    return torch.randint(tokens, sides, generator=generator, device="cpu")


def guess_inputs(model: nn.Module, *, seed: int = 0) -> Tensor:
    """Inputs that a model takes, by its first layer: numbers, images, sequences or tokens.

    Sequences are twice as long as the longest of the model's `chunks`, up to 1,100 tokens.

    Args:
        model: any module; copies of it are tried.
        seed: of what is drawn.

    Raises:
        ModelError: none of what was tried works.

    >>> tuple(guess_inputs(nn.Linear(5, 2)).shape)
    (32, 5)
    """
    check_parameters(model)
    tried: list[str] = []
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    for shape, tokens in _list_shapes(model):
        x = make_inputs(shape, tokens=tokens, seed=seed)
        if like is not None:
            x = x.to(like.device) if tokens else x.to(like)
        try:
            prepare_model(model, x, seed=seed)
        except SettingError:
            raise
        except NestlingError as error:
            tried.append(f"of shape {shape}: {error}")
            continue
        return x
    if not tried:
        raise ModelError(
            f"no inputs can be guessed for {type(model).__name__}; give inputs, or a shape"
        )
    raise ModelError(f"inputs were guessed, e.g. {tried[0]}; or give a shape")


def _list_shapes(model: nn.Module) -> Iterator[tuple[tuple[int, ...], int | None]]:
    """Shapes worth trying, the likeliest first, each with the size of a vocabulary or None."""
    length = min(_find_length(model), MOST_LENGTH)
    number = NUM_SEQUENCES if length <= LONG else 2
    attentions = [one for one in model.modules() if isinstance(one, nn.MultiheadAttention)]
    for attention in attentions[:1]:  # it takes (N, C) as well, as one sequence
        yield (number, length, attention.embed_dim), None
    for one in model.modules():
        if isinstance(one, nn.Embedding):
            for size in dict.fromkeys([length, LENGTH, 16, 8, 4, 2]):
                yield (max(NUM_SEQUENCES, 8), size), one.num_embeddings
            return
        if isinstance(one, nn.Linear):
            yield (NUM_SAMPLES, one.in_features), None
            yield (number, length, one.in_features), None
            yield (NUM_SEQUENCES, LENGTH, one.in_features), None
            return
        if isinstance(one, nn.LayerNorm | nn.RMSNorm):
            yield (number, length, *one.normalized_shape), None
            yield (NUM_SAMPLES, *one.normalized_shape), None
            return
        if isinstance(one, _ConvNd):
            dims = len(one.kernel_size)
            for side in (28, 8, 32, 64, 224):
                yield (NUM_SAMPLES, one.in_channels, *(side,) * dims), None
            return
        if isinstance(one, nn.RNNBase):
            yield (number, length, one.input_size), None
            return
    width = getattr(model, "width", None)
    if isinstance(width, int):
        yield (number, length, width), None
    for param in model.parameters():  # a matrix of the model's own
        if param.dim() == 2:
            for side in reversed(param.shape):
                yield (NUM_SAMPLES, side), None
                yield (number, length, side), None
            return


def _find_length(model: nn.Module) -> int:
    """Tokens after which every chunk has ended twice and another has begun."""
    chunks = [value for path, value in find_periods(model).items() if "chunks" in path]
    return max(LENGTH, 2 * max(chunks, default=1) + 3)
