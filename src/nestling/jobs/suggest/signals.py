"""Measurements for a plan: gradient signal and conflict, Fisher, linearity.

Letters: N examples, B batches, D features, K classes or outputs.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch, default_loss, read_output
from nestling.core.errors import NonFiniteInput, SettingError, ShapeMismatch
from nestling.core.heads import find_head_layer
from nestling.core.modes import copy_module, eval_mode
from nestling.core.params import Params, cosine
from nestling.core.seeds import make_generator
from nestling.jobs.suggest.examples import MIN_EXAMPLES, check_examples
from nestling.jobs.suggest.gradients import (
    GradientStatistics,
    average_batches,
    compute_signal,
)
from nestling.jobs.suggest.grouping import Group, list_groups
from nestling.jobs.suggest.linearity import Linearity, count_random_features, measure_linearity
from nestling.learn.growth import check_growth, count_head_rows, resize_head
from nestling.protect import estimate_fisher

# The diagonal's mean over a block settles long before its single entries do.
FISHER_EXAMPLES = 256


@dataclass(frozen=True)
class GroupMeasurement:
    """Measurements of one block of a model: gradient noise, conflict, Fisher.

    Attributes:
        name: of the block, see `Group`.
        pattern: the glob that claims it.
        num_weights: trainable scalars.
        signal: norm of the mean gradient, without the part that noise adds.
        noise: standard deviation of the gradient of one batch, over all its entries together.
        conflict: cosine between the mean gradients of the older and the newer half, in [-1, 1].
        fisher: mean of the Fisher diagonal over the block's weights.
        fisher_share: of the model's whole Fisher diagonal, in [0, 1].
    """

    name: str
    pattern: str
    num_weights: int
    signal: float
    noise: float
    conflict: float
    fisher: float
    fisher_share: float

    @property
    def snr(self) -> float:
        """Signal over noise of one batch's gradient; infinite without noise, 0 without signal."""
        if self.signal == 0.0:
            return 0.0
        return self.signal / self.noise if self.noise > 0.0 else math.inf


@dataclass(frozen=True)
class Measurements:
    """Measurements of a model on data, from which `suggest_plan` chooses.

    Attributes:
        num_examples: N, of the data as given.
        num_classes: that occur; 0 for values.
        batch_size: that the noise is stated for.
        head: name of the last linear layer; None if the model has none.
        groups: blocks in the order of registration.
        linearity: what closed-form memories answer on held-out examples.
    """

    num_examples: int
    num_classes: int
    batch_size: int
    head: str | None
    groups: tuple[GroupMeasurement, ...]
    linearity: Linearity


