"""The diagonal of the Fisher information, from the gradients of single examples.

The square of a batch's mean gradient is not it: that shrinks with the batch size.
Letters: N examples of a chunk, K outputs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from nestling.core.batches import (
    IGNORE_INDEX,
    Batch,
    match_values,
    move_classes,
    read_batch,
    read_output,
)
from nestling.core.errors import DataError, SettingError, ShapeMismatch, suggest
from nestling.core.modes import eval_mode
from nestling.core.params import sum_dtype, wide_dtype, widen_half
from nestling.protect.columns import pack_batch, require_target, unpack_batch

Labels = Literal["true", "sampled", "exact"]
# (1, ...) output and (1, ...) target of one example -> scalar ().
Objective = Callable[[Tensor, Tensor], Tensor]
# A chunk's inputs, targets (N, ...), weights (N,), and what is differentiated.
Chunk = tuple[Batch, Tensor, Tensor, Objective]
# Positional inputs and keywords, of one example or of several.
Inputs = tuple[tuple[Tensor, ...], Mapping[str, Tensor]]

LABELS: tuple[Labels, ...] = ("true", "sampled", "exact")
_CHUNK_SCALARS = 2**22  # of the gradients that are held at once; 16 MB in float32
_CHUNK_EXAMPLES = 256


def estimate_fisher(
    model: nn.Module,
    loader: Iterable[object],
    *,
    num_examples: int | None = None,
    labels: Labels = "true",
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Diagonal Fisher information: mean squared gradient of each example's log-likelihood.

    F_i = 1/N sum_n E_y (d log p(y | x_n) / d theta_i)^2   [Kirkpatrick 2017, section 2]

    The likelihood is the softmax for classes and a normal distribution of variance 1 for
    values; that of an answer per position is their product. The model is in evaluation mode
    meanwhile; buffers, `.grad` and modes stay.

    Args:
        model: gives what `default_loss` takes; examples must not depend on each other.
        loader: batches with targets in any form of `read_batch`, of any sizes, on which the result
            does not depend.
        num_examples: how many of the first ones to use; None: all. Shuffle the loader if
            they are sorted by class.
        labels: which y: "true" takes those of the loader (the "empirical" Fisher), "sampled"
            draws one from the model's own answer, "exact" sums over all K (K times the cost, for
            each position).
        generator: what "sampled" draws from, on the CPU.

    Returns: name -> tensor of the parameter's shape, for trainable parameters; float32 at least.

    Raises:
        DataError: no example, or a batch without a target.
        SettingError: unknown `labels`, fewer than 1 example, or "sampled" without a generator.
        ShapeMismatch: targets that do not fit the output.

    >>> model = nn.Linear(1, 2)
    >>> batch = (torch.ones(4, 1), torch.tensor([0, 1, 1, 1]))
    >>> sorted(estimate_fisher(model, [batch]))
    ['bias', 'weight']
    """
    check_labels(labels)
    if labels == "sampled" and generator is None:
        raise SettingError(
            "labels='sampled' draws at random: generator=make_generator(seed, 'fisher') works"
        )

    def chunks(batch: Batch) -> Iterator[Chunk]:
        for target, weight, objective in _choose_targets(model, batch, labels, generator):
            yield batch, target, weight, objective

    return average_gradients(model, loader, chunks, torch.square, num_examples=num_examples)


def check_labels(labels: str) -> None:
    """Raise SettingError unless `estimate_fisher` knows this kind of labels."""
    if labels not in LABELS:
        raise SettingError(f"labels={labels!r}; {suggest(labels, LABELS)}")


def check_num_examples(num_examples: int | None) -> None:
    """Raise SettingError for fewer than 1 example."""
    if num_examples is not None and num_examples < 1:
        raise SettingError(f"num_examples={num_examples}; 1 or more works, or None for all")


def require_loader(loader: Iterable[object] | None, method: str, purpose: str) -> Iterable[object]:
    """The loader; DataError without one, saying what the method needs it for."""
    if loader is None:
        raise DataError(
            f"{method} needs the examples of the experience to {purpose}, and there is no loader: "
            "end_experience(model, loader) works; SI needs none"
        )
    return loader


