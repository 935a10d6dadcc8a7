"""The doctor finds each of the eight ways in which nested-learning code fails, and no other."""

from collections.abc import Callable
from functools import partial
from typing import Any

import failing_models as bad
import pytest
import torch
from torch import nn

import nestling as nl
from nestling.doctor import Examination, examine, make_inputs
from nestling.models import build_model, gpt_blocks
from nestling.models.delta_memory import DeltaMemory

SEQUENCE = (4, 24, 8)


def list_failed(report: Examination) -> dict[str, str]:
    return {check.name: f"{check.subject}: {check.finding}" for check in report.failed}


def examine_sequence(model: nn.Module, **words: Any) -> dict[str, str]:
    return list_failed(examine(model, inputs=make_inputs(SEQUENCE), **words))


def test_1_a_period_that_no_code_reads() -> None:
    found = list_failed(examine(bad.UnreadPeriod()))
    assert found.keys() == {"period has an effect"}
    assert "slow_period" in found["period has an effect"]
    assert "no code reads it" in found["period has an effect"]
    report = examine(
        bad.make_unread_option(), make=bad.make_unread_option, options={"update_every": 16}
    )
    assert "update_every" in list_failed(report)["period has an effect"]
    named = {check.subject for check in examine(bad.UnreadSettings()).failed}
    assert named == {"settings.periods.fast", "settings.periods.slow"}
    report = examine(optimizer=bad.UnreadOptimizer)
    assert "optimizer: period" in list_failed(report)["period has an effect"]


def test_1_a_period_that_is_read_passes() -> None:
    report = examine(bad.ReadPeriod(), make=bad.ReadPeriod, options={"slow_period": 2})
    checks = {check.subject: check.outcome for check in report.checks if "period" in check.name}
    assert checks["slow_period"] == "ok"
    assert checks["settings.periods.slow"] == "ok"


def test_1_a_level_whose_period_has_no_effect() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    plan = nl.Plan(
        nl.Level("head", match=["1.*"]),
        nl.Level("still", match=["*"], period=4, optimizer=nl.sgd(lr=0.0)),
    )
    report = examine(model, plan)
    named = {(check.name, check.subject) for check in report.failed}
    assert {("period has an effect", "still"), ("updates when due", "still")} <= named
    assert not any(subject == "head" for _, subject in named)


def test_2_accuracy_stands_beside_forgetting() -> None:
    found = list_failed(examine(bad.AtChance()))
    line = found["learns above chance"]
    assert "accuracy 0.25 where chance is 0.25" in line
    assert "forgetting 0.00 says nothing" in line
    healthy = examine(build_model("mlp", {"sizes": [8, 16, 4]}))
    (check,) = (check for check in healthy.checks if check.name == "learns above chance")
    assert check.outcome == "ok"
    assert "accuracy 1.00" in check.finding
    assert "forgetting" in check.finding


@pytest.mark.parametrize(
    ("rule", "name", "word"),
    [
        (bad.ProjectingRule, "optimizer descends", "parallel to its input"),
        (bad.TanhMuon, "steps are orthogonal", "tanh"),
        (bad.RandomDeepMomentum, "inner memory is trained", "memory.0.weight"),
        (bad.AscendingRule, "optimizer descends", "it climbs"),
    ],
)
def test_3_optimizers_that_are_not_what_they_are_called(
    rule: type[torch.optim.Optimizer], name: str, word: str
) -> None:
    found = list_failed(examine(optimizer=rule))
    # A random memory that is never trained is not in the checkpoint either.
    assert found.keys() - {"resumes bit for bit"} == {name}
    assert word in found[name]


def test_3_gradient_ascent_called_delta_rule() -> None:
    found = examine_sequence(bad.FastWeights(sign=-1.0))
    assert "climb their loss" in found["repeated writes settle"]
    assert examine_sequence(bad.FastWeights()) == {}


def test_3_a_memory_whose_inner_step_is_projected_away() -> None:
    found = examine_sequence(bad.ProjectingMemory())
    assert "projects its own gradient away" in found["repeated writes settle"]


