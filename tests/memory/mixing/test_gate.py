import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nestling.core.errors import ForeignSnapshot, SettingError, ShapeMismatch
from nestling.memory import FixedShare, fixed_share_update
from nestling.memory.mixing.gate import follow_losses

losses_of_three = st.lists(
    st.tuples(*[st.floats(0.0, 30.0) | st.just(math.inf)] * 3), min_size=1, max_size=40
)


def mixture_loss(gate: FixedShare, losses: Tensor) -> float:
    """Summed log-loss of the linear mixture, predicting before each update."""
    total = 0.0
    for row in losses:
        total += -float((gate.weights * torch.exp(-row)).sum().log())
        gate.update(row[None])
    return total


def best_segmented_loss(
    losses: Tensor, num_changes: int, prior: Tensor, switch_rate: float
) -> float:
    """min over segmentations with k changes of (their loss + what the bound charges for them)."""
    T, E = losses.shape
    best = losses[0] - prior.log()
    table = [best] + [torch.full((E,), math.inf, dtype=torch.float64)] * num_changes
    stay, change = -math.log1p(-switch_rate), -math.log(switch_rate)
    for t in range(1, T):
        moved = [table[0] + stay]
        for k in range(1, num_changes + 1):
            switched = table[k - 1].min() + change - prior.log()
            moved.append(torch.minimum(table[k] + stay, switched))
        table = [row + losses[t] for row in moved]
    return min(float(row.min()) for row in table)


@given(losses_of_three, st.floats(1e-4, 0.5), st.integers(0, 3), st.booleans())
def test_the_regret_bound_holds(
    rows: list[tuple[float, ...]], switch_rate: float, num_changes: int, uneven: bool
) -> None:
    losses = torch.tensor(rows, dtype=torch.float64)
    prior = torch.tensor([0.6, 0.3, 0.1] if uneven else [1 / 3] * 3, dtype=torch.float64)
    bound = best_segmented_loss(losses, num_changes, prior, switch_rate)
    found = mixture_loss(FixedShare(3, switch_rate=switch_rate, prior=prior), losses)
    if math.isfinite(found):
        assert found <= bound + 1e-9 * (1.0 + abs(bound))
    else:  # the mixture is only as wrong as all experts at once
        assert bool(losses.isinf().all(dim=1).any())


@given(losses_of_three, st.floats(0.0, 0.9))
def test_weights_stay_a_distribution(rows: list[tuple[float, ...]], switch_rate: float) -> None:
    gate = FixedShare(3, switch_rate=switch_rate)
    gate.update(torch.tensor(rows))
    assert float(gate.weights.sum()) == pytest.approx(1.0)
    assert bool((gate.weights >= switch_rate * gate.prior * (1 - 1e-12)).all())


def test_without_switches_it_is_bayes_rule() -> None:
    losses = torch.rand(20, 4, dtype=torch.float64)
    gate = FixedShare(4, switch_rate=0.0)
    gate.update(losses)
    torch.testing.assert_close(gate.weights, torch.softmax(-losses.sum(dim=0), dim=0))


def test_one_step_as_in_the_paper() -> None:
    prior = torch.tensor([0.5, 0.5], dtype=torch.float64)
    start = torch.tensor([0.9, 0.1], dtype=torch.float64)
    losses = torch.tensor([2.0, 0.5], dtype=torch.float64)
    posterior = start * torch.exp(-losses)
    wanted = 0.8 * posterior / posterior.sum() + 0.2 * prior
    torch.testing.assert_close(fixed_share_update(start.log(), losses, 0.2, prior).exp(), wanted)


def test_an_expert_that_failed_utterly_comes_back() -> None:
    gate = FixedShare(2, switch_rate=0.01)
    gate.update(torch.tensor([[0.0, math.inf], [math.nan, 0.0], [math.inf, math.inf]]))
    gate.update(torch.tensor([[5.0, 0.0]] * 20))
    assert float(gate.weights[1]) > 0.98


def test_wrong_use_is_named() -> None:
    with pytest.raises(ShapeMismatch, match=r"\(N, 2\)"):
        FixedShare(2).update(torch.zeros(5, 3))
    with pytest.raises(SettingError, match="switch_rate 1"):
        FixedShare(2, switch_rate=1.0)
    with pytest.raises(SettingError, match="prior"):
        FixedShare(2, prior=torch.tensor([1.0, 0.0]))
    with pytest.raises(ForeignSnapshot, match="3 experts"):
        FixedShare(2).load_state_dict(FixedShare(3).state_dict())


@given(
    losses=st.lists(
        st.lists(
            st.one_of(st.floats(0.0, 50.0), st.sampled_from([math.inf, math.nan])),
            min_size=3,
            max_size=3,
        ),
        max_size=20,
    ),
    switch_rate=st.sampled_from([0.0, 1e-3, 0.3]),
)
def test_plain_floats_follow_as_the_tensors_do(
    losses: list[list[float]], switch_rate: float
) -> None:
    prior = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    slow = prior.log()
    for row in losses:
        slow = fixed_share_update(slow, torch.tensor(row, dtype=torch.float64), switch_rate, prior)
    fast = follow_losses(prior.log().tolist(), losses, switch_rate, prior.tolist())
    torch.testing.assert_close(
        torch.tensor(fast, dtype=torch.float64).exp(), slow.exp(), atol=1e-12, rtol=1e-9
    )
