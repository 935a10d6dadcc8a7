"""What one source can do is bounded: by rate, norm, weight and agreement."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nestling.core.errors import DataError, MismatchedParameters, SettingError
from nestling.protect import SourceGuard, influence


def draw(num: int, seed: int = 0) -> Tensor:
    return torch.randn(num, 8, generator=torch.Generator().manual_seed(seed))


@given(
    sources=st.lists(st.sampled_from("aaaaaaaabcdefg"), min_size=1, max_size=200),
    rate=st.sampled_from([0.3, 0.7, 1.0]),
    size=st.integers(1, 9),
)
def test_no_source_has_more_than_its_share(sources: list[str], rate: float, size: int) -> None:
    guard, window = SourceGuard(rate=rate, window=20, least_heard=1000), 20
    admitted: list[str] = []
    for start in range(0, len(sources), size):
        names = sources[start : start + size]
        found = guard.admit(torch.zeros(len(names), 2), names)
        for row in found.rows.tolist():
            admitted.append(names[row])
            last = Counter(admitted[-window:])
            assert last[names[row]] <= max(rate, 2.0 / len(last)) * window + 1e-9
        held = sum(event.num_rows for event in found.events)
        assert held + len(found.rows) == len(names)
        assert all(event.rule == "rate" for event in found.events)
    if set(sources) == {"a"}:
        assert len(admitted) == len(sources), "who is alone is not held"


def test_sources_that_come_one_after_the_other_are_heard() -> None:
    guard = SourceGuard(rate=0.2, window=100)
    for source in "abcab":
        for _ in range(50):
            assert len(guard.admit(torch.zeros(8, 1), source).rows) == 8


def test_a_source_that_floods_many_others_is_held() -> None:
    guard = SourceGuard(rate=0.1, window=200)
    guard.admit(torch.zeros(200, 1), [f"s{n % 50}" for n in range(200)])
    kept = 0
    for _ in range(50):
        found = guard.admit(torch.zeros(20, 1), ["flood"] * 19 + ["s1"])
        kept += sum(row < 19 for row in found.rows.tolist())
    assert kept <= 0.1 * 200 + 50 * 0.1, "no more than its share of what else is learned"


def test_events_tell_who_how_many_and_by_which_figures() -> None:
    guard = SourceGuard(rate=0.25, window=8, least_heard=2)
    guard.admit(torch.zeros(4, 1), list("abcd"))
    (event,) = guard.admit(torch.zeros(5, 1), "a").events
    assert (event.source, event.rule, event.num_rows) == ("a", "rate", 2)
    assert event.message == (
        "source 'a': 2 rows held; it has 1 of the last 4 rows learned, rate=0.25 of 8 and twice an "
        "even share allow no more"
    )


def test_loud_rows_are_held_and_do_not_move_the_centre() -> None:
    guard = SourceGuard(rate=1.0)
    clean = 0
    for step in range(40):
        found = guard.admit(draw(32, step), "a")
        clean += sum(event.num_rows for event in found.events)
    assert clean <= 0.002 * 40 * 32
    for step in range(40):
        x = draw(32, 100 + step)
        x[:12] *= 8.0
        found = guard.admit(x, ["loud"] * 12 + ["a"] * 20)
        held = {event.source: event.num_rows for event in found.events}
        assert held.get("loud", 0) >= 11
        assert held.get("a", 0) <= 1
    assert "norm=4" in found.events[0].message


@pytest.mark.parametrize("share", [0.05, 0.36])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_flipped_labels_of_normal_size_are_found(share: float, seed: int) -> None:
    """5 of 50 subjects flip their labels, at normal size and at a rate that is allowed."""
    generator = torch.Generator().manual_seed(seed)
    model, guard = nn.Linear(8, 2), SourceGuard()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    truth = torch.randn(8, generator=generator)
    held_clean = held_bad = num_clean = num_bad = 0
    num_bad_rows = max(1, round(32 * share))
    for step in range(400):
        x = torch.randn(32, 8, generator=generator)
        y = (x @ truth > 0).long()
        bad = torch.randint(5, (num_bad_rows,), generator=generator).tolist()
        good = torch.randint(5, 50, (32 - num_bad_rows,), generator=generator).tolist()
        y[:num_bad_rows] = 1 - y[:num_bad_rows]
        names = [str(one) for one in bad + good]
        errors = model(x).argmax(1) != y
        found = guard.admit(x, names, errors)
        kept = set(found.rows.tolist())
        if step > 250:
            held_bad += sum(row not in kept for row in range(num_bad_rows))
            num_bad += num_bad_rows
        held_clean += sum(row not in kept for row in range(num_bad_rows, 32))
        num_clean += 32 - num_bad_rows
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[found.rows]), y[found.rows]).backward()
        optimizer.step()
    assert held_clean / num_clean <= 0.02
    assert held_bad / num_bad >= 0.95
    x = torch.randn(2000, 8, generator=generator)
    assert ((model(x).argmax(1) == (x @ truth > 0)).float().mean()) > 0.93


def test_a_hard_source_that_is_honest_is_heard() -> None:
    guard = SourceGuard(rate=1.0)
    generator = torch.Generator().manual_seed(0)
    num_held = 0
    for _ in range(500):
        names = ["hard"] * 4 + ["easy"] * 28
        wrong = torch.tensor([0.28] * 4 + [0.15] * 28)
        errors = (torch.rand(32, generator=generator) < wrong).float()
        num_held += sum(e.num_rows for e in guard.admit(torch.zeros(32, 1), names, errors).events)
    assert num_held == 0


def test_a_source_that_agrees_again_is_heard_again() -> None:
    guard = SourceGuard(rate=1.0)
    names = ["bad"] * 4 + ["good"] * 28

    def go(steps: int, wrong: float) -> int:
        errors = torch.tensor([wrong] * 4 + [0.0] * 28)
        return [len(guard.admit(torch.zeros(32, 1), names, errors).rows) for _ in range(steps)][-1]

    assert go(40, 1.0) == 28
    assert guard.is_at_odds("bad")
    assert go(200, 0.0) == 32


def test_an_early_source_is_not_blamed_for_an_answer_that_was_young() -> None:
    """While nobody's rows were answered well, its were not either."""
    guard = SourceGuard(rate=1.0)
    for wrong, names in ((0.5, ["early", "others"] * 30), (0.0, ["others"] * 400)):
        values = [float(n % 2) if wrong else 0.0 for n in range(len(names) // 2) for _ in range(2)]
        guard.note_errors(names[:20], values[:20])
        guard.note_errors(names[20:], values[20:])
    assert not guard.is_at_odds("early")


def test_residuals_of_values_are_judged_by_the_usual() -> None:
    guard = SourceGuard(rate=1.0)
    for step in range(40):
        residual = draw(32, step)[:, 0].abs()
        residual[:4] += 10.0
        guard.note_errors(["bad"] * 4 + ["good"] * 28, residual, are_residuals=True)
    assert guard.is_at_odds("bad")
    assert not guard.is_at_odds("good")


def test_weights_are_capped() -> None:
    guard = SourceGuard(weight=2.0)
    found = guard.admit(torch.zeros(3, 1), "a", weights=[0.5, 2.0, 9.0])
    assert found.weights.tolist() == [0.5, 2.0, 2.0]


def test_goes_on_where_it_was_and_remembers_so_many() -> None:
    def make() -> SourceGuard:
        return SourceGuard(rate=0.4, window=50, least_heard=20, most_sources=7)

    def go(guard: SourceGuard, step: int) -> list[Any]:
        x = draw(16, step)
        x[0] *= 9.0
        names = [f"s{(step * 3 + row) % 11}" for row in range(16)]
        found = guard.admit(x, names, (x[:, 0] > 1.0).float())
        return [found.rows.tolist(), found.events]

    whole = make()
    for step in range(30):
        go(whole, step)
    assert len(whole.state_dict()["tallies"]) == 7
    other = make()
    other.load_state_dict(whole.state_dict())
    assert [go(whole, s) for s in range(30, 60)] == [go(other, s) for s in range(30, 60)]
    assert repr(whole.state_dict()) == repr(other.state_dict())
    with pytest.raises(MismatchedParameters, match=r"'rate': 0\.4"):
        SourceGuard().load_state_dict(whole.state_dict())


@pytest.mark.parametrize(
    "settings",
    [
        *({"rate": 0.0}, {"rate": 1.5}, {"weight": -1.0}, {"norm": 1.0}, {"window": 1}),
        *({"least_heard": 0}, {"norm": float("nan")}, {"most_sources": 0}, {"rate": "all"}),
    ],
)
def test_a_number_that_is_none_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        SourceGuard(**settings)


@pytest.mark.parametrize("sources", [["a"], ["a", 3], ["a", ""], 7, None])
def test_sources_that_cannot_be_read_change_nothing(sources: Any) -> None:
    guard = SourceGuard()
    before = repr(guard.state_dict())
    with pytest.raises(DataError, match="source"):
        guard.admit(torch.zeros(2, 1), sources)
    assert repr(guard.state_dict()) == before


def test_rows_of_another_width_are_refused() -> None:
    guard = SourceGuard()
    guard.admit(torch.zeros(2, 3), "a")
    with pytest.raises(DataError, match="4 features where those before had 3"):
        guard.admit(torch.zeros(2, 4), "a")
    with pytest.raises(DataError, match="3 errors for 2 rows"):
        guard.admit(torch.zeros(2, 3), "a", [0.0, 1.0, 1.0])


def test_the_lower_bound_holds_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = (torch.rand(20_000, 60, generator=generator) < 0.3).float().mean(1).tolist()
    missed = sum(influence.wilson_low(share, 60, 2.0) > 0.3 for share in counts) / len(counts)
    assert missed < 0.035  # one-sided 2 sigma: 2.3 %


def test_errors_of_classes_sequences_and_values() -> None:
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [2.0, 0.0]]])
    target = torch.tensor([[0, 0], [1, -100]])
    assert influence.measure_row_errors(logits, target).tolist() == [0.5, 1.0]
    assert influence.measure_row_errors(torch.ones(2, 1), torch.tensor([1.0, 3.0])).tolist() == [
        0.0,
        2.0,
    ]
