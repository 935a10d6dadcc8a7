"""M3 against its printed form, against Muon, and where its modes differ."""

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import MismatchedParameters, SettingError
from nestling.optim.deep import M3, m3, m3_update, muon_update
from nestling.optim.deep.m3 import Mode
from nestling.optim.deep.newton_schulz import orthogonalize

PERIOD = 3


def draw(step: int, size: float = 1.0) -> Tensor:
    return size * torch.randn(4, 6, generator=torch.Generator().manual_seed(step))


def run(mode: Mode, num_steps: int, size: float = 1.0) -> list[Tensor]:
    state: dict[str, object] = {}
    found = []
    for step in range(num_steps):
        (one,), (state,) = m3_update(
            [draw(step, size)], [state], mode=mode, betas=(0.9, 0.99, 0.8), period=PERIOD
        )
        found.append(one)
    return found


def test_paper_is_the_printed_loop() -> None:
    gradients = [draw(step) for step in range(3 * PERIOD + 1)]
    fast = slow = square = torch.zeros(4, 6)
    expected = []
    for chunk in range(4):
        before = gradients[(chunk - 1) * PERIOD : chunk * PERIOD] if chunk else []
        slow = slow + 0.8 * sum(before, torch.zeros(4, 6))
        held = orthogonalize(slow)
        for g in gradients[chunk * PERIOD : (chunk + 1) * PERIOD]:
            fast, square = fast + 0.9 * g, square + 0.99 * g * g
            expected.append((orthogonalize(fast) + 0.5 * held) / (square.sqrt() + 1e-8))
    for ours, theirs in zip(run("paper", len(gradients)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_normalized_without_slow_part_is_muon() -> None:
    state: dict[str, object] = {}
    momenta = [torch.zeros(4, 6)]
    for step in range(5):
        (ours,), (state,) = m3_update([draw(step)], [state], alpha=0.0, period=2)
        (theirs,), momenta = muon_update([draw(step)], momenta, nesterov=False)
        torch.testing.assert_close(ours, theirs)


def test_slow_part_moves_once_per_chunk_from_the_chunk_before() -> None:
    state: dict[str, object] = {}
    slow = torch.zeros(4, 6)
    for step in range(3 * PERIOD):
        if step and step % PERIOD == 0:
            mean = sum((draw(s) for s in range(step - PERIOD, step)), torch.zeros(4, 6)) / PERIOD
            slow = 0.9 * slow + 0.1 * mean
        (one,), (state,) = m3_update([draw(step)], [state], period=PERIOD)
        torch.testing.assert_close(state["slow"], slow)
        torch.testing.assert_close(state["held"], orthogonalize(slow))
        both = orthogonalize(state["fast"]) + 0.5 * state["held"]  # type: ignore[arg-type,operator]
        torch.testing.assert_close(one, both / 1.5)


def test_each_gradient_is_in_one_chunk_where_the_printed_sums_take_one_twice() -> None:
    """Algorithm 1 sums from the chunk's first step to the next one's: period + 1 gradients."""
    state: dict[str, object] = {}
    num_chunks = 4
    for step in range(num_chunks * PERIOD + 1):
        _, (state,) = m3_update([draw(step)], [state], mode="paper", period=PERIOD)
    once = sum((draw(step) for step in range(num_chunks * PERIOD)), torch.zeros(4, 6))
    printed = sum(
        (
            draw(step)
            for chunk in range(num_chunks)
            for step in range(chunk * PERIOD, (chunk + 1) * PERIOD + 1)
        ),
        torch.zeros(4, 6),
    )
    slow = state["slow"]
    assert isinstance(slow, Tensor)
    torch.testing.assert_close(slow, 0.9 * once)
    assert (slow - 0.9 * printed).abs().max() > 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_orthogonal_tasks_it_forgets_what_gradient_descent_keeps(seed: int) -> None:
    """The paper's example of tasks whose gradients are orthogonal, for which it wants two momenta.

    Gradient descent on the second task cannot touch the first. What is left of the first one's
    momentum can, and an orthogonal momentum makes that as large as any other step.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2, 64, 8, generator=generator)
    inputs[0, :, 4:] = 0.0
    inputs[1, :, :4] = 0.0
    targets = inputs @ torch.randn(8, 6, generator=generator)
    rules = {
        "sgd": nl.sgd(lr=1.0),
        "heavy ball": nl.sgd(lr=0.1, momentum=0.9),
        "m3": m3(lr=0.1, period=8),
        "m3, fast part": m3(lr=0.1, alpha=0.0),
    }
    forgotten = {}
    for name, spec in rules.items():
        weight = nn.Parameter(torch.zeros(6, 8))
        rule = spec.build([weight])
        losses = []
        for x, y in zip(inputs, targets, strict=True):
            for _ in range(100):
                rule.zero_grad()
                (x @ weight.mT - y).square().mean().backward()
                rule.step()
            losses.append((inputs[0] @ weight.mT - targets[0]).square().mean().item())
        forgotten[name] = losses[1] - losses[0]
    assert forgotten["sgd"] == 0.0
    assert abs(forgotten["heavy ball"]) < 0.01
    assert forgotten["m3"] > 1.0 < forgotten["m3, fast part"]


def test_only_the_normalized_step_does_not_depend_on_the_gradients_size() -> None:
    """Divided by the root of the squares, an orthogonal matrix is a step of about 1 / |g|."""
    large, small = (
        {
            mode: run(mode, 8, size)[-1].square().mean().sqrt()
            for mode in ("normalized", "ema", "paper")
        }  # type: ignore[arg-type]
        for size in (1.0, 1e-3)
    )
    torch.testing.assert_close(small["normalized"], large["normalized"])
    assert 0.1 < small["normalized"] < 1.0
    for mode in ("ema", "paper"):
        assert 900 < small[mode] / large[mode] < 1100
    # The printed form's buffers never decay: its steps shrink as 1 / sqrt(t).
    late = [run(mode, 60)[-1].square().mean().sqrt() for mode in ("paper", "ema")]  # type: ignore[arg-type]
    early = [run(mode, 8)[-1].square().mean().sqrt() for mode in ("paper", "ema")]  # type: ignore[arg-type]
    assert late[0] / early[0] < 0.5 < late[1] / early[1]


@pytest.mark.parametrize("mode", ["normalized", "ema", "paper"])
def test_pure_and_in_place_agree(mode: Mode) -> None:
    (_,), (state,) = m3_update([draw(0)], [{}], mode=mode, period=1)
    kept = {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}
    gradient = draw(1)
    (pure,), (after,) = m3_update([gradient], [state], mode=mode, period=1)
    for key, value in kept.items():
        assert torch.equal(torch.as_tensor(state[key]), torch.as_tensor(value)), key
    assert torch.equal(gradient, draw(1))
    (fast,), (inside,) = m3_update([gradient], [state], mode=mode, period=1, in_place=True)
    assert torch.equal(pure, fast)
    assert all(torch.equal(torch.as_tensor(after[k]), torch.as_tensor(inside[k])) for k in after)


@pytest.mark.parametrize("mode", ["normalized", "ema", "paper"])
def test_zero_gradients_give_zero_steps(mode: Mode) -> None:
    weight = nn.Parameter(torch.ones(3, 4))
    rule = m3(mode=mode, period=2).build([weight])
    for _ in range(5):
        weight.grad = torch.zeros(3, 4)
        rule.step()
    assert torch.equal(weight, torch.ones(3, 4))


def test_wrong_states_and_settings() -> None:
    _, states = m3_update([draw(0)], [{}])
    with pytest.raises(SettingError, match="another mode than 'paper'"):
        m3_update([draw(0)], states, mode="paper")
    with pytest.raises(MismatchedParameters):
        m3_update([draw(0).mT], states)
    with pytest.raises(SettingError, match="period=0 of M3; 1 or more works"):
        m3_update([draw(0)], states, period=0)
    with pytest.raises(SettingError, match="M3 period: a number of 1 or more works, got 0"):
        M3(period=0)
    with pytest.raises(SettingError, match="M3 mode: 'normalized', 'ema' or 'paper' works"):
        M3(mode="literal")  # type: ignore[arg-type]


def test_function_and_class_have_the_same_defaults() -> None:
    assert m3() == M3()
    assert nl.optim.muon() == nl.optim.Muon()
