"""What the guard of sources keeps: numbers for names, a window, answers that wait, a centre."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nestling.core.errors import DataError
from nestling.protect import SourceGuard
from nestling.protect.influence.agreement import ROWS_TOGETHER
from nestling.protect.influence.influence_rules import find_far_rows, find_surplus
from nestling.protect.influence.running_centre import RunningCentre
from nestling.protect.influence.source_window import SourceWindow


def draw(num: int, seed: int) -> Tensor:
    return torch.randn(num, 4, generator=torch.Generator().manual_seed(seed))


def answer(wrong: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (N, 2) and targets that are wrong where they are to be."""
    target = torch.zeros(len(wrong), dtype=torch.int64)
    return torch.stack([1.0 - wrong.float(), wrong.float()], dim=1), target


@given(
    calls=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=9), max_size=40),
    rate=st.sampled_from([0.2, 0.4, 0.6]),
)
def test_room_is_found_only_where_the_exact_rule_holds_nothing(
    calls: list[list[int]], rate: float
) -> None:
    window, size = SourceWindow(rate, 12), 12
    window.grow(7)
    learned: list[int] = []
    for numbers in calls:
        last = learned[-size:]
        assert window.list_last() == last
        held = find_surplus(numbers, last, Counter(last), rate, size)
        if window.has_room(numbers):
            assert not any(held)
        assert window.find_surplus([str(n) for n in numbers], {str(n): n for n in range(7)}) == held
        kept = [n for n, is_held in zip(numbers, held, strict=True) if not is_held]
        window.enter(kept)
        learned += kept


@pytest.mark.parametrize("offset", [0.0, 3.0, 300.0])
def test_rows_that_pass_by_their_norm_are_never_far(offset: float) -> None:
    """The question that is cheaper never lets a row pass that lies too far out."""
    centre = RunningCentre(4.0, 64, 8)
    generator = torch.Generator().manual_seed(0)
    num_far = 0
    for step in range(60):
        x = draw(8, step) * (1.0 + 9.0 * torch.rand(8, 1, generator=generator) ** 8) + offset
        distances = centre.measure(x)
        far = centre.list_far(distances)
        if centre.centre is not None and step > 1:
            exact = (x - centre.centre).norm(dim=1).tolist()
            is_far = find_far_rows(exact, centre.median, 4.0)
            assert [row for row in range(8) if is_far[row]] == far
            assert centre.has_none_far(distances) is not any(is_far)
        num_far += len(far)
        centre.note(x, distances, [row for row in range(8) if row not in far] if far else None)
    assert 0 < num_far < 200


def test_rows_that_are_not_finite_do_not_move_the_centre() -> None:
    guard = SourceGuard(rate=1.0)
    for step in range(12):
        x = draw(16, step)
        x[step % 16, 0] = float("nan") if step % 2 else float("inf")
        guard.admit(x, "a")
    (centre,) = guard.state_dict()["centre"]
    assert centre.isfinite().all()
    assert centre.norm() < 1.5


def test_names_that_nothing_is_known_of_are_forgotten() -> None:
    guard = SourceGuard(rate=0.5, window=20, least_heard=2, most_sources=5)
    found = guard.judge(draw(2, 0), ["first", "second"])
    guard.note(found)
    most = 5 + 2 * (20 + ROWS_TOGETHER)
    for step in range(400):
        names = [f"s{step}-{row}" for row in range(8)]
        guard.admit(draw(8, step), names, [0.0] * 8)
        assert len(guard._register.names) <= most + 8 + 1
    assert guard._register.edition > 0
    state = guard.state_dict()
    assert len(state["tallies"]) == 5
    assert state["last"] == [f"s{step}-{row}" for step in (397, 398, 399) for row in range(8)][-20:]
    guard.note(found)  # judged when its sources had other numbers
    assert guard.state_dict()["last"][-2:] == ["first", "second"]


