"""Anchors promise no more than their number allows, and the gate keeps its word."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nestling.consolidate import (
    AnchorGate,
    bound_fall,
    bound_share,
    compare_on_anchors,
    promise,
    share_confidence,
)
from nestling.core.errors import DataError, ForeignSnapshot, SettingError, ShapeMismatch


def make_gate(num: int = 400, tolerance: float = 0.02, **options: int | None) -> AnchorGate:
    x = torch.linspace(-1.0, 1.0, num)[:, None]
    return AnchorGate(x, (x[:, 0] > 0).long(), tolerance=tolerance, **options)


def make_model() -> nn.Linear:
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        model.bias.zero_()
    return model


def scale(factor: float) -> Callable[[nn.Module], None]:
    def change(trial: nn.Module) -> None:
        with torch.no_grad():
            for param in trial.parameters():
                param.mul_(factor)

    return change


def test_what_so_many_anchors_promise() -> None:
    found = [round(100 * promise(num, 0.05), 1) for num in (200, 500, 1345)]
    assert found == [2.6, 1.6, 1.0]


@pytest.mark.parametrize(
    ("worse", "better", "num", "confidence"),
    [
        (0.03, 0.03, 200, 0.95),
        (0.05, 0.01, 500, 0.95),
        (0.04, 0.0, 500, 0.995),
        (0.002, 0.0, 300, 0.95),
    ],
)
def test_the_bound_holds_as_often_as_it_says(
    worse: float, better: float, num: int, confidence: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    num_held, num_trials = 0, 2000
    for _ in range(num_trials):
        draw = torch.rand(num, generator=generator)
        before = (draw < worse) | (draw > 0.3 + better)
        after = ~(draw < worse) & (draw > 0.3)
        found = compare_on_anchors(before, after, confidence)
        num_held += found.fall_at_most >= worse - better
    # Three standard errors of a share of 2,000.
    noise = 3.0 * math.sqrt(confidence * (1.0 - confidence) / num_trials)
    assert num_held / num_trials >= confidence - noise


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.995, 0.9995])
def test_the_bound_holds_by_enumeration_also_where_many_uses_ask_for_much(
    confidence: float,
) -> None:
    """All outcomes with their chances: no luck of a simulation, and far into the tail."""
    num, most = 400, 60
    shares = [bound_share(b, num, confidence) for b in range(most)]
    outcomes = [(b, c) for b in range(most) for c in range(most - b)]
    bounds = [min(shares[b], bound_fall(b, c, num, confidence)) for b, c in outcomes]
    for worse, better in [(0.01, 0.0), (0.02, 0.02), (0.03, 0.01), (0.05, 0.0), (0.005, 0.05)]:
        missed = sum(
            math.exp(
                math.lgamma(num + 1)
                - math.lgamma(b + 1)
                - math.lgamma(c + 1)
                - math.lgamma(num - b - c + 1)
                + b * math.log(worse)
                + (c * math.log(better) if c else 0.0)
                + (num - b - c) * math.log1p(-worse - better)
            )
            for (b, c), bound in zip(outcomes, bounds, strict=True)
            if bound < worse - better and (better or not c)
        )
        assert missed <= 1.15 * (1.0 - confidence)


@given(
    num=st.integers(1, 300),
    worse=st.integers(0, 300),
    better=st.integers(0, 300),
    confidence=st.floats(0.5, 0.9999),
)
def test_a_bound_lies_above_what_was_seen_and_grows_with_the_confidence(
    num: int, worse: int, better: int, confidence: float
) -> None:
    worse = min(worse, num)
    better = min(better, num - worse)
    bound = bound_fall(worse, better, num, confidence)
    assert (worse - better) / num - 1e-12 <= bound <= 1.0
    assert bound <= bound_fall(worse, better, num, 0.5 * (1.0 + confidence)) + 1e-12
    if worse < num and better:
        assert bound <= bound_fall(worse + 1, better - 1, num, confidence) + 1e-12


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
    # 30 anchors without a mistake still allow a fall of 1 - 0.025^(1/30).
    found = make_gate(30).propose(make_model(), scale(2.0)).settle()
    assert found.status == "refused"
    assert "at most 11.6 points, 2.0 allowed (97.5 %: use 1 of 30 anchors)" in found.reason


def test_spent_anchors_refuse_until_they_are_renewed() -> None:
    gate, model = make_gate(num_uses=1), make_model()
    gate.propose(model, scale(2.0)).settle()
    assert gate.is_spent
    found = gate.propose(model, scale(2.0)).settle()
    assert (found.status, gate.num_used) == ("refused", 1)
    assert "spent; renew" in found.reason
    gate.renew(gate.x, gate.y)
    assert gate.propose(model, scale(2.0)).settle().status == "committed"


def test_a_change_that_is_not_finite_uses_nothing() -> None:
    gate, model = make_gate(num_uses=1), make_model()
    found = gate.propose(model, scale(math.nan)).settle()
    assert (found.status, gate.num_used) == ("refused", 0)
    assert "non-finite" in found.reason
    assert gate.propose(model, scale(2.0)).settle().status == "committed"


def test_the_count_of_uses_is_saved() -> None:
    gate, again = make_gate(num_uses=2), make_gate(100, num_uses=2)
    gate.propose(make_model(), scale(2.0)).settle()
    again.load_state_dict(gate.state_dict())
    assert again.num_used == 1
    assert torch.equal(again.x, gate.x)
    assert torch.equal(again.y, gate.y)
    again.propose(make_model(), scale(2.0)).settle()
    assert again.is_spent
    assert gate.num_used == 1


def test_a_count_is_not_taken_over_by_a_gate_that_shares_out_otherwise() -> None:
    spent = make_gate(num_uses=1)
    spent.propose(make_model(), scale(2.0)).settle()
    endless = make_gate(100)
    with pytest.raises(ForeignSnapshot, match="num_uses"):
        endless.load_state_dict(spent.state_dict())
    assert (endless.num_used, len(endless.y)) == (0, 100)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: promise(0, 0.1),
        lambda: promise(10, 1.1),
        lambda: promise(10, 0.1, 1.0),
        lambda: bound_share(4, 3, 0.95),
        lambda: bound_share(0, 0, 0.95),
        lambda: bound_share(1, 3, 0.2),
        lambda: bound_fall(2, 2, 3, 0.95),
        lambda: bound_fall(-1, 2, 3, 0.95),
        lambda: bound_fall(1, 1, 3, 1.0),
        lambda: share_confidence(0.95, 0, None),
        lambda: share_confidence(0.95, 3, 2),
        lambda: share_confidence(1.5, 1, 2),
    ],
)
def test_what_cannot_be_promised_is_refused(ask: Callable[[], float]) -> None:
    with pytest.raises(SettingError):
        ask()


def test_answers_of_other_anchors_are_not_compared() -> None:
    yes = torch.ones(3, dtype=torch.bool)
    for before, after in [(yes, yes[:2]), (yes[:0], yes[:0]), (yes, yes.long()), (yes[None],) * 2]:
        with pytest.raises(ShapeMismatch):
            compare_on_anchors(before, after)


@pytest.mark.parametrize(
    ("x", "y", "options", "error"),
    [
        (torch.zeros(0, 1), torch.zeros(0, dtype=torch.long), {}, DataError),
        (torch.zeros(2, 1), torch.zeros(3, dtype=torch.long), {}, ShapeMismatch),
        (torch.zeros(2, 1), torch.zeros(2), {}, ShapeMismatch),
        (torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), {"tolerance": 1.0}, SettingError),
        (torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), {"confidence": 0.3}, SettingError),
        (torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), {"num_uses": 0}, SettingError),
    ],
    ids=["none", "lengths", "floats", "tolerance", "confidence", "uses"],
)
def test_wrong_anchors_are_refused(
    x: Tensor, y: Tensor, options: dict[str, float], error: type[Exception]
) -> None:
    with pytest.raises(error):
        AnchorGate(x, y, **{"tolerance": 0.1, **options})
