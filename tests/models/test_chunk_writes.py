"""The fast form of chunked writes against the loop over tokens, values and gradients."""

import itertools

import pytest
import torch
from torch import Tensor

from nestling.models.continuum import WriteClock, Written, write_chunks, write_chunks_slowly
from nestling.models.continuum.chunk_writes import GradientMode

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def make_inputs(
    length: int, chunk: int, num_samples: int = 2, width: int = 5, hidden: int = 6
) -> Inputs:
    """Keys, targets, rates and initial weights in float64, ready to be differentiated."""
    generator = torch.Generator().manual_seed(length * 1000 + chunk)
    kwargs = {"generator": generator, "dtype": torch.float64}
    keys = torch.nn.functional.normalize(torch.randn(num_samples, length, hidden, **kwargs), dim=-1)
    targets = torch.randn(num_samples, length, width, **kwargs)
    rates = torch.rand(num_samples, length, **kwargs) * 2 / chunk
    initial = torch.randn(width, hidden, **kwargs)
    return keys, targets, rates, initial


def run_slowly(
    inputs: Inputs, clock: WriteClock, consolidation: Tensor | None, gradient: GradientMode
) -> Tensor:
    keys, targets, rates, initial = inputs
    rows = [
        write_chunks_slowly(
            keys[row],
            targets[row],
            rates[row],
            initial,
            clock,
            consolidation=consolidation,
            gradient=gradient,
        )[0]
        for row in range(len(keys))
    ]
    return torch.stack(rows)


CLOCKS = [
    WriteClock(1),
    WriteClock(8),
    WriteClock(24),
    WriteClock(100),
    WriteClock(8, context=20),
    WriteClock(8, context=32),
    WriteClock(5, context=64),
    WriteClock(8, cut=16),
    WriteClock(8, context=40, cut=16),
]


@pytest.mark.parametrize("gradient", ["full", "first"])
@pytest.mark.parametrize(("length", "clock"), list(itertools.product([1, 7, 64, 150], CLOCKS)))
def test_the_fast_form_equals_the_loop(
    length: int, clock: WriteClock, gradient: GradientMode
) -> None:
    exact = [tensor.requires_grad_() for tensor in make_inputs(length, clock.chunk)]
    single = [tensor.detach().float().requires_grad_() for tensor in exact]
    consolidation = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    single_consolidation = consolidation.detach().float().requires_grad_()
    slow = run_slowly((*exact,), clock, consolidation, gradient)  # type: ignore[arg-type]
    fast, _ = write_chunks(
        *single, Written(), clock, consolidation=single_consolidation, gradient=gradient
    )
    assert (fast.double() - slow).abs().max() <= 1e-5
    weights = torch.randn(slow.shape, dtype=torch.float64)
    (slow * weights).sum().backward()
    (fast * weights).sum().backward()
    for one, other in zip([*exact, consolidation], [*single, single_consolidation], strict=True):
        wanted = torch.zeros_like(one) if one.grad is None else one.grad
        found = torch.zeros_like(other) if other.grad is None else other.grad
        assert (found.double() - wanted).abs().max() <= 1e-5 * max(1.0, wanted.abs().max())


