"""A learner that is told where its rows come from holds what one source has too much of."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import DataError, ForeignSnapshot, SettingError
from nestling.levels import Held
from nestling.protect import SourceGuard


def make(guard: SourceGuard | None, memory: bool = False, gradient: bool = True) -> nl.Learner:
    torch.manual_seed(0)
    levels: list[Any] = []
    if gradient:
        levels.append(nl.Level("all", match=["*"], optimizer=nl.sgd(lr=0.1)))
    if memory:
        levels.append(nl.Memory("memory"))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return nl.Learner(model, nl.Plan(*levels), num_classes=2, sources=guard)


def draw(step: int, num: int = 16) -> tuple[Tensor, Tensor]:
    x = torch.randn(num, 4, generator=torch.Generator().manual_seed(step))
    return x, (x[:, 0] > 0).long()


@pytest.mark.parametrize("memory", [False, True])
def test_learns_what_is_admitted_and_nothing_else(memory: bool) -> None:
    guarded, plain = make(SourceGuard(rate=0.5, window=40), memory), make(None, memory)
    for step in range(12):
        x, y = draw(step)
        names = ["a"] * 10 + list("bcdefg")
        twin = SourceGuard(rate=0.5, window=40)
        twin.load_state_dict(guarded.state_dict()["sources"])
        kept = twin.judge(x, names).rows
        report = guarded.learn(x, y, source=names)
        held = [event for event in report.events if isinstance(event, Held)]
        assert sum(event.num_rows for event in held) == 16 - len(kept)
        assert report.num_examples == len(kept)
        if len(kept):
            plain.learn(x[kept], y[kept])
    assert guarded.levels.digests() == plain.levels.digests()
    assert guarded.counts.num_examples == plain.counts.num_examples < 12 * 16


def test_rows_that_are_all_held_change_nothing() -> None:
    learner = make(SourceGuard(rate=0.25, window=8))
    x, y = draw(0, 8)
    learner.learn(x, y, source=list("abcdefgh"))
    learner.learn(x[:2], y[:2], source=list("aa"))
    before = learner.levels.digests()
    report = learner.learn(x, y, source="a")
    assert learner.levels.digests() == before
    assert (report.num_examples, report.refused) == (0, "")
    assert [(e.source, e.rule, e.num_rows) for e in report.events] == [("a", "rate", 8)]  # type: ignore[union-attr]


def test_who_learns_by_memory_alone_hears_of_errors_too() -> None:
    learner = make(SourceGuard(rate=1.0), memory=True, gradient=False)
    for step in range(5):
        learner.learn(*draw(step), source="a")
    assert learner.state_dict()["sources"]["waiting"] == ["a"] * 4 * 16, "none before the first"
    for step in range(5, 17):
        learner.learn(*draw(step), source="a")
    state = learner.state_dict()["sources"]
    ((source, errors, expected, num),) = state["tallies"]
    assert (source, num, state["waiting"]) == ("a", 200, []), "worked off 256 by 256"
    assert 0.0 < errors == pytest.approx(expected, abs=10.0)


@pytest.mark.parametrize("memory", [False, True])
def test_flipped_labels_are_found_by_what_was_answered_before(memory: bool) -> None:
    learner = make(SourceGuard(rate=1.0), memory)
    held = {"bad": 0, "good": 0}
    for step in range(150):
        x, y = draw(step)
        y[:4] = 1 - y[:4]
        report = learner.learn(x, y, source=["bad"] * 4 + ["good"] * 12)
        for event in report.events:
            if isinstance(event, Held) and step > 75:
                held[event.source] += event.num_rows
    assert held["bad"] >= 0.95 * 4 * 74
    assert held["good"] <= 0.02 * 12 * 74


def test_goes_on_from_a_snapshot_bit_for_bit(tmp_path: Path) -> None:
    whole = make(SourceGuard(rate=0.5, window=50))
    for step in range(8):
        whole.learn(*draw(step), source=["a"] * 10 + ["b"] * 6)
    whole.snapshot(tmp_path / "a")
    other = make(SourceGuard(rate=0.5, window=50))
    other.restore(tmp_path / "a")
    assert repr(other.state_dict()["sources"]) == repr(whole.state_dict()["sources"])
    for step in range(8, 16):
        reports = [o.learn(*draw(step), source=["a"] * 10 + ["b"] * 6) for o in (whole, other)]
        assert reports[0].events == reports[1].events
    assert whole.levels.digests() == other.levels.digests()
    with pytest.raises(ForeignSnapshot, match="rate"):
        make(SourceGuard(rate=0.4, window=50)).restore(tmp_path / "a")


def test_a_source_without_a_guard_is_counted() -> None:
    learner, plain = make(None), make(None)
    learner.learn(*draw(0), source="a")
    learner.learn(*draw(1), source=["a"] * 3 + ["b"] * 13)
    plain.learn(*draw(0))
    plain.learn(*draw(1))
    assert dict(learner._training.sources.num_rows) == {"a": 19, "b": 13}
    assert learner.levels.digests() == plain.levels.digests()
    assert "sources" not in learner.state_dict()


def test_a_guard_that_is_not_told_says_how() -> None:
    learner = make(SourceGuard())
    before = repr(learner.state_dict())
    with pytest.raises(SettingError, match=r"learn\(x, y, source='ward 3'\)"):
        learner.learn(*draw(0))
    with pytest.raises(DataError, match="15 sources for 16 rows"):
        learner.learn(*draw(0), source=["a"] * 15)
    assert repr(learner.state_dict()) == before


def test_only_a_guard_guards() -> None:
    with pytest.raises(SettingError, match="SourceGuard"):
        make(0.2)  # type: ignore[arg-type]


def test_a_step_that_fails_leaves_the_guard_as_it_was() -> None:
    learner = make(SourceGuard())
    learner.learn(*draw(0), source="a")
    before = repr(learner.state_dict()["sources"])
    x, y = draw(1)
    with pytest.raises(DataError):
        learner.learn(x[:, :4].double().long(), y, source="a")
    with pytest.raises(DataError):
        learner.learn(x, y + 5, source="a")
    assert repr(learner.state_dict()["sources"]) == before
