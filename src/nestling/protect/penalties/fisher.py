"""The diagonal of the Fisher information, from the gradients of single examples.

The square of a batch's mean gradient is not it: that shrinks with the batch size.
Letters: N examples of a chunk, K outputs.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from nestling.core.errors import DataError, SettingError, ShapeMismatch, suggest
from nestling.core.modes import eval_mode
from nestling.core.params import wide_dtype
from nestling.protect.method import Pair

Labels = Literal["true", "sampled", "exact"]
# (1, K) output and (1, ...) target of one example -> scalar ().
Objective = Callable[[Tensor, Tensor], Tensor]
# A chunk's inputs, targets, weights (N,), and what is differentiated.
Chunk = tuple[Tensor, Tensor, Tensor, Objective]

LABELS: tuple[Labels, ...] = ("true", "sampled", "exact")
_CHUNK_SCALARS = 2**22  # of the gradients that are held at once; 16 MB in float32
_CHUNK_EXAMPLES = 256


def estimate_fisher(
    model: nn.Module,
    loader: Iterable[Pair],
    *,
    num_examples: int | None = None,
    labels: Labels = "true",
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Mean over examples of the squared gradient of each one's log-likelihood.

    F_i = 1/N sum_n E_y (d log p(y | x_n) / d theta_i)^2   [Kirkpatrick 2017, section 2]

    The likelihood is the softmax for classes and a normal distribution of variance 1 for
    values. The model is in evaluation mode meanwhile; buffers, `.grad` and modes stay.

    Args:
        model: takes (N, ...) and gives (N, K); examples must not depend on each other.
        loader: pairs of x (N, ...) and y (N,) classes or (N, K) values, of any batch sizes, on
            which the result does not depend.
        num_examples: how many of the first ones to use; None: all. Shuffle the loader if
            they are sorted by class.
        labels: which y: "true" takes those of the loader (the "empirical" Fisher), "sampled"
            draws one from the model's own answer, "exact" sums over all K (K times the cost).
        generator: what "sampled" draws from, on the CPU.

    Returns: name -> tensor of the parameter's shape, for trainable parameters; float32 at least.

    Raises:
        DataError: no example.
        SettingError: unknown `labels`, fewer than 1 example, or "sampled" without a generator.
        ShapeMismatch: an output that is not (N, K), or targets that do not fit it.

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

    def chunks(x: Tensor, y: Tensor) -> Iterator[Chunk]:
        for target, weight, objective in _choose_targets(model, x, y, labels, generator):
            yield x, target, weight, objective

    return average_gradients(model, loader, chunks, torch.square, num_examples=num_examples)


def check_labels(labels: str) -> None:
    """Raise SettingError unless `estimate_fisher` knows this kind of labels."""
    if labels not in LABELS:
        raise SettingError(f"labels={labels!r}; {suggest(labels, LABELS)}")


def check_num_examples(num_examples: int | None) -> None:
    """Raise SettingError for fewer than 1 example."""
    if num_examples is not None and num_examples < 1:
        raise SettingError(f"num_examples={num_examples}; 1 or more works, or None for all")


def require_loader(loader: Iterable[Pair] | None, method: str, purpose: str) -> Iterable[Pair]:
    """The loader; DataError without one, saying what the method needs it for."""
    if loader is None:
        raise DataError(
            f"{method} needs the examples of the experience to {purpose}, and there is no loader: "
            "end_experience(model, loader) works; SI needs none"
        )
    return loader


def average_gradients(
    model: nn.Module,
    loader: Iterable[Pair],
    chunks: Callable[[Tensor, Tensor], Iterable[Chunk]],
    transform: Callable[[Tensor], Tensor],
    *,
    num_examples: int | None = None,
) -> dict[str, Tensor]:
    """1/N sum_n w_n transform(gradient of example n), in chunks that fit into memory.

    Args:
        model: is in evaluation mode meanwhile; its buffers and `.grad` stay.
        loader: pairs of x (N, ...) and y (N, ...).
        chunks: what to differentiate for (x, y): any number of chunks of the length of x.
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
        for x, y in _cut(loader, size, num_examples):
            for chunk in chunks(x.to(device), y.to(device)):
                for name, value in _sum_gradients(model, params, chunk, transform).items():
                    total[name] += value
            num_seen += len(x)
    if not num_seen:
        raise DataError(
            "no example to take gradients of: the loader is empty, or was read to its end before; "
            "a list of batches or a DataLoader can be read again"
        )
    return {
        name: (value / num_seen).to(torch.promote_types(params[name].dtype, torch.float32))
        for name, value in total.items()
    }


