"""Transfers equal their slow twins, and a refit that fails changes nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nestling.consolidate import average, ema_update, lookahead_step, merge_overlay, refit
from nestling.core.errors import MismatchedParameters
from nestling.core.params import Params


def make_params(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(3, 2, generator=generator),
        "b": torch.randn((), generator=generator),
        "num_batches": torch.tensor(seed),
    }


def is_equal(left: Params, right: Params) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


shares = st.lists(st.floats(0, 10), min_size=1, max_size=5).filter(lambda s: sum(s) > 0.1)


@given(shares)
def test_average_equals_the_loop_and_ignores_order_and_scale(shares: list[float]) -> None:
    weights = [make_params(seed) for seed in range(len(shares))]
    result = average(weights, shares)
    expected = sum(s * p["w"].double() for s, p in zip(shares, weights, strict=True)) / sum(shares)
    torch.testing.assert_close(result["w"], expected.float())
    torch.testing.assert_close(average(weights[::-1], shares[::-1])["w"], result["w"])
    torch.testing.assert_close(average(weights, [3 * s for s in shares])["w"], result["w"])
    assert result["num_batches"] == len(shares) - 1


def test_average_of_one_is_a_copy() -> None:
    weights = make_params(0)
    result = average([weights])
    assert is_equal(result, weights)
    assert all(result[name].data_ptr() != weights[name].data_ptr() for name in weights)


def test_average_keeps_the_dtype_but_sums_wide() -> None:
    thirds = [{"w": torch.full((4,), value, dtype=torch.bfloat16)} for value in (256.0, 1.0, 1.0)]
    assert average(thirds)["w"].dtype == torch.bfloat16
    assert average(thirds)["w"][0] == torch.tensor(86.0, dtype=torch.bfloat16)


@pytest.mark.parametrize("shares", [[1.0], [0.0, 0.0], [-1.0, 2.0]])
def test_average_refuses_impossible_shares(shares: list[float]) -> None:
    with pytest.raises(MismatchedParameters, match="cannot average 2 mappings"):
        average([make_params(0), make_params(1)], shares)


def test_average_refuses_nothing_and_other_names() -> None:
    with pytest.raises(MismatchedParameters, match="cannot average 0"):
        average([])
    with pytest.raises(MismatchedParameters, match="is in only one of two"):
        average([make_params(0), {"b": torch.zeros(())}])


@given(st.floats(0, 1), st.integers(1, 6))
def test_ema_is_the_weighted_sum_of_its_past(decay: float, num_steps: int) -> None:
    slow = make_params(0)
    expected = slow["w"].double() * decay**num_steps
    for step in range(1, num_steps + 1):
        fast = make_params(step)
        slow = ema_update(slow, fast, decay)
        expected = expected + (1 - decay) * decay ** (num_steps - step) * fast["w"].double()
    torch.testing.assert_close(slow["w"], expected.float(), atol=1e-5, rtol=1e-5)
    assert slow["num_batches"] == num_steps


def test_the_ends_of_ema_and_lookahead_are_exact() -> None:
    slow, fast = make_params(0), make_params(1)
    assert is_equal(ema_update(slow, fast, 0.0), fast)
    assert torch.equal(ema_update(slow, fast, 1.0)["w"], slow["w"])
    assert is_equal(lookahead_step(slow, fast, 1.0), fast)
    assert torch.equal(lookahead_step(slow, fast, 0.0)["w"], slow["w"])
    halfway = lookahead_step(slow, fast, 0.5)["w"]
    torch.testing.assert_close(halfway, (slow["w"] + fast["w"]) / 2)


def test_merged_overlay_leaves_the_function_unchanged() -> None:
    spine, overlay = make_params(0), {"w": torch.randn(3, 2)}
    x = torch.randn(5, 3)
    live = x @ spine["w"] + 0.5 * (x @ overlay["w"])
    merged = merge_overlay(spine, overlay, scale=0.5)
    torch.testing.assert_close(x @ merged["w"], live)
    assert merged["b"] is spine["b"]
    assert torch.equal(spine["w"], make_params(0)["w"])
    with pytest.raises(MismatchedParameters, match="no slow weight 'v' to merge into"):
        merge_overlay(spine, {"v": torch.zeros(1)})
    with pytest.raises(MismatchedParameters, match="shape"):
        merge_overlay(spine, {"w": torch.zeros(1)})


class SumMemory:
    """The smallest memory there is: the sum of what it was shown."""

    def __init__(self) -> None:
        self.total = torch.zeros(2)

    def add(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> int:
        if not torch.isfinite(x).all():
            raise ValueError("bad features")
        scale = y if weight is None else y * weight
        self.total = self.total + (x * scale[:, None]).sum(0)
        return len(x)

    def state_dict(self) -> dict[str, object]:
        return {"total": self.total.clone()}

    def load_state_dict(self, state) -> None:
        self.total = state["total"].clone()


BLOCKS = [(torch.ones(3, 2), torch.arange(3.0)), (torch.zeros(0, 2), torch.zeros(0))]


def test_refit_equals_learning_on_the_new_features() -> None:
    memory = SumMemory()
    memory.add(*BLOCKS[0])
    assert refit(memory, BLOCKS, features=lambda x: 2 * x, empty=SumMemory()) == 3
    assert torch.equal(memory.total, torch.tensor([6.0, 6.0]))


def test_refit_that_fails_or_sees_nothing_changes_nothing() -> None:
    memory = SumMemory()
    memory.add(*BLOCKS[0])
    broken = [*BLOCKS, (torch.full((1, 2), torch.nan), torch.ones(1))]
    with pytest.raises(ValueError, match="bad features"):
        refit(memory, broken, features=lambda x: 2 * x, empty=SumMemory())
    assert refit(memory, BLOCKS[1:], features=lambda x: x, empty=SumMemory()) == 0
    assert torch.equal(memory.total, torch.tensor([3.0, 3.0]))


def test_a_slow_mean_moves_in_half_precision() -> None:
    slow, fast = ({"w": torch.full((1,), value, dtype=torch.bfloat16)} for value in (1.0, 2.0))
    for _ in range(1000):
        slow = ema_update(slow, fast, 0.999)
    assert slow["w"].item() == pytest.approx(2.0 - 0.999**1000, rel=1e-4)
