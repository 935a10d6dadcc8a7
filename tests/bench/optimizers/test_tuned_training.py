"""Training with every optimizer: equal budgets, paired seeds, runs that diverge; the suite."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nestling.bench.optimizers import optimizer_promises, tuned_training
from nestling.bench.optimizers.contenders import CONTENDERS, Contender, draw_trials
from nestling.bench.optimizers.optimizer_tables import TITLES, format_findings
from nestling.bench.optimizers.optimizer_tasks import (
    TASKS,
    Batch,
    ByteGPT,
    OptimizerTask,
    PatchTransformer,
    cut_patches,
    cut_windows,
    spread_starts,
)
from nestling.bench.optimizers.tuned_training import (
    TUNING_SEED,
    TrainingRun,
    compare_optimizers,
    train,
)
from nestling.bench.result import SuiteResult
from nestling.bench.suites.parallel_cells import CellFolders
from nestling.core.errors import DataError, SettingError
from nestling.models import mlp


def _make_batch(generator: torch.Generator, count: int = 32) -> Batch:
    x = torch.randn(count, 6, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


@pytest.fixture
def task() -> OptimizerTask:
    validation = _make_batch(torch.Generator().manual_seed(1), 200)
    test = _make_batch(torch.Generator().manual_seed(2), 200)
    return OptimizerTask(lambda: mlp([6, 16, 3]), "trunk", _make_batch, validation, test, 3)


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_optimizer_trains(task: OptimizerTask, name: str) -> None:
    contender = CONTENDERS[name]
    middle = {key: math.sqrt(low * high) for key, (low, high) in contender.space.items()}
    run = train(task, contender, middle, seed=0, held_out=task.test, num_steps=60)
    assert not run.diverged
    assert run.loss < task.guess
    again = train(task, contender, middle, seed=0, held_out=task.test, num_steps=60)
    assert (run.loss, run.accuracy) == (again.loss, again.accuracy)


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_parameter_has_one_optimizer(name: str) -> None:
    model, contender = PatchTransformer(), CONTENDERS[name]
    settings = {key: low for key, (low, _) in contender.space.items()}
    taken = [
        id(param)
        for optimizer in contender.build_all(model, model.blocks, settings)
        for group in optimizer.param_groups
        for param in group["params"]
    ]
    assert sorted(taken) == sorted(id(param) for param in model.parameters())


def test_rules_for_matrices_take_those_of_the_body() -> None:
    model = ByteGPT()
    muon, other = CONTENDERS["muon"].build_all(model, model.blocks, {"lr": 0.02, "rest_lr": 0.003})
    assert len(muon.param_groups[0]["params"]) == 8
    assert all(param.dim() == 2 for param in muon.param_groups[0]["params"])
    assert other.param_groups[0]["lr"] == 0.003
    assert any(param is model.embed.weight for param in other.param_groups[0]["params"])


def test_a_body_that_stands_still_is_not_trained(task: OptimizerTask) -> None:
    model = task.make_model()
    before = {name: param.clone() for name, param in model.named_parameters()}
    for optimizer in CONTENDERS["still"].build_all(
        model, model.get_submodule("trunk"), {"rest_lr": 0.1}
    ):
        x, y = task.test
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    same = {name: torch.equal(param, before[name]) for name, param in model.named_parameters()}
    assert same.pop("trunk.0.weight")
    assert not any(same.values())


def test_budgets_are_equal_and_seeds_are_paired(
    task: OptimizerTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: dict[str, list[tuple[int, bool]]] = {}

    def watch(
        task: OptimizerTask,
        contender: Contender,
        settings: dict[str, float],
        *,
        seed: int,
        held_out: Batch,
        num_steps: int,
    ) -> TrainingRun:
        label = next(name for name, one in CONTENDERS.items() if one is contender)
        runs.setdefault(label, []).append((seed, held_out is task.test))
        assert num_steps == 7
        return TrainingRun(settings["lr"] + seed, 50.0, 1.0, False)

    monkeypatch.setattr(tuned_training, "train", watch)
    contenders = {name: CONTENDERS[name] for name in ("adamw", "muon", "dgd")}
    figures, rows = compare_optimizers(
        task, name="t", num_seeds=2, num_trials=5, num_steps=7, contenders=contenders
    )
    expected = [(TUNING_SEED, False)] * 5 + [(0, True), (1, True)]
    assert runs == dict.fromkeys(contenders, expected)
    # The lowest rate has the lowest loss here, so it is chosen; and differences are seed by seed.
    lowest = {
        name: min(one["lr"] for one in draw_trials(CONTENDERS[name].space, 5, "t"))
        for name in contenders
    }
    assert [row["lr"] for row in rows] == list(lowest.values())
    assert figures["t_muon_minus_adamw"] == pytest.approx(lowest["muon"] - lowest["adamw"])
    assert figures["t_dgd_time"] == 1.0


def test_rules_for_matrices_are_compared_with_a_body_at_rest(task: OptimizerTask) -> None:
    names = ("adamw", "momentum", "muon", "m3_paper", "still")
    figures, rows = compare_optimizers(
        task,
        name="t",
        num_seeds=2,
        num_trials=2,
        num_steps=20,
        contenders={name: CONTENDERS[name] for name in names},
    )
    compared = {name for name in figures if name.endswith("_minus_still")}
    assert compared == {"t_muon_minus_still", "t_m3_paper_minus_still"}
    loss = {str(row["optimizer"]): float(str(row["loss"])) for row in rows}
    assert figures["t_muon_minus_still"] == pytest.approx(loss["muon"] - loss["still"])
    assert figures["t_muon_minus_still"] < 0.0


def test_an_optimizer_differs_from_itself_by_nothing(task: OptimizerTask) -> None:
    adamw = CONTENDERS["adamw"]
    figures, rows = compare_optimizers(
        task,
        name="t",
        num_seeds=2,
        num_trials=2,
        num_steps=20,
        contenders={"adamw": adamw, "again": adamw},
    )
    assert figures["t_again_minus_adamw"] == 0.0
    assert (rows[1]["least"], rows[1]["most"]) == (0.0, 0.0)
    assert rows[0]["loss"] == rows[1]["loss"] < task.guess


def test_a_run_that_diverges_counts_as_an_even_guess(task: OptimizerTask) -> None:
    settings = {"lr": 1e30, "forget": 0.1}
    for name in ("momentum", "adamw"):
        run = train(task, CONTENDERS[name], settings, seed=0, held_out=task.test, num_steps=20)
        assert (run.loss, run.diverged) == (math.log(3), True)
        assert run.accuracy == pytest.approx(100 / 3)


def test_gradients_that_are_no_numbers_end_a_run(task: OptimizerTask) -> None:
    def draw(generator: torch.Generator) -> Batch:
        x, y = _make_batch(generator)
        return x * torch.tensor([1e38, 1.0, 1.0, 1.0, 1.0, 1.0]), y

    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.body(x).tanh()
            return answer

    hard = OptimizerTask(Bounded, "body", draw, task.validation, task.test, 3)
    settings = {"lr": 0.1, "rest_lr": 0.1}
    run = train(hard, CONTENDERS["dgd"], settings, seed=0, held_out=task.test, num_steps=20)
    assert run.diverged


def test_trials_cover_their_range() -> None:
    trials = draw_trials({"lr": (1e-3, 1.0), "other": (1.0, 16.0)}, 8, "x")
    assert sorted(int(8 * (math.log10(one["lr"]) + 3) / 3) for one in trials) == list(range(8))
    assert sorted(int(2 * math.log2(one["other"])) for one in trials) == list(range(8))
    assert trials == draw_trials({"lr": (1e-3, 1.0), "other": (1.0, 16.0)}, 8, "x")
    assert trials != draw_trials({"lr": (1e-3, 1.0), "other": (1.0, 16.0)}, 8, "y")


def test_spaces_have_a_rate_and_at_most_one_further_setting() -> None:
    assert all(1 <= len(one.space) <= 2 for one in CONTENDERS.values())
    assert CONTENDERS.keys() == TITLES.keys()


def test_patches_are_squares_of_the_image() -> None:
    images_BHW = torch.arange(2 * 784.0).reshape(2, 28, 28)
    patches_BPI = cut_patches(images_BHW.flatten(1))
    assert torch.equal(patches_BPI[1, 5].reshape(7, 7), images_BHW[1, 7:14, 7:14])


def test_windows_answer_with_the_next_byte() -> None:
    text = torch.arange(400)
    x, y = cut_windows(text, spread_starts(text))
    assert torch.equal(y, x + 1)
    assert x.unique().numel() == x.numel()
    assert int(y.max()) < 400


def test_the_gpt_does_not_see_what_it_answers() -> None:
    model = ByteGPT().eval()
    text = torch.randint(256, (1, 64), generator=torch.Generator().manual_seed(0))
    other = text.clone()
    other[0, 40] = (other[0, 40] + 1) % 256
    assert torch.equal(model(text)[:, :40], model(other)[:, :40])
    assert not torch.equal(model(text)[:, 40:], model(other)[:, 40:])


def test_real_tasks_hold_out_what_is_not_learned(tmp_path: Path) -> None:
    for make in TASKS.values():
        try:
            task = make(CellFolders(tmp_path, None, offline=True))
        except DataError as error:
            pytest.skip(str(error))
        x, y = task.draw(torch.Generator().manual_seed(0))
        model = task.make_model()
        logits = model(x)
        assert logits.shape == (*y.shape, task.num_classes)
        assert not torch.equal(task.validation[0], task.test[0])
        assert any(True for _ in model.get_submodule(task.body).parameters())


def test_parts_by_name_and_an_unknown_one(
    tmp_path: Path, task: OptimizerTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = CellFolders(tmp_path, None, offline=True)
    with pytest.raises(SettingError, match="did you mean 'vit'"):
        optimizer_promises.run(place, ["vti"])
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(optimizer_promises, "TASKS", {"mlp": lambda _: task})
    asked: list[int] = []

    def measure(
        given: OptimizerTask, *, name: str, num_seeds: int
    ) -> tuple[dict[str, float], list[dict[str, object]]]:
        asked.append(num_seeds)
        return compare_optimizers(
            given,
            name=name,
            num_seeds=num_seeds,
            num_trials=1,
            num_steps=5,
            contenders={name: CONTENDERS[name] for name in ("adamw", "m3")},
        )

    monkeypatch.setattr(optimizer_promises, "compare_optimizers", measure)
    result = optimizer_promises.run(place, ["mlp"], num_seeds=2)
    assert optimizer_promises.run(place, ["mlp"], num_seeds=2).figures == result.figures
    assert asked == [2]
    assert result.figures.keys() == {"mlp_m3_minus_adamw", "mlp_m3_time"}
    assert [row["part"] for row in result.rows] == ["mlp", "mlp"]


def test_tables_for_the_documents(task: OptimizerTask) -> None:
    contenders = {name: CONTENDERS[name] for name in ("adamw", "m3")}
    figures, rows = compare_optimizers(
        task, name="mlp", num_seeds=1, num_trials=1, num_steps=5, contenders=contenders
    )
    toy = {"part": "toy", "toy": "k 1", "optimizer": "delta"}
    toy |= {"steps": 40.0, "steps_few": 90.5, "reached": 0.75}
    result = SuiteResult("optim", figures, [toy, *({"part": "mlp", **row} for row in rows)])
    text = format_findings(json.loads(json.dumps(result.to_data())))
    assert "| delta momentum, element-wise | 40, 25% never (90) |" in text
    assert "| AdamW (fused) | " in text
    assert f"{float(str(rows[1]['minus'])):+.3f}" in text.splitlines()[-1]
