import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from learners import draw, make_batch, make_mlp
from nestling.core.errors import DataError, SettingError, ShapeMismatch
from nestling.core.seeds import make_generator
from nestling.protect.penalties import estimate_fisher, fisher
from nestling.protect.penalties.fisher import Labels

Batches = list[tuple[Tensor, Tensor]]


def cut(x: Tensor, y: Tensor, size: int) -> Batches:
    return list(zip(x.split(size), y.split(size), strict=True))


def square_gradients(model: nn.Module, losses: list[Tensor]) -> dict[str, Tensor]:
    """sum_l (d l / d theta)^2, one autograd call for each loss."""
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(params.values()), retain_graph=True)
        for name, gradient in zip(params, gradients, strict=True):
            total[name] += gradient**2
    return total


def reference(model: nn.Module, x: Tensor, y: Tensor, labels: str) -> dict[str, Tensor]:
    """The definition, an example and a label at a time; the model is in evaluation mode."""
    losses = []
    for one, target in zip(x, y, strict=True):
        output = model(one[None])[0]
        if y.is_floating_point():
            losses += list(output) if labels == "exact" else [0.5 * ((output - target) ** 2).sum()]
        elif labels == "true":
            losses.append(-output.log_softmax(0)[target])
        else:
            # The root of a label's probability weighs its squared gradient by the probability.
            shares = output.softmax(0).detach()
            losses += [-p.sqrt() * o for p, o in zip(shares, output.log_softmax(0), strict=True)]
    return {name: value / len(x) for name, value in square_gradients(model, losses).items()}


def assert_close(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-5, atol=1e-7)


def make_norm_net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(48, 5), nn.BatchNorm1d(5), nn.Linear(5, 3),
    )  # fmt: skip
    model.train()
    model(draw(32, 1, 6, 6, seed=1))  # statistics that are not the initial ones
    return model


@pytest.mark.parametrize("labels", ["true", "exact"])
@pytest.mark.parametrize("task", ["classes", "values"])
def test_equals_the_definition(labels: Labels, task: str) -> None:
    model = make_mlp(4, 3)
    x, y = make_batch(0, 20, 3)
    y = draw(20, 3, seed=5) if task == "values" else y
    found = estimate_fisher(model, [(x, y)], labels=labels)
    assert_close(found, reference(model, x, y, labels))


@pytest.mark.parametrize("task", ["classes", "values"])
def test_sampled_labels_approach_the_exact_ones(task: str) -> None:
    model = make_mlp(4, 3, width=4)
    x, y = make_batch(0, 8, 3)
    y = draw(8, 3, seed=5) if task == "values" else y
    many = [(x, y)] * 500
    exact = estimate_fisher(model, [(x, y)], labels="exact")
    sampled = estimate_fisher(model, many, labels="sampled", generator=make_generator(0, "test"))
    for name, value in exact.items():
        if task == "classes":
            assert (sampled[name] - value).norm() < 0.1 * value.norm()
        else:
            # (residual * gradient)^2 summed over outputs, residuals normal of variance 1.
            assert (sampled[name] - value).norm() < 0.15 * value.norm()


@pytest.mark.parametrize("labels", ["true", "sampled", "exact"])
def test_batch_size_does_not_matter_and_the_model_stays(labels: Labels) -> None:
    model = make_norm_net()
    model[1].eval()  # modes differ between modules, and each comes back
    model[0].bias.requires_grad_(False)
    x, y = draw(70, 1, 6, 6, seed=2), torch.arange(70) % 3
    model(x).square().mean().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]

    results = [
        estimate_fisher(model, cut(x, y, size), labels=labels, generator=make_generator(0, "test"))
        for size in (1, 7, 64)
    ]
    assert_close(results[0], results[1])
    assert_close(results[0], results[2])
    assert "0.bias" not in results[0]
    assert "0.weight" in results[0]
    assert all(float(value.sum()) > 0 for value in results[0].values())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for name, param in model.named_parameters():
        assert (param.grad is None) == (name not in gradients)
        assert param.grad is None or torch.equal(param.grad, gradients[name])


