"""What is measured of a competitor whose answers are known: when it is asked, and about what."""
# ruff: noqa: ARG002

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nestling.bench.rivals.tunable import Method, Settings, Setup
from nestling.bench.suites import parallel_cells
from nestling.bench.suites.cell_files import Cell
from nestling.bench.suites.measuring import Evaluation, Measurement, count_steps, measure, summarize
from nestling.bench.suites.parallel_cells import CellFolders, run_cells
from nestling.data import Experience, split_by_class
from nestling.data.suites import Suite


class Oracle:
    """Right on the labels that it was shown, and blind to what it is told to forget."""

    def __init__(self, num_classes: int) -> None:
        self.known = torch.zeros(num_classes)
        self.forgets: dict[int, int] = {}

    def learn(self, x: Tensor, y: Tensor, *, is_new: bool) -> None:
        self.known[y] = 1.0
        for label in y.tolist():
            if label in self.forgets:
                self.known[self.forgets[label]] = 0.0

    def end_experience(self, loader: object) -> None: ...

    def compute_scores(self, x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(x[:, 0].long(), len(self.known)) * self.known

    def count_bytes(self) -> int:
        return 12


def make_plain_suite(epochs: int = 1) -> Suite:
    y = torch.arange(4).repeat_interleave(10)
    x = y[:, None].float()
    made: list[Experience] = split_by_class(x, y, x, y, [[0, 1], [2, 3]])
    return Suite("plain", "class-incremental", made, 4, 5, epochs, False, False, "vectors", "")


def test_figures_of_a_competitor_whose_answers_are_known() -> None:
    oracle = Oracle(4)
    oracle.forgets = {3: 1}  # the second experience wipes out class 1
    found = measure(oracle, make_plain_suite(epochs=2), seed=0, num_looks=4)
    assert found.matrix == [[1.0, 0.0], [0.5, 1.0]]
    assert found.num_seen == 80
    figures = summarize(found)
    assert figures["acc"] == 0.75
    assert figures["forgetting"] == 0.5
    assert figures["bwt"] == -0.5
    assert figures["worst"] == pytest.approx(0.5 * 1.0 + 0.5 * 0.5)
    assert figures["stability_gap"] == 0.5
    assert figures["bytes"] == 12.0
    assert figures["prequential"] is None


def test_steps_to_90_are_examples_within_the_experience() -> None:
    def make(*accuracies: float) -> Measurement:
        looks = [Evaluation(1, 100 * i, [0.0, value]) for i, value in enumerate(accuracies)]
        return Measurement(looks=[Evaluation(0, 500, [1.0]), *looks])

    assert count_steps(make(0.0, 0.3, 0.54, 0.6), 1) == 200.0  # 90 % of its own best
    assert count_steps(make(0.0, 0.0, 0.0, 0.0), 1) == 300.0  # never adapted: all of it


def make_stream(labels: Sequence[Sequence[int]]) -> Suite:
    """An ordered stream of one example per batch; the input is the label, as `Oracle` reads it."""
    num_classes = 1 + max(map(max, labels))
    made = []
    for number, one in enumerate(labels):
        y = torch.tensor(one)
        part = (y[:, None].float(), y)
        made.append(Experience(f"part {number}", part, part, tuple(sorted(set(one)))))
    return Suite(
        "stream", "conflict", made, num_classes, 1, 1, False, False, "vectors", "", is_ordered=True
    )


@pytest.mark.parametrize(
    ("labels", "right"),
    [
        # Each label is new: right only for who is asked after it has learned the answer.
        ([[1, 2, 3], [4, 5, 6]], 0.0),
        # Each comes twice: the second time it is known, over the border of experiences too.
        ([[1, 1, 2, 2, 3], [3, 4, 4]], 0.5),
    ],
)
def test_a_stream_is_scored_before_it_is_learned(labels: list[list[int]], right: float) -> None:
    suite = make_stream(labels)
    assert measure(Oracle(suite.num_classes), suite, seed=0).prequential == right


class Hopeful(Oracle):
    """Prefers the class that it has not met yet to what it knows."""

    def compute_scores(self, x: Tensor) -> Tensor:
        return super().compute_scores(x) + 2.0 * (1.0 - self.known)


def test_classes_not_met_yet_are_no_wrong_answers() -> None:
    suite = make_plain_suite()
    found = measure(Hopeful(4), suite, seed=0, num_looks=0)
    assert found.matrix == [[1.0, 0.0], [1.0, 1.0]]
    stream = make_stream([[0, 1, 0, 1, 0, 1], [2, 3, 2, 3]])
    found = measure(Hopeful(4), stream, seed=0, num_looks=3)
    assert [look.accuracies for look in found.looks if look.during == 0][-1] == [1.0]
    # All but the first of all, which nobody is asked for: 2 and 3 count as met from the moment
    # on when their experience begins, and no earlier.
    assert found.prequential == pytest.approx(0.9)


def test_where_the_task_is_known_only_its_classes_are_answered() -> None:
    oracle = Oracle(4)
    oracle.forgets = {3: 1}  # 0 and 1 score alike for class 1 then: the first is answered
    suite = replace(make_plain_suite(), known_task_at_test=True)
    found = measure(oracle, suite, seed=0, num_looks=0)
    assert found.matrix[0] == [1.0, 0.5]  # unknown yet, but answered among 2 and 3
    assert found.matrix[1] == [0.5, 1.0]


def test_the_worst_moment_counts_even_if_it_was_made_good_again() -> None:
    looks = [
        Evaluation(0, 5, [0.1]),  # not yet learned: no fall
        Evaluation(0, 10, [1.0]),
        Evaluation(1, 0, [1.0, 0.0]),
        Evaluation(1, 4, [0.5, 0.76]),
        Evaluation(1, 8, [0.9, 0.8]),
        Evaluation(2, 0, [0.9, 0.8, 0.0]),
        Evaluation(2, 3, [0.7, 0.95, 0.1]),
        Evaluation(2, 6, [0.2, 0.3, 0.6]),
        Evaluation(2, 9, [0.9, 0.8, 0.6]),
    ]
    found = Measurement([[1.0, 0.0, 0.0], [0.9, 0.8, 0.0], [0.9, 0.8, 0.6]], looks)
    figures = summarize(found)
    assert figures["worst"] == pytest.approx(0.6 / 3 + 2 / 3 * (0.2 + 0.3) / 2)
    assert figures["stability_gap"] == pytest.approx((0.5 + (0.7 + 0.5) / 2) / 2)
    # 90 % of .8 after 4 examples and of .6 after 6: of the best within their own experience.
    assert figures["steps_to_90"] == 5.0


class Diary(Oracle):
    """Keeps what it was given."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.lessons: list[tuple[list[float], bool]] = []
        self.num_ended = 0
        self.asked_after: list[tuple[int, int]] = []
        self.asked_of: set[float] = set()

    def learn(self, x: Tensor, y: Tensor, *, is_new: bool) -> None:
        self.lessons.append((x[:, 1].tolist(), is_new))
        super().learn(x, y, is_new=is_new)

    def end_experience(self, loader: object) -> None:
        self.num_ended += 1

    def compute_scores(self, x: Tensor) -> Tensor:
        self.asked_after.append((len(self.lessons), self.num_ended))
        self.asked_of |= set(x[:, 1].tolist())
        return super().compute_scores(x)


def make_numbered_suite(epochs: int = 1) -> Suite:
    """The plain suite with a second input that numbers rows, those to test on downwards."""
    suite = make_plain_suite(epochs)
    made = []
    for one in suite.experiences:
        x, y = one.train
        number = torch.arange(float(len(x)))[:, None]
        train, test = torch.cat([x, number], dim=1), torch.cat([x, -1 - number], dim=1)
        made.append(replace(one, train=(train, y), test=(test, y)))
    return replace(suite, experiences=made)


def test_every_epoch_and_seed_has_an_order_of_its_own() -> None:
    orders = {}
    for seed in (0, 1):
        diary = Diary(4)
        measure(diary, make_numbered_suite(epochs=2), seed=seed, num_looks=2)
        assert [is_new for _, is_new in diary.lessons] == 2 * (4 * [True] + 4 * [False])
        passes = [diary.lessons[i : i + 4] for i in range(0, 16, 4)]
        for number, one in enumerate(passes):
            order = [row for rows, _ in one for row in rows]
            assert sorted(order) == [float(i) for i in range(20)]
            orders[seed, number] = order
        # Before the second experience, half way of each, and at each end.
        assert diary.asked_after == [(2, 0), (8, 1), (8, 1), (10, 1), (16, 2)]
        assert diary.asked_of == {-1.0 - i for i in range(20)}
    assert len(set(map(tuple, orders.values()))) == 8


def test_seeds_differ_in_stream_weights_and_order_and_methods_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: dict[tuple[str, int], tuple[nn.Module, Diary]] = {}
    opened: list[tuple[int, str]] = []

    def find(name: str) -> Method:
        def build(setup: Setup, settings: Settings) -> Diary:
            diary = Diary(4)
            built[name, setup.seed] = setup.make_model(), diary
            return diary

        return Method(name, "no_replay", build)

    def open_one(name: str, seed: int, split: str, *_: object) -> Suite:
        opened.append((seed, split))
        return make_numbered_suite()

    monkeypatch.setattr(parallel_cells, "find_method", find)
    monkeypatch.setattr(parallel_cells, "open_suite", open_one)
    cells = [Cell("plain", "test", name, seed) for name in ("one", "other") for seed in (0, 1)]
    run_cells(cells, CellFolders(tmp_path), num_workers=1)
    assert {(0, "test"), (1, "test")} == set(opened)
    tuning = Cell("plain", "validation", "third", 2, trial=0)
    run_cells([tuning], CellFolders(tmp_path), num_workers=1)
    assert opened[-1] == (2, "validation")
    del built["third", 2]
    assert set(built) == {(name, seed) for name in ("one", "other") for seed in (0, 1)}
    weights = {key: next(model.parameters()) for key, (model, _) in built.items()}
    lessons = {key: diary.lessons for key, (_, diary) in built.items()}
    for seed in (0, 1):
        assert torch.equal(weights["one", seed], weights["other", seed])
        assert lessons["one", seed] == lessons["other", seed]
    assert not torch.equal(weights["one", 0], weights["one", 1])
    assert lessons["one", 0] != lessons["one", 1]
