"""People who come to a model of others."""

import json
from types import SimpleNamespace

import pytest
import torch

from nestling.bench.suites import personal_stream as personal
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.bench.suites.personal_stream import (
    PersonCounts,
    build_figures,
    format_people,
    measure_people,
)
from nestling.core.errors import JobError
from nestling.data.suites.people import PersonStream


def make_person(shift: float) -> PersonStream:
    """Others say 1 where the first number is above 0; this person where it is above `shift`."""
    x = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
    base, own = (x[:, 0] > 0).long(), (x[:, 0] > shift).long()
    return PersonStream(
        "one",
        (x[:200], base[:200]),
        (x[200:400], own[200:400]),
        (x[400:], own[400:]),
        (x[400:], base[400:]),
    )


@pytest.fixture
def people(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def make(request, *, split, num_seconds):
        asked.append(f"{split} {request.seed}")
        assert num_seconds == 60.0
        yield make_person(1.0)
        yield make_person(0.0)

    monkeypatch.setattr(personal, "make_person_streams", make)
    return asked


def test_errors_before_and_after_are_added_up_over_people_and_seeds(people, tmp_path) -> None:
    settings = {"finetune": {"lr": 0.3}}
    found = measure_people(settings, [0, 1], CellFolders(tmp_path), num_workers=1)
    counts = found["finetune", "recordings"]
    assert counts.num_own == counts.num_base == 2 * 2 * 200
    # Between 0 and 1 lies a third of a normal's examples: there the first person differs.
    assert 0.2 < counts.own_before / (2 * 200) < 0.5
    assert counts.own_after < 0.6 * counts.own_before
    assert counts.errors_removed == pytest.approx(1 - counts.own_after / counts.own_before)
    assert counts.lost_on_others > 5.0  # what this person says is wrong of the others
    assert "after 60 s" in format_people(found)
    assert build_figures(found) == {}  # of the default only


def test_a_trials_seed_draws_people_weights_and_order(people, tmp_path, monkeypatch) -> None:
    built = []

    class Diary:
        def __init__(self, setup, _) -> None:
            self.weights = next(setup.make_model().parameters())
            self.learned: list[float] = []
            self.asked: list[tuple[int, float]] = []
            built.append(self)

        def learn(self, x, _, *, is_new) -> None:  # noqa: ARG002
            self.learned += x[:, 0].tolist()

        def end_experience(self, loader) -> None: ...

        def compute_scores(self, x):
            self.asked.append((len(self.learned), float(x[0, 0])))
            return torch.zeros(len(x), 2)

    monkeypatch.setattr(personal, "find_method", lambda _: SimpleNamespace(build=Diary))
    measure_people({"mine": {}}, [0, 1], CellFolders(tmp_path), num_workers=1)
    assert people == ["recordings 0", "recordings 1", "halves 0", "halves 1"]
    first, _, second, *_ = built
    assert not torch.equal(first.weights, second.weights)
    assert first.learned != second.learned
    assert sorted(first.learned) == sorted(second.learned)
    tested = float(make_person(1.0).own_test[0][0, 0])
    end = len(first.learned)
    assert first.asked == [(end - 200, tested)] * 2 + [(end, tested)] * 2


def test_what_was_measured_is_not_measured_again(people, tmp_path) -> None:
    settings = {"default": {}}
    first = measure_people(settings, [0], CellFolders(tmp_path), num_workers=1)
    assert people == ["recordings 0", "halves 0"]
    assert measure_people(settings, [0], CellFolders(tmp_path), num_workers=1) == first
    assert len(people) == 2
    assert set(build_figures(first)) == {
        "errors_removed",
        "lost_on_others",
        "errors_removed_halves",
        "lost_on_others_halves",
    }
    path = next((tmp_path / "personal").glob("default-halves*"))
    path.write_text(json.dumps({"num_own": "many"}))
    with pytest.raises(JobError, match="damaged"):
        measure_people(settings, [0], CellFolders(tmp_path), num_workers=1)


def test_nobody_and_no_error_divide_nothing() -> None:
    assert PersonCounts().errors_removed == 1.0
    assert PersonCounts().lost_on_others == 0.0
