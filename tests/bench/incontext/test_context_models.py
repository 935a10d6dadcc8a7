"""Models of the same size: how large they are, that none sees the future, and that they learn."""

import dataclasses
from pathlib import Path

import pytest
import torch

from nestling.bench.incontext import context_promises
from nestling.bench.incontext.context_models import CONTEXT_MODELS, count_parameters
from nestling.bench.incontext.context_runs import (
    TUNING_SEED,
    ContextRun,
    make_reader,
    run_task,
    tune_and_run,
)
from nestling.bench.incontext.context_state import count_fast
from nestling.bench.incontext.context_table import format_table
from nestling.bench.incontext.context_tasks import CONTEXT_TASKS, ContextTask
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.core.errors import NonFiniteInput, SettingError

TINY = dataclasses.replace(
    CONTEXT_TASKS["recall"], width=32, train_length=8, test_length=16, num_steps=300
)


@pytest.mark.parametrize("name", ["recall", "parity"])
def test_models_are_of_the_same_size(name: str) -> None:
    sizes = [count_parameters(make_reader(CONTEXT_TASKS[name], one)) for one in CONTEXT_MODELS]
    assert max(sizes) <= (1.02 if name == "recall" else 1.1) * min(sizes)


@pytest.mark.parametrize("model", CONTEXT_MODELS)
def test_no_model_sees_the_future_and_all_see_the_past(model: str) -> None:
    torch.manual_seed(0)
    reader = make_reader(CONTEXT_TASKS["recall"], model)
    inputs, _ = CONTEXT_TASKS["recall"].draw(0)(2, 32, torch.Generator().manual_seed(0))
    inputs.requires_grad_()
    (slope,) = torch.autograd.grad(reader(inputs)[:, 20].sum(), inputs)
    assert slope[:, 21:].abs().max() == 0
    if model != "mlp-memory":  # whose outer layer begins at zero, so at first it reads nothing
        assert slope[:, 3].abs().max() > 0


@pytest.mark.parametrize("model", ["deltanet", "cms"])
def test_a_tiny_model_learns_to_recall(model: str) -> None:
    run = run_task(TINY, model, 1e-2, 0)
    assert run.within > 0.9
    untrained = run_task(dataclasses.replace(TINY, num_steps=1), model, 1e-2, 0)
    assert untrained.within < 0.3
    assert run_task(dataclasses.replace(TINY, num_steps=3), model, 1e-2, 0).loss == (
        run_task(dataclasses.replace(TINY, num_steps=3), model, 1e-2, 0).loss
    )


def test_a_cms_that_cannot_write_does_not_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nestling.bench.incontext.context_models.CMS_RATE", 0.0)
    assert run_task(TINY, "cms", 1e-2, 0).within < 0.3


def test_a_run_that_blows_up_is_counted_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NonFiniteInput("NaN")

    monkeypatch.setattr("nestling.bench.incontext.context_runs.train_reader", fail)
    run = run_task(TINY, "cms", 1e-2, 0)
    assert (run.within, run.beyond, run.whole, run.loss) == (0.0, 0.0, 0.0, float("inf"))


def test_the_rate_is_chosen_on_a_seed_that_is_no_test_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[float, int]] = []

    def run_quickly(_: ContextTask, model: str, lr: float, seed: int) -> ContextRun:
        asked.append((lr, seed))
        return ContextRun(1.0, 1.0, 1.0, abs(lr - 0.2), 0.0, len(model))

    monkeypatch.setattr("nestling.bench.incontext.context_runs.run_task", run_quickly)
    lr, runs = tune_and_run(TINY, "cms", (0, 1), (0.1, 0.2, 0.3))
    assert lr == 0.2
    assert len(runs) == 2
    assert asked == [*((one, TUNING_SEED) for one in (0.1, 0.2, 0.3)), (0.2, 0), (0.2, 1)]


def test_fast_state_is_counted() -> None:
    found = {name: count_fast(make_reader(TINY, name)) for name in CONTEXT_MODELS}
    assert found["transformer"] == 0
    assert found["deltanet"] == 2 * 16 * 16
    assert found["memory-cms"] > found["deltanet"]


def test_parts_are_kept_and_shown_as_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = CellFolders(tmp_path, None, offline=True)
    monkeypatch.setattr(context_promises, "CONTEXT_TASKS", {"recall": TINY})
    monkeypatch.setattr(context_promises, "CONTEXT_MODELS", {"cms": None, "deltanet": None})
    asked: list[str] = []

    def run_quickly(_: ContextTask, model: str, seeds: list[int]) -> tuple[float, list[ContextRun]]:
        asked.append(model)
        return 0.1, [ContextRun(1.0, 0.5 + 0.1 * one, 0.25, 0.2, 3.0, 777) for one in seeds]

    monkeypatch.setattr(context_promises, "tune_and_run", run_quickly)
    result = context_promises.run(place, ["cms"], num_seeds=2)
    assert asked == ["cms"]
    result = context_promises.run(place, num_seeds=2)
    assert asked == ["cms", "deltanet"]
    assert result.figures["recall: cms, beyond"] == pytest.approx(0.55)
    assert result.figures["recall: cms, beyond, least"] == 0.5
    assert [row["part"] for row in result.rows] == ["recall"] * 4
    lines = format_table(result.to_data()).splitlines()
    assert lines[0] == "| model | recall |"
    assert lines[2] == "| cms | 100.0 / 55.0 % (25 %) |"
    with pytest.raises(SettingError, match="did you mean 'recall-cms'"):
        context_promises.run(place, ["recall-cmss"])