@pytest.mark.parametrize("clock", [WriteClock(1), WriteClock(3), WriteClock(3, context=7)])
def test_gradients_of_outputs_and_states(clock: WriteClock) -> None:
    keys, targets, rates, initial = make_inputs(11, clock.chunk, width=2, hidden=3)
    states = [torch.randn(2, 2, 3, dtype=torch.float64) for _ in range(2)]
    inputs = [keys, targets, rates, initial, *states, torch.tensor(0.4, dtype=torch.float64)]

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        keys, targets, rates, initial, in_force, waiting, consolidation = given
        # In the middle of a chunk where there is one, so that something may wait.
        written = Written(in_force, waiting if clock.chunk > 1 else None)
        position = 2 if clock.chunk > 1 else 0
        outputs, after = write_chunks(
            keys, targets, rates, initial, written, clock, position=position,
            consolidation=consolidation,
        )  # fmt: skip
        return outputs, *(part for part in after if part is not None)

    assert torch.autograd.gradcheck(run, [one.requires_grad_() for one in inputs])


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("sizes", [(3, 1, 60, 86), (149, 1), (50, 50, 50)])
def test_pieces_equal_one_pass(clock: WriteClock, sizes: tuple[int, ...]) -> None:
    keys, targets, rates, initial = make_inputs(150, clock.chunk)
    consolidation = torch.tensor(0.3, dtype=torch.float64)
    whole, end = write_chunks(
        keys, targets, rates, initial, Written(), clock, consolidation=consolidation
    )
    written, position, outputs = Written(), 0, []
    for size in sizes:
        here = slice(position, position + size)
        output, written = write_chunks(
            keys[:, here], targets[:, here], rates[:, here], initial, written, clock,
            position=position, consolidation=consolidation,
        )  # fmt: skip
        outputs.append(output)
        position += size
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=0, atol=1e-12)
    for one, other in zip(written, end, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_cut_stops_gradients_and_changes_no_value() -> None:
    keys, targets, rates, initial = make_inputs(32, 4)
    targets.requires_grad_()
    whole, _ = write_chunks(keys, targets, rates, initial, Written(), WriteClock(4))
    cut, _ = write_chunks(keys, targets, rates, initial, Written(), WriteClock(4, cut=8))
    torch.testing.assert_close(whole, cut, rtol=0, atol=1e-12)
    (grad,) = torch.autograd.grad(cut[:, 8:].sum(), targets)
    assert not grad[:, :8].any()
    assert grad[:, 8:12].any()


def test_first_order_keeps_the_gradients_of_targets_and_rates() -> None:
    keys, targets, rates, initial = make_inputs(32, 4)
    for tensor in (targets, rates, initial):
        tensor.requires_grad_()
    outputs, _ = write_chunks(
        keys, targets, rates, initial, Written(), WriteClock(4), gradient="first"
    )
    of_targets, of_rates, of_initial = torch.autograd.grad(outputs.sum(), (targets, rates, initial))
    assert of_targets.any()
    assert of_rates.any()
    # As if what was written were a constant: the gradient of a plain linear layer.
    plain = keys.sum((0, 1)).expand_as(of_initial)
    torch.testing.assert_close(of_initial, plain)


def test_a_written_pair_is_recalled_and_rates_of_two_stay_bounded() -> None:
    keys = torch.eye(6, dtype=torch.float64)[None]
    targets = torch.randn(1, 6, 5, dtype=torch.float64)
    rates = torch.ones(1, 6, dtype=torch.float64)
    initial = torch.zeros(5, 6, dtype=torch.float64)
    _, written = write_chunks(keys, targets, rates, initial, Written(), WriteClock(3))
    assert written.in_force is not None
    torch.testing.assert_close((keys @ written.in_force.mT), targets)
    same = torch.nn.functional.normalize(torch.ones(1, 400, 6, dtype=torch.float64), dim=-1)
    most = torch.full((1, 400), 2 / 16, dtype=torch.float64)
    goal = torch.ones(1, 400, 5, dtype=torch.float64)
    outputs, _ = write_chunks(same, goal, most, initial, Written(), WriteClock(16))
    assert outputs.abs().max() <= 2 + 1e-9


def test_each_token_is_written_once_where_the_printed_sum_takes_one_twice() -> None:
    """Equation 71 sums over i - C to i, which is C + 1 tokens: the last of a chunk comes twice."""
    keys, targets = torch.eye(6, dtype=torch.float64)[None], torch.ones(1, 6, 1).double()
    rates = torch.full((1, 6), 0.5, dtype=torch.float64)
    initial = torch.zeros(1, 6, dtype=torch.float64)
    _, written = write_chunks(keys, targets, rates, initial, Written(), WriteClock(3))
    assert written.in_force is not None
    torch.testing.assert_close(written.in_force[0, 0], torch.full((6,), 0.5).double())
    printed = initial
    for end in (3, 6):
        in_force = printed
        for t in range(max(end - 3, 1), end + 1):  # tokens count from 1
            key = keys[0, t - 1]
            printed = printed - 0.5 * torch.outer(in_force @ key - targets[0, t - 1], key)
    assert printed[0, 2] == 0.75
    assert written.in_force[0, 0, 2] == 0.5


def test_nothing_to_read_changes_nothing() -> None:
    keys, targets, rates, initial = make_inputs(0, 4)
    written = Written(torch.ones(2, 5, 6, dtype=torch.float64))
    outputs, after = write_chunks(keys, targets, rates, initial, written, WriteClock(4))
    assert outputs.shape == (2, 0, 5)
    assert after is written