def test_4_leaks() -> None:
    found = examine_sequence(bad.SeesTheFuture())
    assert found.keys() == {"causal"}
    assert "mask what comes later" in found["causal"]
    assert examine_sequence(bad.SeesTheFuture(), causal=False) == {}
    found = examine_sequence(bad.SeesOthers())
    assert found.keys() == {"no leak between samples"}


def test_5_write_rules_without_gradient() -> None:
    found = examine_sequence(bad.DeadWrites())
    assert found["write rules receive gradient"].startswith("eta, initial, k.weight: 3 of 5")


def test_6_eval_that_writes_and_state_that_is_shared() -> None:
    found = list_failed(examine(bad.WritesInEval()))
    assert "changed memory" in found["eval() is pure"]
    assert "no leak between samples" in found
    found = list_failed(examine(bad.SharedFastState()))
    assert found.keys() == {"no leak between samples"}
    assert "(train mode)" in found["no leak between samples"]


def test_7_what_a_checkpoint_lacks() -> None:
    found = list_failed(examine(bad.LostClock()))
    assert found.keys() == {"resumes bit for bit"}
    assert "not in state_dict(): clock, gathered" in found["resumes bit for bit"]
    found = list_failed(examine(optimizer=bad.LostMomentum))
    assert found.keys() == {"resumes bit for bit"}
    assert "lacks momenta.0" in found["resumes bit for bit"]
    found = list_failed(examine(optimizer=bad.LostSteps))
    assert found.keys() == {"resumes bit for bit"}
    assert "lacks steps_taken, gathered.0" in found["resumes bit for bit"]
    found = examine_sequence(bad.ForgetfulState())
    assert found.keys() == {"resumes bit for bit"}
    assert "clocks, momenta" in found["resumes bit for bit"]


def test_8_m3_as_it_is_found() -> None:
    found = list_failed(examine(optimizer=partial(bad.BadM3, lr=0.02)))
    assert found.keys() >= {"steps are orthogonal", "buffers decay", "wide as fast as tall"}
    assert "state[0].fast, state[0].slow" in found["buffers decay"]
    assert "transpose wide matrices" in found["wide as fast as tall"]
    assert "buffers decay" in list_failed(examine(optimizer=nl.optim.M3(mode="paper")))


def test_weights_that_move_between_due_steps() -> None:
    plan = nl.Plan(nl.Level("fast", match=["fast.*"]), nl.Level("slow", match=["*"], period=4))
    found = list_failed(examine(bad.WritesItself(), plan))
    assert "slow.weight moved at step 1, due every 4" in found["still between due steps"]


def make_lm() -> nn.Module:
    return nn.Sequential(nn.Embedding(11, 8), gpt_blocks(1, 8, 2), nn.Linear(8, 11))


HEALTHY: dict[str, Callable[[], Any]] = {
    "mlp": lambda: build_model("mlp", {"sizes": [8, 16, 4]}),
    "linear": lambda: nn.Linear(4, 3).double(),
    "convnet": lambda: build_model(
        "convnet", {"num_classes": 4, "image_size": (8, 8), "widths": [4]}
    ),
    "transformer": lambda: build_model(
        "transformer", {"num_tokens": 20, "num_classes": 4, "width": 16}
    ),
    "delta": lambda: DeltaMemory(8, 2),
    "delta with decay": lambda: DeltaMemory(8, 1, decay=True),
    "cms": lambda: nl.models.CMS(8, (4, 8)),
    "cms nested": lambda: nl.models.CMS(8, (4, 8), arrangement="nested", transfer="weights"),
    "cms independent": lambda: nl.models.CMS(
        8, (4, 8), arrangement="independent", gradient="first"
    ),
    "continuum block": lambda: nl.models.ContinuumBlock(8, 2, (4, 8)),
    "gpt": lambda: gpt_blocks(1, 8, 2),
    "language model": make_lm,
    "stacked levels": lambda: nl.stack_levels(
        make_lm(), {"1.0.out.*": 8, "1.0.fc.*": 4}, rate=0.05, context=8
    ),
    "batch norm": lambda: nn.Sequential(
        nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4)
    ),
    "lstm": lambda: nn.LSTM(8, 8, batch_first=True),
    "values": lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)),
    "half precision": lambda: build_model("mlp", {"sizes": [8, 16, 4]}).bfloat16(),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_models_pass(name: str) -> None:
    report = examine(HEALTHY[name]())
    assert report.failed == ()
    assert report.is_healthy