class _Counting(nn.Module):
    """Writes to a buffer and branches on values, which vmap refuses."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.unused = nn.Linear(1, 1)
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.total += x.sum(0)
        output: Tensor = self.layer(x)
        return 2 * output if float(x.detach().sum()) > 0 else output


def test_a_model_that_vmap_cannot_take_is_run_one_by_one() -> None:
    torch.manual_seed(0)
    model, twin = _Counting(), nn.Linear(4, 2)
    twin.load_state_dict(model.layer.state_dict())
    x, y = make_batch(0, 9)
    # An output that is doubled is one of doubled inputs and a doubled bias.
    total = {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}
    for one, target in zip(x, y, strict=True):
        scale = 2.0 if float(one.sum()) > 0 else 1.0
        loss = functional.cross_entropy(scale * twin(one[None]), target[None])
        for name, value in square_gradients(twin, [loss]).items():
            total[name] += value / len(x)
    # One example at a time, as the branch is on the sum of all examples of a forward.
    with torch.no_grad():
        found = estimate_fisher(model, cut(x, y, 1))
    assert_close(
        {name: found[f"layer.{name}"] for name in total},
        total,
    )
    assert float(found["unused.weight"].sum()) == 0.0
    assert torch.equal(model.total, torch.zeros(4))


def test_chunks_are_cut_to_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = make_mlp(), make_batch(0, 13)
    whole = estimate_fisher(model, [(x, y)])
    sizes: list[int] = []
    inner: Callable[..., dict[str, Tensor]] = fisher._sum_gradients

    def spy(*args: object) -> dict[str, Tensor]:
        sizes.append(args[2][0].size)  # type: ignore[index]
        return inner(*args)

    monkeypatch.setattr(fisher, "_sum_gradients", spy)
    num_scalars = sum(p.numel() for p in model.parameters())
    monkeypatch.setattr(fisher, "_CHUNK_SCALARS", 5 * num_scalars)
    assert_close(estimate_fisher(model, [(x, y)]), whole)
    assert sizes == [5, 5, 3]
    sizes.clear()
    assert_close(estimate_fisher(model, cut(x, y, 2)), whole)
    assert sizes == [5, 5, 3]


def test_batches_of_other_lengths_are_taken_apart() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool1d(4), make_mlp())
    first, second = (draw(3, 8), torch.tensor([0, 1, 1])), (draw(2, 12), torch.tensor([1, 0]))
    both = estimate_fisher(model, [first, second])
    one, other = estimate_fisher(model, [first]), estimate_fisher(model, [second])
    assert_close(both, {name: (3 * value + 2 * other[name]) / 5 for name, value in one.items()})


def test_num_examples_takes_the_first_ones_and_reads_no_further() -> None:
    model, (x, y) = make_mlp(), make_batch(0, 20)
    expected = estimate_fisher(model, [(x[:9], y[:9])])
    batches = iter(cut(x, y, 6))
    assert_close(estimate_fisher(model, batches, num_examples=9), expected)
    assert len(list(batches)) == 2


def test_bad_input_says_what_works() -> None:
    model, (x, y) = make_mlp(), make_batch(0, 4)
    with pytest.raises(DataError, match="empty"):
        estimate_fisher(model, [])
    with pytest.raises(SettingError, match="did you mean 'exact'"):
        estimate_fisher(model, [(x, y)], labels="exactly")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="generator=make_generator"):
        estimate_fisher(model, [(x, y)], labels="sampled")
    with pytest.raises(SettingError, match="num_examples=0"):
        estimate_fisher(model, [(x, y)], num_examples=0)
    with pytest.raises(
        ShapeMismatch, match=r"\(4, 2\) do not fit classes of shape \(4, 1\); squeeze"
    ):
        estimate_fisher(model, [(x, y[:, None])])
    with pytest.raises(ShapeMismatch, match="4 inputs and 3 targets"):
        estimate_fisher(model, [(x, y[:3])])
    assert model.training


def test_half_precision_sums_in_full() -> None:
    model, (x, y) = make_mlp().bfloat16(), make_batch(0, 300)
    found = estimate_fisher(model, [(x.bfloat16(), y)])
    assert all(value.dtype == torch.float32 for value in found.values())
    assert all(math.isfinite(float(value.sum())) for value in found.values())


@pytest.mark.parametrize("labels", ["true", "exact"])
def test_positions_are_factors_of_an_examples_likelihood(labels: Labels) -> None:
    """The log-likelihood of an example is the sum over its positions; ignored ones are none."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    x, y = draw(5, 2, 4), torch.tensor([[0, 1], [2, -100], [1, 1], [0, 2], [-100, 0]])
    found = estimate_fisher(model, [(x, y)], labels=labels)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for one, targets in zip(x, y, strict=True):
        logits = model(one).log_softmax(1)
        known = [place for place in range(2) if targets[place] >= 0]
        if labels == "true":
            losses = [-sum((logits[k, targets[k]] for k in known), torch.zeros(()))]
        else:  # over all pairs of labels of both positions
            losses = []
            for pair in itertools.product(range(3), repeat=len(known)):
                chosen = sum((logits[k, c] for k, c in zip(known, pair, strict=True)), x.sum() * 0)
                losses.append(-chosen.exp().detach().sqrt() * chosen)
        for name, value in square_gradients(model, losses).items():
            total[name] += value / len(x)
    assert_close(found, total)


def test_sampled_positions_do_not_depend_on_the_batch_size() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    x, y = draw(6, 2, 4), torch.tensor([[0, 1], [2, -100]] * 3)
    found = [
        estimate_fisher(model, cut(x, y, size), labels="sampled", generator=make_generator(0, "t"))
        for size in (1, 6)
    ]
    assert_close(found[0], found[1])


@pytest.mark.parametrize("labels", ["true", "exact"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_small_squares(labels: Labels, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    x, y = draw(40, 4), torch.arange(40) % 2
    full = estimate_fisher(model, [(x * 0.05, y)], labels=labels)["0.weight"]
    half = estimate_fisher(model.to(dtype), [((x * 0.05).to(dtype), y)], labels=labels)["0.weight"]
    assert half.dtype == torch.float32
    assert float(half.sum() / full.sum()) == pytest.approx(1.0, abs=0.1)