def average_gradients(
    model: nn.Module,
    loader: Iterable[object],
    chunks: Callable[[Batch], Iterable[Chunk]],
    transform: Callable[[Tensor], Tensor],
    *,
    num_examples: int | None = None,
) -> dict[str, Tensor]:
    """1/N sum_n w_n transform(gradient of example n), in chunks that fit into memory.

    Args:
        model: is in evaluation mode meanwhile; its buffers and `.grad` stay.
        loader: batches in any form of `read_batch`.
        chunks: what to differentiate for a batch: any number of chunks of its length.
        transform: of gradients, elementwise, e.g. `torch.square`.
        num_examples: how many of the first ones to use; None: all.

    Returns: name -> tensor of the parameter's shape, for trainable parameters; float32 at least.

    Raises:
        DataError: no example.
        ShapeMismatch: a batch with other numbers of inputs and of targets.
    """
    check_num_examples(num_examples)
    params = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not params:
        return {}
    total = {name: p.new_zeros(p.shape, dtype=wide_dtype(p.device)) for name, p in params.items()}
    device = next(iter(params.values())).device
    num_scalars = sum(p.numel() for p in params.values())
    size = max(1, min(_CHUNK_EXAMPLES, _CHUNK_SCALARS // max(num_scalars, 1)))
    num_seen = 0
    with eval_mode(model):
        for batch in _cut(loader, size, num_examples):
            for chunk in chunks(batch.to(device)):
                for name, value in _sum_gradients(model, params, chunk, transform).items():
                    total[name] += value
            num_seen += batch.size
    if not num_seen:
        raise DataError(
            "no example to take gradients of: the loader is empty, or was read to its end before; "
            "a list of batches or a DataLoader can be read again"
        )
    return {
        name: (value / num_seen).to(sum_dtype(params[name].dtype)) for name, value in total.items()
    }


def answer(model: nn.Module, batch: Batch) -> Tensor:
    """The model's output without gradients, on copies of its buffers."""
    with torch.no_grad():
        return _run(model, {}, (batch.inputs, batch.keywords))


def _run(model: nn.Module, params: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
    """The model's output with other parameters, on copies of its buffers."""
    state = {**{name: buffer.clone() for name, buffer in model.named_buffers()}, **params}
    return read_output(functional_call(model, state, inputs[0], dict(inputs[1])))


def _sum_gradients(
    model: nn.Module,
    params: dict[str, Tensor],
    chunk: Chunk,
    transform: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """sum_n w_n transform(g_n): all at once, or one by one if vmap cannot take the model."""
    batch, target, weight, objective = chunk

    def measure(values: dict[str, Tensor], inputs: Inputs, target: Tensor) -> Tensor:
        return objective(widen_half(_run(model, values, _pick(inputs, None))), target[None])

    inputs = (batch.inputs, dict(batch.keywords))
    try:
        gradients = vmap(grad(measure), in_dims=(None, 0, 0))(params, inputs, target)
    except RuntimeError:
        # In-place writes to buffers, control flow on values, or an operation that vmap lacks. If
        # it is the model that fails, it fails again here and says so.
        return _sum_one_by_one(measure, params, chunk, transform)
    wide = {name: widen_half(value) for name, value in gradients.items()}
    return {
        name: torch.tensordot(weight.to(value), transform(value), dims=1)
        for name, value in wide.items()
    }


def _sum_one_by_one(
    measure: Callable[[dict[str, Tensor], Inputs, Tensor], Tensor],
    params: dict[str, Tensor],
    chunk: Chunk,
    transform: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    batch, target, weight, _ = chunk
    inputs = (batch.inputs, batch.keywords)
    total = {name: torch.zeros_like(widen_half(param)) for name, param in params.items()}
    for index in range(batch.size):
        leaves = {name: param.clone().requires_grad_() for name, param in params.items()}
        with torch.enable_grad():
            value = measure(leaves, _pick(inputs, index), target[index])
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        for name, gradient in zip(params, gradients, strict=True):
            if gradient is not None:
                wide = widen_half(gradient)
                total[name] += weight[index].to(wide) * transform(wide)
    return total


def _pick(inputs: Inputs, index: int | None) -> Inputs:
    """One example of several; or, by None, several of one."""
    positional, keywords = inputs
    return tuple(one[index] for one in positional), {k: one[index] for k, one in keywords.items()}


def _choose_targets(
    model: nn.Module, batch: Batch, labels: Labels, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor, Objective]]:
    """Targets (N, ...), their weights (N,) and the objective; several for "exact"."""
    output, y = widen_half(answer(model, batch)), require_target(batch)
    ones = output.new_ones(batch.size)
    if y.is_floating_point():
        y = match_values(output, y)
        if labels == "true":
            yield y, ones, _halve_squares
        elif labels == "sampled":
            yield _draw_values(output, generator).to(y), ones, _halve_squares
        else:
            # The expectation over the normal distribution leaves the outputs' own gradients.
            for row in torch.eye(output[0].numel(), dtype=torch.float32, device="cpu").to(output):
                yield row.reshape(output.shape[1:]).expand_as(output), ones, _select
        return
    logits = move_classes(output, y)
    if labels == "true":
        yield y, ones, _sum_entropy
    elif labels == "sampled":
        drawn = _draw_classes(logits.movedim(1, -1), generator).to(y)
        yield drawn.where(y != IGNORE_INDEX, y), ones, _sum_entropy
    else:
        # Positions are independent of each other: the expected products of two of them are 0.
        shares_NKP = logits.reshape(*logits.shape[:2], -1).softmax(1)
        places_NP = y.reshape(len(y), -1)
        for place in range(places_NP.shape[1]):
            known = places_NP[:, place] != IGNORE_INDEX
            for label in range(logits.shape[1]):
                alone = torch.full_like(places_NP, IGNORE_INDEX)
                alone[:, place] = label
                yield alone.reshape(y.shape), shares_NKP[:, label, place] * known, _sum_entropy


# Drawn by inversion of numbers in order, so that they do not depend on the batch size.


def _draw_values(output: Tensor, generator: torch.Generator | None) -> Tensor:
    """Values around the model's own answers."""
    output = output.cpu().double()
    uniform = torch.rand(output.shape, generator=generator, dtype=torch.float64, device="cpu")
    noise: Tensor = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))
    return output + noise


def _draw_classes(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """A class for each row of (..., K) logits."""
    cumulated = logits.cpu().double().softmax(-1).cumsum(-1)
    uniform = torch.rand(
        (*logits.shape[:-1], 1), generator=generator, dtype=torch.float64, device="cpu"
    )
    return (cumulated[..., :-1] < uniform).sum(-1)


def _sum_entropy(output: Tensor, target: Tensor) -> Tensor:
    logits, classes = move_classes(output, target), target.long()
    return functional.cross_entropy(logits, classes, ignore_index=IGNORE_INDEX, reduction="sum")


def _halve_squares(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum()


def _select(output: Tensor, target: Tensor) -> Tensor:
    return (output * target).sum()


def _cut(loader: Iterable[object], size: int, num_examples: int | None) -> Iterator[Batch]:
    """The loader's first examples, in chunks of `size`; small batches are put together."""
    left = num_examples
    held: list[dict[str, Tensor]] = []
    for raw in loader:
        batch = read_batch(raw)
        columns = pack_batch(batch)
        for column in columns.values():
            if len(column) != batch.size:
                raise ShapeMismatch(
                    f"{batch.size} inputs and {len(column)} targets; give one for each"
                )
        if left is not None:
            columns = {name: column[:left] for name, column in columns.items()}
            left -= min(left, batch.size)
        if held and _tell_shapes(held[0]) != _tell_shapes(columns):  # e.g. texts of another length
            yield from map(unpack_batch, _split(held, size))
            held = []
        held.append(columns)
        if sum(_count(part) for part in held) >= size:
            *whole, last = _split(held, size)
            yield from map(unpack_batch, whole)
            held = [last]
        if left == 0:
            break
    yield from map(unpack_batch, _split(held, size))


def _tell_shapes(columns: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: column.shape[1:] for name, column in columns.items()}


def _count(columns: Mapping[str, Tensor]) -> int:
    return len(next(iter(columns.values())))


def _split(held: list[dict[str, Tensor]], size: int) -> list[dict[str, Tensor]]:
    if not held:
        return []
    whole = {name: torch.cat([part[name] for part in held]) for name in held[0]}
    num_examples = _count(whole)
    return [
        {name: column[start : start + size] for name, column in whole.items()}
        for start in range(0, num_examples, size)
    ]
