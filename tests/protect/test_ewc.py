import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from learners import draw, make_batch, make_mlp
from nestling.core.batches import Batch
from nestling.core.errors import MismatchedParameters, SettingError
from nestling.protect import take_step
from nestling.protect.penalties import EWC, OnlineEWC, ewc_penalty
from nestling.protect.penalties.quadratic import Pull, add_importance, weighted_distance

Terms = list[tuple[dict[str, Tensor], dict[str, Tensor]]]


def measure(method: EWC | OnlineEWC, model: nn.Module) -> Tensor | None:
    x, y = make_batch(9)
    return method.compute_loss(model, Batch((x,), target=y), model(x))


def read(model: nn.Module) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def true_fisher(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Kirkpatrick 2017: the square of each example's gradient, averaged."""
    total = {name: torch.zeros_like(param) for name, param in model.named_parameters()}
    for one, label in zip(x, y, strict=True):
        model.zero_grad()
        (-model(one[None]).log_softmax(1)[0, label]).backward()
        for name, param in model.named_parameters():
            assert param.grad is not None
            total[name] += param.grad**2 / len(x)
    model.zero_grad()
    return total


def add_up(model: nn.Module, terms: Terms, strength: float) -> float:
    """strength/2 sum over terms and scalars, rows of the anchor only."""
    total = 0.0
    for fisher, anchor in terms:
        for name, param in model.named_parameters():
            rows = param.detach()[: len(anchor[name])]
            total += float((fisher[name] * (rows - anchor[name]) ** 2).sum())
    return 0.5 * strength * total


def train(model: nn.Module, x: Tensor, y: Tensor, *methods: EWC | OnlineEWC) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(5):
        take_step(model, optimizer, (x, y), methods)


def test_penalty_is_the_papers_and_only_old_rows_count() -> None:
    params = {"w": draw(5, 3, seed=1).requires_grad_(), "b": draw(5, seed=2).requires_grad_()}
    anchor = {"w": draw(4, 3, seed=3), "b": draw(5, seed=4)}
    fisher = {"w": draw(4, 3, seed=5).abs(), "b": draw(5, seed=6).abs()}
    expected = 0.0
    for row in range(4):
        for column in range(3):
            change = float(params["w"][row, column].detach() - anchor["w"][row, column])
            expected += 1.5 * float(fisher["w"][row, column]) * change**2
    for row in range(5):
        change = float(params["b"][row].detach() - anchor["b"][row])
        expected += 1.5 * float(fisher["b"][row]) * change**2
    penalty = ewc_penalty(params, anchor, fisher, 3.0)
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    penalty.backward()
    assert params["w"].grad is not None
    assert float(params["w"].grad[4].abs().sum()) == 0.0
    assert float(params["w"].grad[:4].abs().min()) > 0.0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
    st.integers(0, 1000),
    st.booleans(),
)
def test_folded_terms_are_their_sum(num_rows: list[int], seed: int, has_zeros: bool) -> None:
    pull, terms = Pull(), []
    for index, rows in enumerate(num_rows):
        weight = draw(rows, 2, seed=seed + index).square()
        weight = weight * (weight > 0.3) if has_zeros else weight
        anchor = 100 + draw(rows, 2, seed=seed + 50 + index)  # far from 0: nothing may cancel
        terms.append((weight, anchor))
        pull.fold_in({"w": weight}, {"w": anchor})
        assert pull.importance["w"].shape == pull.anchor["w"].shape
    param = (100 + draw(4, 2, seed=seed + 99)).requires_grad_()
    expected = torch.zeros(())
    for weight, anchor in terms:
        expected = expected + (weight * (param[: len(anchor)] - anchor) ** 2).sum()
    (wanted,) = torch.autograd.grad(expected, param)
    found = pull.measure({"w": param})
    assert found is not None
    (gradient,) = torch.autograd.grad(found, param)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-3)