def test_lazy_layers_take_their_shape_from_the_inputs() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))
    report = examine(model, inputs=make_inputs((16, 5)))
    assert report.is_healthy
    assert isinstance(model[0].weight, nn.UninitializedParameter)


@pytest.mark.parametrize("rule", [nl.lookahead(), nl.outer_nesterov()], ids=str)
def test_outer_rules_may_write_what_they_copy(rule: Any) -> None:
    plan = nl.Plan(
        nl.Level("head", match=["head.*"]),
        nl.Level("spine", match=["*"], period=4),
        nl.Copy("outer", of=["head", "spine"], period=6, rule=rule),
    )
    report = examine(build_model("mlp", {"sizes": [8, 16, 4]}), plan)
    assert report.failed == ()
    assert {row.level: row.updates for row in report.levels} == {"head": 13, "spine": 3, "outer": 2}


def test_a_healthy_plan_passes_and_its_rows_count_updates() -> None:
    model = build_model("mlp", {"sizes": [8, 16, 16, 4]})
    plan = nl.Plan(
        nl.Level("head", match=["head.*"], optimizer=nl.adamw(lr=1e-2)),
        nl.Level("middle", match=["trunk.2.*"], period=4, optimizer=nl.optim.muon()),
        nl.Level("spine", match=["*"], period=16, optimizer=nl.optim.m3(period=4)),
        nl.Copy("slow", of=["head", "middle"], decay=0.9),
        nl.Memory("memory", on="input"),
    )
    report = examine(model, plan)
    assert report.failed == ()
    assert report.steps == 33
    rows = {row.level: row for row in report.levels}
    assert {name: (row.due, row.updates) for name, row in rows.items()} == {
        "head": (33, 33),
        "middle": (8, 8),
        "spine": (2, 2),
        "slow": (33, 33),
        "memory": (None, None),
    }
    assert all(rows[name].relative_change for name in ("head", "middle", "spine", "slow"))
    assert rows["memory"].state == "not examined"
    assert any(
        check.subject == "memory" and "nl.Learner" in check.finding
        for check in report.checks
        if check.outcome == "not examined"
    )


def test_what_a_plan_may_say_is_no_fault() -> None:
    model = build_model("mlp", {"sizes": [8, 16, 16, 4]})
    plan = nl.Plan(
        nl.Level("head", match=["head.*"], gate=[nl.SurpriseGate()], optimizer=nl.adam()),
        nl.Level(
            "middle",
            match=["trunk.2.*"],
            period=2,
            between="skip",
            freeze=nl.Freeze(windows=((1, 5),)),
            optimizer=nl.sgd(momentum=0.9),
        ),
        nl.Level("waits", match=["trunk.0.bias"], freeze=nl.Freeze(until="go")),
        nl.Level("spine", match=["*"], period=3, protect=True, trust=0.1),
        nl.Copy("origin", of=["head"], decay=1.0),
        nl.Copy("plastic", of=["head", "middle"], decay=0.9, probability=0.5),
    )
    report = examine(model, plan)
    assert report.failed == ()
    skipped = {(check.name, check.subject) for check in report.checks if check.outcome != "ok"}
    assert {("updates when due", "waits"), ("updates when due", "origin")} <= skipped
    assert {row.level: row.updates for row in report.levels}["middle"] == 4


def test_attention_both_ways_is_examined_where_it_is_said() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert list_failed(examine(layer)).keys() == {"causal"}
    report = examine(layer, causal=False)
    assert report.failed == ()
    assert any(check.name == "causal" and check.outcome != "ok" for check in report.checks)


def test_an_optimizer_that_takes_other_parameters_only_is_not_examined() -> None:
    def make(params: list[torch.Tensor]) -> torch.optim.Optimizer:
        if params[0].shape[0] != 16:
            raise ValueError("16 rows only")
        return torch.optim.SGD(params, lr=0.1)

    model = build_model("mlp", {"sizes": [8, 16, 4]})
    plan = nl.Plan(
        nl.Level("rows", match=["trunk.*"], optimizer=make), nl.Level("rest", match=["*"])
    )
    report = examine(model, plan)
    assert report.is_healthy
    assert any(
        check.subject == "rows" and check.outcome == "not examined" and "16 rows" in check.finding
        for check in report.checks
    )