def test_answers_wait_until_there_are_256() -> None:
    guard = SourceGuard(rate=1.0)
    wrong = torch.tensor([1.0] * 16 + [0.0] * 16)
    names = ["bad"] * 16 + ["good"] * 16
    for step in range(8):
        assert not guard.is_at_odds("bad")
        found = guard.judge(draw(32, step), names)
        guard.note(found)
        output, target = answer(wrong)
        guard.note_answers(found, output, target)
        target.fill_(1)  # the caller's own: it may write into it
    assert guard.is_at_odds("bad")
    assert not guard.is_at_odds("good")
    found = guard.judge(draw(32, 9), names)
    assert (found.has_odd, found.at_odds.tolist()) == (True, list(range(16)))
    guard.note_answers(found, *answer(torch.zeros(16)))
    guard.note_answers(found, *answer(torch.ones(16)), are_held=True)
    state = guard.state_dict()
    assert Counter(state["waiting"]) == {"good": 16, "bad": 16}
    assert state["waiting_errors"] == [0.0] * 16 + [1.0] * 16


@pytest.mark.parametrize("kind", ["classes", "values", "sequences", "more classes"])
def test_what_waits_is_part_of_the_state(kind: str) -> None:
    """A guard that is restored in between goes on bit for bit, whatever the answers are of."""

    def go(guard: SourceGuard, step: int) -> None:
        x = draw(24, step)
        found = guard.judge(x, [f"s{(step + row) % 5}" for row in range(24)])
        guard.note(found)
        x = x[found.rows]
        if kind == "values":
            output, target = x[:, :1], x[:, 1]
        elif kind == "sequences":
            output, target = x.reshape(-1, 2, 2), (x[:, :2] > 0.5).long()
        else:
            width = 4 if kind == "classes" or step % 7 > 3 else 3
            output, target = x[:, :width], (x[:, 0] > 0.5).long()
        guard.note_answers(found, output, target)

    whole = SourceGuard(rate=0.6, window=50)
    asked, restored = SourceGuard(rate=0.6, window=50), SourceGuard(rate=0.6, window=50)
    for step in range(60):
        go(whole, step)
        asked.state_dict()
        go(asked, step)
        go(restored, step)
        other = SourceGuard(rate=0.6, window=50)
        other.load_state_dict(restored.state_dict())
        restored = other
    assert whole.state_dict()["tallies"]
    assert repr(whole.state_dict()) == repr(restored.state_dict()) == repr(asked.state_dict())


def test_errors_and_residuals_do_not_wait_together() -> None:
    guard = SourceGuard()
    guard.note_errors("a", [1.0] * 40)
    guard.note_errors("a", [0.5] * 10, are_residuals=True)
    state = guard.state_dict()
    assert state["tallies"] == [["a", 40.0, 40.0, 40.0]]
    assert (state["waiting_errors"], state["are_residuals"]) == ([0.5] * 10, True)


def test_errors_that_are_no_number_are_passed_over() -> None:
    guard = SourceGuard()
    guard.note_errors("a", [float("nan"), 1.0] * 128)
    assert guard.state_dict()["tallies"] == [["a", 128.0, 128.0, 128.0]]


def test_a_source_is_compared_with_the_others_at_its_time() -> None:
    """Its rows came while nobody's were answered well, but wait with later ones."""
    guard = SourceGuard()
    guard.note_errors(["early", "others"] * 64, [0.9] * 128)
    guard.note_errors("others", [0.0] * 128)
    assert not guard.is_at_odds("early")
    assert guard.state_dict()["tallies"][0][0] == "early"


def test_answers_of_other_rows_change_nothing() -> None:
    guard = SourceGuard()
    found = guard.judge(draw(4, 0), "a")
    guard.note(found)
    before = repr(guard.state_dict())
    bad: list[tuple[Any, Any]] = [(torch.zeros(3, 2), torch.zeros(3)), answer(torch.zeros(5))]
    for output, target in bad:
        with pytest.raises(DataError, match=r"answers and \d targets for 4 rows"):
            guard.note_answers(found, output, target)
    with pytest.raises(DataError, match="2 weights for 4 rows"):
        guard.judge(draw(4, 0), "a", weights=[1.0, 1.0])
    assert repr(guard.state_dict()) == before
