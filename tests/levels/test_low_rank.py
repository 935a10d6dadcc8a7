"""An overlay starts as nothing, merges without a trace, and comes off cleanly."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from nestling.core.errors import IdlePattern, SettingError
from nestling.levels.low_rank import LowRank, attach_low_rank, detach_low_rank, merge_low_rank

X = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))


def make_model() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6, bias=False), nn.Linear(6, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def attach(model: nn.Module, *match: str, rank: int = 2, scale: float = 1.0) -> list[str]:
    generator = torch.Generator().manual_seed(3)
    return attach_low_rank(model, match, rank, scale=scale, generator=generator)


def train(model: nn.Module, names: list[str], num_steps: int = 3) -> None:
    chosen = [parameter for name, parameter in model.named_parameters() if name in names]
    optimizer = torch.optim.Adam(chosen, lr=0.02)
    for _ in range(num_steps):
        optimizer.zero_grad()
        (model(X) - 1).square().mean().backward()
        optimizer.step()


def test_the_start_is_bit_for_bit_the_same() -> None:
    model = make_model()
    before, names = model(X), dict(model.named_parameters())
    added = attach(model, "*")
    assert torch.equal(model(X), before)
    assert added == [f"{i}.parametrizations.weight.0.{part}" for i in (0, 2, 3) for part in "AB"]
    after = dict(model.named_parameters())
    assert after["0.parametrizations.weight.original"] is names["0.weight"]
    assert set(added) < set(after)


def test_only_the_overlay_learns_and_it_does() -> None:
    model = make_model()
    before, start = model(X), make_model()[3].weight
    added = attach(model, "3.weight")
    train(model, added)
    assert torch.equal(model[3].parametrizations.weight.original, start)
    assert not torch.allclose(model(X), before, atol=1e-3)
    assert torch.linalg.matrix_rank(model[3].weight - start, atol=1e-5) <= 2


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 5), st.floats(-2, 2), st.booleans())
def test_merging_keeps_the_function(rank: int, scale: float, redraw: bool) -> None:
    model = make_model()
    attach(model, "0.weight", rank=rank, scale=scale)
    overlay = model[0].parametrizations.weight[0]
    nn.init.ones_(overlay.B)
    before, old_a = model(X), overlay.A.detach().clone()
    identity = model[0].parametrizations.weight.original
    generator = torch.Generator().manual_seed(9) if redraw else None
    assert merge_low_rank(model, generator=generator) == ["0.parametrizations.weight.original"]
    torch.testing.assert_close(model(X), before)
    assert model[0].parametrizations.weight.original is identity
    assert not overlay.B.any()
    assert torch.equal(overlay.A, old_a) is not redraw


@pytest.mark.parametrize("merge", [True, False])
def test_detaching_gives_the_old_names_order_and_objects_back(merge: bool) -> None:
    model = make_model()
    plain, names, objects = model(X), list(model.state_dict()), list(model.parameters())
    train(model, attach(model, "*"))
    trained = model(X)
    assert detach_low_rank(model, merge=merge) == ["0.weight", "2.weight", "3.weight"]
    torch.testing.assert_close(model(X), trained if merge else plain)
    assert list(model.state_dict()) == names
    assert all(old is new for old, new in zip(objects, model.parameters(), strict=True))
    assert type(model[0]) is nn.Linear


def test_the_same_generator_gives_the_same_overlay() -> None:
    one, other = make_model(), make_model()
    attach(one, "*")
    attach(other, "*")
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_copies_and_state_dicts_and_functional_calls_work() -> None:
    model = make_model()
    train(model, attach(model, "*"))
    answer = model(X)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(X), answer)
    train(twin, ["0.parametrizations.weight.0.B"])
    assert torch.equal(model(X), answer)

    fresh = make_model()
    attach(fresh, "*")
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(X), answer)

    values = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    assert not functional_call(model, values, (X,)).any()
    assert torch.equal(model(X), answer)


@pytest.mark.parametrize("order", [0, 1])
def test_detaching_a_copy_leaves_the_other_adapted(order: int) -> None:
    """torch keeps the property on a class that deep copies share."""
    model = make_model()
    train(model, attach(model, "*"))
    answer = model(X)
    pair = [model, copy.deepcopy(model)]
    detach_low_rank(pair[order], merge=True)
    assert torch.equal(pair[1 - order](X), answer)
    torch.testing.assert_close(pair[order](X), answer)
    detach_low_rank(pair[1 - order], merge=True)
    torch.testing.assert_close(pair[1 - order](X), answer)


def test_attaching_to_a_copy_leaves_the_other_plain() -> None:
    model = make_model()
    nn.utils.parametrize.register_parametrization(model[0], "bias", nn.Identity())
    twin = copy.deepcopy(model)
    attach(twin, "0.weight")
    assert torch.equal(model(X), twin(X))
    assert "0.weight" in model.state_dict()


def test_compiles() -> None:
    model = make_model()
    train(model, attach(model, "*"))
    torch.testing.assert_close(torch.compile(model, backend="eager")(X), model(X))


def test_dtype_follows_the_weight() -> None:
    model = make_model().to(torch.bfloat16)
    before = model(X.bfloat16())
    attach(model, "*")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model(X.bfloat16()), before)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))


def adapted() -> nn.Module:
    model = make_model()
    attach(model, "3.*")
    return model


def normed() -> nn.Module:
    model = make_model()
    parametrizations.weight_norm(model[3])
    return model


@pytest.mark.parametrize(
    ("make", "match", "rank", "error", "message"),
    [
        (make_model, ["3.wieght"], 2, IdlePattern, r"'3\.wieght' matches no .*mean '3\.weight'"),
        (make_model, ["0.*", "3.bias"], 2, IdlePattern, r"'3\.bias' matches no weight"),
        (make_model, ["*"], 4, SettingError, r"rank 4 does not fit '3\.weight' .*choose 1 to 3"),
        (make_model, ["*"], 0, SettingError, "rank 0 does not fit"),
        (Tied, ["head.weight"], 2, SettingError, r"'head\.weight' is tied to 'embed\.weight'"),
        (adapted, ["*"], 2, SettingError, r"'3\.weight' is already parametrized \(LowRank\)"),
        (normed, ["*"], 2, SettingError, r"'3\.weight' is already parametrized \(_WeightNorm\)"),
    ],
)
def test_what_does_not_fit_changes_nothing(make, match, rank, error, message) -> None:
    model = make()
    names = list(model.state_dict())
    with pytest.raises(error, match=message):
        attach(model, *match, rank=rank)
    assert list(model.state_dict()) == names


def test_nothing_to_merge_says_so() -> None:
    for call in (merge_low_rank, lambda model: detach_low_rank(model, merge=True)):
        with pytest.raises(SettingError, match="has no low-rank overlay"):
            call(normed())


def test_the_parametrization_stands_alone() -> None:
    overlay = LowRank(torch.eye(3), 1, generator=torch.Generator())
    assert torch.equal(overlay(torch.eye(3)), torch.eye(3))
    assert overlay.A.abs().max() <= 3**-0.5
