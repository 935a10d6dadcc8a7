"""Anchors promise no more than their number allows, and the gate keeps its word."""

import copy

import pytest
import torch
from torch import Tensor, nn

from nestling.consolidate import AnchorGate, bound_share, compare_on_anchors, promise
from nestling.consolidate.anchors import share_confidence
from nestling.core.errors import DataError, PlanError, ShapeMismatch


def make_gate(num: int = 400, tolerance: float = 0.02, **options: int | None) -> AnchorGate:
    x = torch.linspace(-1.0, 1.0, num)[:, None]
    return AnchorGate(x, (x[:, 0] > 0).long(), tolerance=tolerance, **options)


def make_model() -> nn.Linear:
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        model.bias.zero_()
    return model


def scale(factor: float) -> object:
    def change(trial: nn.Module) -> None:
        with torch.no_grad():
            for param in trial.parameters():
                param.mul_(factor)

    return change


def test_what_so_many_anchors_promise() -> None:
    found = [round(100 * promise(num, 0.05), 1) for num in (200, 500, 1345)]
    assert found == [2.6, 1.6, 1.0]


@pytest.mark.parametrize(
    ("worse", "better", "num"), [(0.03, 0.03, 200), (0.05, 0.01, 500), (0.002, 0.0, 300)]
)
def test_the_bound_holds_as_often_as_it_says(worse: float, better: float, num: int) -> None:
    generator = torch.Generator().manual_seed(0)
    num_held, num_trials = 0, 3000
    for _ in range(num_trials):
        draw = torch.rand(num, generator=generator)
        before = (draw < worse) | (draw > 0.3 + better)
        after = ~(draw < worse) & (draw > 0.3)
        found = compare_on_anchors(before, after, 0.95)
        num_held += found.fall_at_most >= worse - better
    # Three standard errors of a share of 3,000; the normal bound is a little too sure.
    assert num_held / num_trials >= 0.95 - 0.02


def test_the_bound_of_a_share_is_the_binomials() -> None:
    p = bound_share(3, 50, 0.95)
    chances = [
        torch.distributions.Binomial(50, torch.tensor(p, dtype=torch.float64))
        .log_prob(torch.tensor(float(k), dtype=torch.float64))
        .exp()
        for k in range(4)
    ]
    assert float(sum(chances)) == pytest.approx(0.05, abs=1e-9)
    assert bound_share(5, 5, 0.95) == 1.0


def test_all_uses_together_keep_the_confidence() -> None:
    assert sum(1 - share_confidence(0.95, i, 7) for i in range(1, 8)) == pytest.approx(0.05)
    assert sum(1 - share_confidence(0.9, i, None) for i in range(1, 10_000)) < 0.1


def test_a_harmless_change_is_committed_and_a_harmful_one_is_not() -> None:
    gate, model = make_gate(), make_model()
    assert gate.propose(model, scale(2.0)).settle().status == "committed"
    before = copy.deepcopy(model.state_dict())
    refused = gate.propose(model, scale(-1.0)).settle()
    assert refused.status == "refused"
    assert "accuracy fell by at most" in refused.reason
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert gate.num_used == 2


def test_too_few_anchors_refuse_even_what_is_harmless() -> None:
    # 30 anchors without a mistake still allow a fall of 9 points.
    found = make_gate(30).propose(make_model(), scale(2.0)).settle()
    assert found.status == "refused"
    assert "9.5 points" in found.reason or "points, 2.0 allowed" in found.reason


def test_spent_anchors_refuse_until_they_are_renewed() -> None:
    gate, model = make_gate(num_uses=1), make_model()
    gate.propose(model, scale(2.0)).settle()
    assert gate.is_spent
    found = gate.propose(model, scale(2.0)).settle()
    assert (found.status, gate.num_used) == ("refused", 1)
    assert "spent; renew" in found.reason
    gate.renew(gate.x, gate.y)
    assert gate.propose(model, scale(2.0)).settle().status == "committed"


def test_the_count_of_uses_is_saved() -> None:
    gate, again = make_gate(num_uses=2), make_gate(num_uses=2)
    gate.propose(make_model(), scale(2.0)).settle()
    again.load_state_dict(gate.state_dict())
    assert again.num_used == 1
    assert torch.equal(again.x, gate.x)


@pytest.mark.parametrize(
    ("x", "y", "options", "error"),
    [
        (torch.zeros(0, 1), torch.zeros(0, dtype=torch.long), {}, DataError),
        (torch.zeros(2, 1), torch.zeros(3, dtype=torch.long), {}, ShapeMismatch),
        (torch.zeros(2, 1), torch.zeros(2), {}, ShapeMismatch),
        (torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), {"tolerance": 1.0}, PlanError),
        (torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), {"confidence": 0.3}, PlanError),
        (torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), {"num_uses": 0}, PlanError),
    ],
    ids=["none", "lengths", "floats", "tolerance", "confidence", "uses"],
)
def test_wrong_anchors_are_refused(
    x: Tensor, y: Tensor, options: dict[str, float], error: type[Exception]
) -> None:
    with pytest.raises(error):
        AnchorGate(x, y, **{"tolerance": 0.1, **options})
