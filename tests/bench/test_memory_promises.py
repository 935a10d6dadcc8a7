"""The memory suite's own logic: parts that are kept, figures by name, sides that learn the same."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nestling.bench.promises import (
    default_costs,
    kept_parts,
    memory_promises,
    sleep_accuracy,
    suite_accuracies,
)
from nestling.bench.promises.default_costs import (
    Amounts,
    count_features,
    flush_denormals,
    measure_answering,
    measure_learning,
    time_turns,
)
from nestling.bench.promises.suite_accuracies import make_learner, measure_encoded, measure_pixels
from nestling.bench.result import LIMITS
from nestling.bench.rivals.tunable import make_setup
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.core.errors import JobError, SettingError
from nestling.data import load_digits
from nestling.data.suites import Suite
from nestling.models import mlp
from tiny_suites import make_digits


def open_digits(_: str, seed: int, **__: object) -> Suite:
    return make_digits(seed, "test")


@pytest.fixture
def place(tmp_path: Path) -> CellFolders:
    return CellFolders(tmp_path, offline=True)


@pytest.fixture
def digits_for_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = load_digits()
    wide = torch.nn.functional.interpolate(images.reshape(-1, 1, 8, 8), size=28).flatten(1)
    monkeypatch.setattr(default_costs, "read_shuffled", lambda _: (wide, labels))


# --- parts


def test_parts_are_kept_and_go_on(place: CellFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def make(name: str) -> kept_parts.Measure:
        def measure(_: CellFolders) -> tuple[dict[str, float], list[dict[str, object]]]:
            measured.append(name)
            if name == "b" and measured.count("b") == 1:
                raise KeyboardInterrupt
            return {f"figure_{name}": float(torch.get_num_threads())}, [{"value": name}]

        return measure

    monkeypatch.setattr(memory_promises, "PARTS", {name: make(name) for name in "abc"})
    with pytest.raises(KeyboardInterrupt):
        memory_promises.run(place)
    assert measured == ["a", "b"]
    told: list[tuple[str, float]] = []
    result = memory_promises.run(place, progress=lambda *now: told.append(now))
    assert measured == ["a", "b", "b", "c"]
    assert result.figures == {"figure_a": 1.0, "figure_b": 1.0, "figure_c": 1.0}
    assert [(row["part"], row["value"]) for row in result.rows] == [(n, n) for n in "abc"]
    assert [name for name, _ in told] == ["a", "b", "c"]
    machine = result.to_data()["machine"]
    assert isinstance(machine, dict)
    assert machine["num_threads"] == 1
    # Some only, in the order of the list, and none of them again.
    assert list(memory_promises.run(place, ["c", "a"]).figures) == ["figure_a", "figure_c"]
    # Another code measures again.
    monkeypatch.setattr(kept_parts, "identify_code", lambda: "other")
    assert memory_promises.run(place, ["a"]).rows == [{"part": "a", "value": "a", "code": "other"}]
    assert measured == ["a", "b", "b", "c", "a"]


def test_unknown_parts_and_damaged_files(place: CellFolders) -> None:
    with pytest.raises(SettingError, match="did you mean 'learn-b10'"):
        memory_promises.run(place, ["lern-b10"])
    assert list(place.folder.iterdir()) == []
    path = place.folder / "parts" / "learn-b10.json"
    path.parent.mkdir()
    for text in ("{", "[]", json.dumps({"part": "learn-b10"})):
        path.write_text(text)
        with pytest.raises(JobError, match=r"learn-b10.json' is damaged .*; delete it"):
            memory_promises.run(place, ["learn-b10"])


# --- accuracies


def test_accuracy_of_the_default(place: CellFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite_accuracies, "make_suite", open_digits)
    figures, rows = measure_pixels("split-digits-full", place)
    assert set(figures) == {"acc_split_digits_full", "forgetting_split_digits_full"}
    assert figures["acc_split_digits_full"] > 90.0
    assert 0.0 <= figures["forgetting_split_digits_full"] < 10.0
    assert [row["seed"] for row in rows] == [0, 1]
    shares = [float(str(row["acc"])) * 300 / 100 for row in rows]
    assert shares == [pytest.approx(round(share)) for share in shares]  # of 300 test images
    assert rows[0]["acc"] != rows[0]["acc_by_experience"]


def test_a_large_memory_has_more_features() -> None:
    setup = make_setup(make_digits(0, "test"), 0)
    plain, large = (make_learner(setup, size) for size in ("default", "large"))
    assert (plain.plan.memories[0].size, large.plan.memories[0].size) == ("default", "large")
    assert [level.name for level in plain.plan.levels] == [one.name for one in large.plan.levels]


def test_accuracy_of_large_and_encoded(place: CellFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite_accuracies, "make_suite", open_digits)
    monkeypatch.setattr(suite_accuracies, "SEEDS", (0,))
    figures, (row,) = measure_pixels("split-digits", place, size="large")
    assert figures["acc_large_split_digits"] > 90.0
    plain, (smaller,) = measure_pixels("split-digits", place, label="other")
    assert set(plain) == {"acc_other", "forgetting_other"}
    assert float(str(row["bytes"])) > float(str(smaller["bytes"]))
    # Without an encoder of its own a suite stays as it is.
    assert measure_encoded("split-digits", place)[0] == {
        name.replace("other", "split_digits"): value for name, value in plain.items()
    }


def test_every_method_gets_the_network_of_the_suite() -> None:
    suite = make_digits(0, "test")
    wide = replace(suite, widths=(30, 20, 10))
    for one, wanted in ((suite, [128, 128, 10]), (wide, [30, 20, 10, 10])):
        params = dict(make_setup(one, 0).make_model().named_parameters())
        found = [len(param) for name, param in params.items() if name.endswith("weight")]
        assert found == wanted


# --- costs


def test_both_sides_learn_the_same_batches(
    place: CellFolders, monkeypatch: pytest.MonkeyPatch, digits_for_mnist: None
) -> None:
    seen: dict[str, list[Tensor]] = {"ours": [], "theirs": []}
    time_for_real = default_costs.time_turns

    def note(ours: default_costs.Step, theirs: default_costs.Step, turns):  # type: ignore[no-untyped-def]
        def step_ours(x: Tensor, y: Tensor) -> None:
            seen["ours"].append(x)
            ours(x, y)

        def step_theirs(x: Tensor, y: Tensor) -> None:
            seen["theirs"].append(x)
            theirs(x, y)

        return time_for_real(step_ours, step_theirs, turns)

    monkeypatch.setattr(default_costs, "time_turns", note)
    few = Amounts(warm=100, batches=4, turn=2, rounds=2)
    figures, rows = measure_learning(10, place, amounts=few)
    assert set(figures) == {"learn_over_finetune_b10"}
    ratios = sorted(float(str(row["ratio"])) for row in rows)
    assert figures["learn_over_finetune_b10"] == pytest.approx(sum(ratios) / 2)
    assert [row["round"] for row in rows] == [1, 2]
    assert len(seen["ours"]) == 3 * 4
    assert all(map(torch.equal, seen["ours"], seen["theirs"]))
    assert {len(x) for x in seen["ours"]} == {10}


def test_denormal_numbers_are_zero_for_a_while() -> None:
    tiny = torch.tensor([1e-40])
    with flush_denormals():
        assert (tiny * 0.5).item() == 0.0
    assert (tiny * 0.5).item() > 0.0


def test_what_is_done_in_other_threads_is_paid_for() -> None:
    import threading

    def work(seconds: float) -> None:
        started = time.thread_time()
        while time.thread_time() - started < seconds:
            pass

    threads = []

    def ours(*_: Tensor) -> None:
        threads.append(threading.Thread(target=work, args=(0.05,)))
        threads[-1].start()

    def theirs(*_: Tensor) -> None:
        work(0.02)
        threads[-1].join()

    pair = (torch.zeros(1), torch.zeros(1))
    ours(*pair)
    mine, other = time_turns(ours, theirs, [[pair]] * 4)
    for thread in threads:
        thread.join()
    assert 0.1 < mine < 0.3
    assert 0.08 <= other < 0.12


def test_time_to_an_answer(place: CellFolders, digits_for_mnist: None) -> None:
    few = Amounts(warm=50, answers=3)
    figures, (row,) = measure_answering(1_500, place, amounts=few)
    assert figures == {"predict_after_learn_ms_1500": row["median_milliseconds"]}
    times = [float(str(row[f"{name}_milliseconds"])) for name in ("fastest", "median", "slowest")]
    assert 0.0 < times[0] <= times[1] <= times[2]


def test_the_default_for_a_trained_network_has_3584_features() -> None:
    from nestling.learn import Learner

    learner = Learner(mlp(default_costs.SIZES), pretrained=True)
    x = torch.rand(20, 784, generator=torch.Generator().manual_seed(0))
    learner.learn(x, torch.arange(20) % 10)
    assert count_features(learner) == 3_584


def test_every_limit_has_a_part() -> None:
    names = set()
    for name, part in memory_promises.PARTS.items():
        called = part.func.__name__  # type: ignore[attr-defined]
        if called.startswith("measure_learning"):
            names.add(f"learn_over_finetune_b{part.args[0]}")  # type: ignore[attr-defined]
        elif called == "measure_answering":
            names.add(f"predict_after_learn_ms_{part.args[0]}")  # type: ignore[attr-defined]
        elif called == "measure_sleeping":
            names |= set(sleep_accuracy.FIGURES.values())
        else:
            names.add("acc_" + name.replace("-", "_"))
    assert LIMITS["memory"].keys() - names == set()