def measure_model(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int = 32,
    num_batches: int = 64,
    max_examples: int = 2000,
    seed: int = 0,
) -> Measurements:
    """Measure gradient noise, conflict, Fisher and linearity of a model on a data stream.

    The stream is cut into an older and a newer half. Gradients are taken at the weights as they
    are; the given model is neither changed nor run.

    Args:
        model: takes (N, ...) and gives (N, K). A head with too few outputs grows on the copy.
        x: (N, ...) inputs.
        y: (N,) classes, or (N,) or (N, K) values.
        batch_size: of the training that is planned.
        num_batches: B, at most, of both halves together.
        max_examples: measured on, spread evenly over the stream.
        seed: of batches and of the examples held out.

    Raises:
        DataError: too few examples, one class only, or inputs that the model cannot take.
        NonFiniteInput: NaN or infinity in x or y, or in what the model makes of x.
        ShapeMismatch: targets that do not fit.
        SettingError: a number that is too small, no trainable parameter, or classes that the
            model has no outputs for.
    """
    check_examples(x, y)
    if batch_size < 1 or num_batches < 4 or max_examples < MIN_EXAMPLES:
        raise SettingError(
            f"batch_size={batch_size}, num_batches={num_batches}, max_examples={max_examples}; "
            f"at least 1, 4 and {MIN_EXAMPLES} work"
        )
    num_examples = len(x)
    if num_examples > max_examples:
        rows = torch.linspace(
            0, num_examples - 1, max_examples, dtype=torch.float64, device="cpu"
        ).long()
        x, y = x[rows], y[rows]
    twin = copy_module(model)
    first = next(twin.parameters(), None)
    if first is not None:
        x, y = x.to(first.device), y.to(first.device)
    with eval_mode(twin):
        _fit_head(twin, x, y, seed)
        y = y.reshape(len(y), -1) if y.is_floating_point() else y.long()
        found = find_head_layer(twin)
        head = None if found is None else found[0]
        groups = list_groups(twin, head or "")
        if not groups[0].num_weights:
            raise SettingError("the model has no trainable parameter; set requires_grad on some")
        old, new = _cut_halves(x, y)
        generator = make_generator(seed, "suggest", "batches")
        stream = [
            average_batches(twin, *half, batch_size, num_batches // 2, generator)
            for half in (old, new)
        ]
        fisher = _measure_fisher(twin, *old, seed)
    return Measurements(
        num_examples=num_examples,
        num_classes=0 if y.is_floating_point() else len(y.unique()),
        batch_size=batch_size,
        head=head,
        groups=tuple(_describe(group, stream, fisher) for group in groups),
        linearity=measure_linearity(
            twin, x, y, count_random_features(num_examples, _count_outputs(y)), seed=seed
        ),
    )


def _describe(group: Group, stream: list[GradientStatistics], fisher: Params) -> GroupMeasurement:
    names = group.parameters
    means = [{name: half.mean[name] for name in names} for half in stream]
    own = sum(float(fisher[name].double().sum()) for name in names)
    whole = sum(float(value.double().sum()) for value in fisher.values())
    variance = sum(half.variance[name] for half in stream for name in names) / len(stream)
    return GroupMeasurement(
        name=group.name,
        pattern=group.pattern,
        num_weights=group.num_weights,
        signal=compute_signal(means, [sum(h.mean_variance[n] for n in names) for h in stream]),
        noise=math.sqrt(variance),
        conflict=max(-1.0, min(1.0, cosine(*means))),
        fisher=own / group.num_weights,
        fisher_share=own / whole if whole > 0.0 else 0.0,
    )


class _Answering(nn.Module):
    """The model with its answers as one tensor (N, K), as `estimate_fisher` wants them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        output = read_output(self.model(x))
        return output.reshape(len(output), -1)


def _measure_fisher(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Params:
    """By labels that the model itself draws: what its present answers depend on."""
    generator = make_generator(seed, "suggest", "fisher")
    rows = torch.randperm(len(x), generator=generator, device="cpu")[:FISHER_EXAMPLES].to(x.device)
    measured = estimate_fisher(
        _Answering(model), [(x[rows], y[rows])], labels="sampled", generator=generator
    )
    return {name.removeprefix("model."): value.detach() for name, value in measured.items()}


def _cut_halves(x: Tensor, y: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    middle = len(x) // 2
    return (x[:middle], y[:middle]), (x[middle:], y[middle:])


def _count_outputs(y: Tensor) -> int:
    return y.shape[1] if y.is_floating_point() else int(y.max()) + 1


def _fit_head(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> None:
    """Run the model once; give it as many outputs as there are classes."""
    with torch.no_grad():
        output = read_output(Batch((x[:2],)).call(model))
    if not bool(output.isfinite().all()):
        raise NonFiniteInput("the model's answers hold NaN or infinity; check its weights")
    if y.is_floating_point():
        with torch.no_grad():
            default_loss(output, y[:2])
        return
    if output.ndim != 2:
        raise ShapeMismatch(
            f"outputs of shape {tuple(output.shape)} for classes (N,); outputs (N, K) work"
        )
    num_classes = int(y.max()) + 1
    if output.shape[1] < num_classes:
        check_growth(model, output.shape[1], num_classes)
        if count_head_rows(model) < num_classes:
            generator = make_generator(seed, "suggest", "head")
            resize_head(model, None, num_classes, generator=generator)