def answer(model: nn.Module, x: Tensor) -> Tensor:
    """The model's output without gradients, on copies of its buffers."""
    with torch.no_grad():
        output = functional_call(model, _copy_buffers(model), (x,))
    return cast(Tensor, output)


def _sum_gradients(
    model: nn.Module,
    params: dict[str, Tensor],
    chunk: Chunk,
    transform: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """sum_n w_n transform(g_n): all at once, or one by one if vmap cannot take the model."""
    x, target, weight, objective = chunk

    def measure(values: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        state = {**_copy_buffers(model), **values}
        return objective(functional_call(model, state, (x[None],)), target[None])

    try:
        gradients = vmap(grad(measure), in_dims=(None, 0, 0))(params, x, target)
    except RuntimeError:
        # In-place writes to buffers, control flow on values, or an operation that vmap lacks. If
        # it is the model that fails, it fails again here and says so.
        return _sum_one_by_one(measure, params, chunk, transform)
    return {
        name: torch.tensordot(weight.to(value), transform(value), dims=1)
        for name, value in gradients.items()
    }


def _sum_one_by_one(
    measure: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor],
    params: dict[str, Tensor],
    chunk: Chunk,
    transform: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    x, target, weight, _ = chunk
    total = {name: torch.zeros_like(param) for name, param in params.items()}
    for index in range(len(x)):
        leaves = {name: param.clone().requires_grad_() for name, param in params.items()}
        with torch.enable_grad():
            value = measure(leaves, x[index], target[index])
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        for name, gradient in zip(params, gradients, strict=True):
            if gradient is not None:
                total[name] += weight[index].to(gradient) * transform(gradient)
    return total


def _choose_targets(
    model: nn.Module, x: Tensor, y: Tensor, labels: Labels, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor, Objective]]:
    """Targets (N, ...), their weights (N,) and the objective; several for "exact"."""
    output = answer(model, x)
    is_value = y.is_floating_point()
    if output.ndim != 2 or y.shape != (output.shape if is_value else output.shape[:1]):
        raise ShapeMismatch(
            f"outputs of shape {tuple(output.shape)} for targets of shape {tuple(y.shape)} and "
            f"dtype {y.dtype}; outputs (N, K) for classes (N,) or values (N, K) work"
        )
    objective = _halve_squares if is_value else functional.cross_entropy
    ones = output.new_ones(len(x))
    if labels == "true":
        yield y, ones, objective
    elif labels == "sampled":
        yield _draw_targets(output, is_value, generator).to(y), ones, objective
    elif is_value:
        # The expectation over the normal distribution leaves the outputs' own gradients.
        for row in torch.eye(output.shape[1]).to(output):
            yield row.expand_as(output), ones, _select
    else:
        shares = output.softmax(1)
        for label in range(output.shape[1]):
            yield torch.full_like(y, label), shares[:, label], objective


def _draw_targets(output: Tensor, is_value: bool, generator: torch.Generator | None) -> Tensor:
    """One target for each row from the model's own distribution.

    By inversion of numbers drawn in order, so that they do not depend on the batch size.
    """
    output = output.cpu().double()
    if is_value:
        uniform = torch.rand(output.shape, generator=generator, dtype=torch.float64)
        noise: Tensor = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))
        return output + noise
    cumulated = output.softmax(1).cumsum(1)
    uniform = torch.rand((len(output), 1), generator=generator, dtype=torch.float64)
    return (cumulated[:, :-1] < uniform).sum(1)


def _halve_squares(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum()


def _select(output: Tensor, target: Tensor) -> Tensor:
    return (output * target).sum()


def _copy_buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def _cut(loader: Iterable[Pair], size: int, num_examples: int | None) -> Iterator[Pair]:
    """The loader's first examples, in chunks of `size`; small batches are put together."""
    left = num_examples
    held: list[Pair] = []
    for x, y in loader:
        if len(x) != len(y):
            raise ShapeMismatch(f"{len(x)} inputs and {len(y)} targets; give one for each")
        if left is not None:
            x, y = x[:left], y[:left]
            left -= len(x)
        if held and _tell_shapes(held[0]) != _tell_shapes((x, y)):  # e.g. texts of another length
            yield from _split(held, size)
            held = []
        held.append((x, y))
        if sum(len(part) for part, _ in held) >= size:
            *whole, last = _split(held, size)
            yield from whole
            held = [last]
        if left == 0:
            break
    yield from _split(held, size)


def _tell_shapes(pair: Pair) -> tuple[torch.Size, torch.Size]:
    return pair[0].shape[1:], pair[1].shape[1:]


def _split(held: list[Pair], size: int) -> list[Pair]:
    if not held:
        return []
    x, y = (torch.cat(parts) for parts in zip(*held, strict=True))
    return list(zip(x.split(size), y.split(size), strict=True)) if len(x) else []