def test_a_plan_that_runs_away() -> None:
    plan = nl.Plan(nl.Level("all", match=["*"], optimizer=nl.sgd(lr=1e6)))
    report = examine(build_model("mlp", {"sizes": [8, 16, 4]}), plan)
    found = list_failed(report)
    assert "NaN or infinity" in found["updates when due"]
    assert report.to_data()["levels"][0]["relative_change"] is None  # type: ignore[index]


@pytest.mark.parametrize(
    "rule",
    [
        nl.sgd(momentum=0.9), nl.adamw(), nl.optim.muon(), nl.optim.m3(), nl.optim.m3(period=1000),
        nl.optim.dgd(), nl.optim.DMGD(), nl.optim.delta_momentum(), torch.optim.SGD,
        torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.ASGD, torch.optim.Muon,
        partial(torch.optim.AdamW, amsgrad=True),
    ],
    ids=str,
)  # fmt: skip
def test_healthy_optimizers_pass(rule: Any) -> None:
    assert examine(optimizer=rule).failed == ()


def test_6_a_memory_that_writes_only_when_asked_is_examined_with_a_state() -> None:
    report = examine(DeltaMemory(8, 2), inputs=make_inputs(SEQUENCE))
    (check,) = (check for check in report.checks if check.name == "eval() is pure")
    assert check.outcome == "ok", check.finding


def test_the_callers_random_numbers_stay_where_they_are() -> None:
    def draw_start(params: Any) -> torch.optim.Optimizer:
        torch.rand(3)
        return torch.optim.SGD(params, lr=0.1)

    model, before = nn.Linear(4, 3), torch.get_rng_state()
    examine(model, nl.Plan(nl.Level("all", match=["*"], optimizer=draw_start)))
    examine(optimizer=nl.optim.muon())
    assert torch.equal(before, torch.get_rng_state())


class CausalConvolution(nn.Module):
    """Causal, but that batch normalisation takes its mean over all tokens in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.norm(self.conv(nn.functional.pad(x.mT, (2, 0))))
        found: torch.Tensor = self.head(torch.relu(seen).mT)
        return found


def test_batch_normalisation_is_no_leak_from_later_tokens() -> None:
    report = examine(CausalConvolution(), inputs=make_inputs(SEQUENCE))
    assert report.is_healthy, list_failed(report)
    (check,) = (one for one in report.checks if one.name == "causal")
    assert "in evaluation mode" in check.finding


class WaveFeatures(nn.Module):
    """Its frequencies are read when it is made."""

    def __init__(self, num_frequencies: int = 4, max_period: int = 100) -> None:
        super().__init__()
        self.num_frequencies, self.max_period = num_frequencies, max_period
        waves = torch.arange(num_frequencies) + 1.0
        self.register_buffer("waves", waves * 6.0 / max_period)
        self.head = nn.Linear(4 * num_frequencies, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head((x[..., None] * self.waves).sin().flatten(1))
        return found


def test_frequencies_of_features_are_no_periods_of_updates() -> None:
    report = examine(WaveFeatures(), inputs=make_inputs((16, 4)))
    assert report.is_healthy, list_failed(report)


@pytest.mark.parametrize(
    "copy",
    [
        nl.Copy("c", of=["all"], period=50, rule=nl.beakers(4, shortest=100, longest=1e4)),
        nl.Copy("c", of=["all"], probability=0.01),
    ],
    ids=["beakers too slow for the run", "by chance"],
)
def test_a_copy_that_did_not_move_yet_is_not_examined(copy: nl.Copy) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    report = examine(model, nl.Plan(nl.Level("all", match=["*"], optimizer=nl.sgd(0.1)), copy))
    assert report.is_healthy, list_failed(report)
    found = {one.name: one.outcome for one in report.checks if one.subject == "c"}
    assert "not examined" in found.values()