def test_a_term_for_each_experience() -> None:
    model, method = make_mlp(), EWC(7.0, labels="true")
    terms: Terms = []
    assert measure(method, model) is None
    sizes = set()
    for task in range(3):
        x, y = make_batch(task)
        train(model, x, y, method)
        terms.append((true_fisher(model, x, y), read(model)))
        method.end_experience(model, [(x[:5], y[:5]), (x[5:], y[5:])])
        train(model, *make_batch(task + 10))
        penalty = measure(method, model)
        assert penalty is not None
        assert penalty.item() == pytest.approx(add_up(model, terms, 7.0), rel=1e-5)
        sizes.add(method.count_bytes())
    assert sizes == {2 * 4 * sum(p.numel() for p in model.parameters())}


def test_online_decays_the_old_and_moves_the_anchor() -> None:
    model, method = make_mlp(), OnlineEWC(7.0, decay=0.4, labels="true")
    running: dict[str, Tensor] = {}
    for task in range(3):
        x, y = make_batch(task)
        train(model, x, y, method)
        new = true_fisher(model, x, y)
        running = {n: 0.4 * running[n] + value if running else value for n, value in new.items()}
        anchor = read(model)
        method.end_experience(model, [(x, y)])
        train(model, *make_batch(task + 10))
        penalty = measure(method, model)
        assert penalty is not None
        expected = add_up(model, [(running, anchor)], 7.0)
        assert penalty.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", [EWC(5.0, labels="true"), OnlineEWC(5.0, labels="true")])
def test_a_head_that_grows_between_experiences(method: EWC | OnlineEWC) -> None:
    model = make_mlp()
    x, y = make_batch(0)
    fisher, anchor = true_fisher(model, x, y), read(model)
    method.end_experience(model, [(x, y)])
    small, grown = model[2], nn.Linear(16, 3)
    with torch.no_grad():
        grown.weight[:2], grown.bias[:2] = small.weight + 0.1, small.bias + 0.1
    model[2] = grown
    penalty = measure(method, model)
    assert penalty is not None
    first = add_up(model, [(fisher, anchor)], 5.0)
    assert penalty.item() == pytest.approx(first, rel=1e-5)

    x, y = make_batch(1, num_classes=3)
    second, here = true_fisher(model, x, y), read(model)
    method.end_experience(model, [(x, y)])
    with torch.no_grad():
        grown.weight += 0.1
    penalty = measure(method, model)
    assert penalty is not None
    if isinstance(method, EWC):
        expected = add_up(model, [(fisher, anchor), (second, here)], 5.0)
    else:
        expected = add_up(model, [(add_importance(fisher, second), here)], 5.0)
    assert penalty.item() == pytest.approx(expected, rel=1e-5)


def test_another_model_is_refused() -> None:
    method = EWC(1.0)
    method.end_experience(make_mlp(), [make_batch(0)])
    with pytest.raises(MismatchedParameters, match="only its number of rows"):
        measure(method, make_mlp(width=8))
    with pytest.raises(MismatchedParameters, match=r"'0\.weight' is of no parameter"):
        measure(method, nn.Sequential(nn.Flatten(), make_mlp()))
    one = {"w": torch.ones(1)}
    with pytest.raises(MismatchedParameters, match="'w' has no importance"):
        weighted_distance(one, one, {})


@pytest.mark.parametrize("wrong", [{"strength": -1.0}, {"num_examples": 0}, {"labels": "soft"}])
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    for kind in (EWC, OnlineEWC):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            kind(**{"strength": 1.0, **wrong})  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="decay"):
        OnlineEWC(1.0, decay=1.5)


def test_sampled_labels_depend_on_the_seed_and_on_the_call() -> None:
    model, x = make_mlp(), draw(16, 4, seed=3)
    found = []
    for seed in (0, 0, 1):
        method = EWC(1.0, seed=seed)
        method.end_experience(model, [(x, torch.zeros(16, dtype=torch.int64))])
        first = method.state_dict()["pull"]["importance"]["0.weight"]
        method.end_experience(model, [(x, torch.zeros(16, dtype=torch.int64))])
        found.append((first, method.state_dict()["pull"]["importance"]["0.weight"] - first))
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][0], found[2][0])
    assert not torch.allclose(found[0][0], found[0][1])
