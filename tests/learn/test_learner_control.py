"""Steps refused, levels protected, slow weights changed by proposal, knobs turned."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from learners import differences, draw, make_batch, make_mlp, read_state
from nestling.core.batches import read_batch
from nestling.core.errors import SettingError, UnknownLevel
from nestling.optim import AdamW

X, Y = make_batch()


class Wild(nn.Module):
    """Batch norm, dropout, and an output or a gradient that is not finite on demand."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mode, self.is_wild = mode, False
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self.net(x))
        if not (self.is_wild and self.training):
            return out
        # The square root's gradient is infinite at 0, and 0 * inf is NaN; its value is finite.
        return out / 0.0 if self.mode == "loss" else out + (out * 0.0).abs().sqrt()


def make_wild(mode: str) -> tuple[Wild, nl.Learner]:
    model = Wild(mode)
    levels = (
        nl.Level("head", match=("head.*",), optimizer=nl.sgd(lr=0.1, momentum=0.9)),
        nl.Level("slow", match=["*"], period=4, between="skip", window=2, optimizer=nl.adamw()),
        nl.Copy("average", of=("slow", "head")),
    )
    plan = nl.Plan(nl.Memory("m", on="input"), *levels, readout=nl.mix("m", "live", "average"))
    return model, nl.Learner(model, plan, replay=8)


@pytest.mark.parametrize("mode", ["loss", "gradient"])
@pytest.mark.parametrize("num_steps", [0, 6])
def test_a_step_that_is_not_finite_changes_no_weight(mode: str, num_steps: int) -> None:
    model, learner = make_wild(mode)
    for seed in range(num_steps):
        learner.learn(*make_batch(seed))
    before, clock = read_state(learner), learner.counts.num_examples
    model.is_wild = True
    report = learner.learn(X, Y)
    after = read_state(learner)
    assert mode in report.refused
    assert math.isfinite(report.loss) == (mode == "gradient")
    assert learner.counts.num_refused == 1
    refusal = report.events[-1]
    assert isinstance(refusal, nl.levels.Refusal)
    assert (refusal.level, refusal.reason) == (None, report.refused)
    for state in (before, after):
        del state["levels"]["levels"]["m"]
    assert differences(before["levels"], after["levels"]) == []
    kept, now = (state["protections"]["methods"][0]["state"] for state in (before, after))
    assert differences(kept["buffer"]["store"], now["buffer"]["store"]) == []
    assert learner.levels["m"].bank.clock == clock + 16
    assert all(p.requires_grad for p in model.parameters())
    model.is_wild = False
    assert learner.learn(X, Y).refused == ""
    assert differences(after["levels"], read_state(learner)["levels"]) != []


def test_refusals_are_said_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    model, _ = make_wild("loss")
    learner = nl.Learner(model, nl.Plan(nl.Level("all", match=["*"])))
    learner.learn(X, Y)
    model.is_wild = True
    report = learner.fit([(X, Y), (X, Y)])
    assert (report.num_refused, report.num_steps, report.num_examples) == (2, 0, 32)
    refused = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [one.getMessage()[:21] for one in refused] == ["step refused: loss is"] * 2
    assert "(2 so far)" in caplog.messages[-1]


def test_a_protected_level_asks_the_judge() -> None:
    asked: list[nn.Module] = []

    def judge(model: nn.Module) -> bool:
        asked.append(model)
        return len(asked) % 2 == 0

    model = make_mlp()
    learner = nl.Learner(model, nl.Plan(nl.Level("all", match=["*"], protect=True)), judge=judge)
    moved = []
    for seed in range(4):
        before = [p.detach().clone() for p in model.parameters()]
        learner.learn(*make_batch(seed))
        pairs = zip(before, model.parameters(), strict=True)
        moved.append(not all(torch.equal(a, b) for a, b in pairs))
    assert moved == [False, True, False, True]
    assert asked == [model] * 4
    assert learner.read_levels()[0].num_refused == 2


# --- consolidation


def make_overlaid() -> nl.Learner:
    model = make_mlp()
    generator = torch.Generator().manual_seed(0)
    plan = nl.adapters(model, ["0.weight"], 2, generator=generator, period=2, slow_lr=1e-2)
    copy = nl.Copy("average", of=("spine",), decay=0.5)
    memory = nl.Memory("m", frozen=False)
    plan = nl.Plan(memory, *plan.levels, copy, readout=nl.mix("m", "live"))
    learner = nl.Learner(model, plan, replay=50)
    for seed in range(10):
        learner.learn(*make_batch(seed))
    return learner


def halve(model: nn.Module) -> None:
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(0.5)


CHANGES: dict[str, str | Callable[[nn.Module], object]] = {
    "merge": "merge", "average": "average", "custom": halve,
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_refused_change_leaves_every_bit(name: str) -> None:
    learner = make_overlaid()
    before = read_state(learner)
    proposal = learner.consolidate(lambda _: False, change=CHANGES[name])
    assert proposal.status == "refused"
    assert differences(before, read_state(learner)) == []


@pytest.mark.parametrize("name", CHANGES)
def test_a_kept_change_refits_memories_of_the_live_model(name: str) -> None:
    learner = make_overlaid()
    x = draw(9, 4, seed=77)
    outputs = learner.model.eval()(x)
    rows = learner.levels["m"].reader.read(read_batch(x))[0][0]
    proposal = learner.consolidate(lambda _: True, change=CHANGES[name])
    assert proposal.status == "committed"
    assert learner.levels["m"].bank.clock == 50  # from replay alone
    is_same = torch.allclose(learner.model.eval()(x), outputs, atol=1e-5)
    assert is_same == (name == "merge")
    new = learner.levels["m"].reader.read(read_batch(x))[0][0]
    assert torch.allclose(rows, new, atol=1e-5) == (name == "merge")
    assert learner.evaluate(*make_batch(33)) > 0.7
    learner.learn(X, Y)


def test_moments_of_replaced_weights_go_and_others_stay() -> None:
    model = make_mlp()
    learner = nl.Learner(model, nl.Plan(nl.Level("all", match=["*"], optimizer=AdamW())))
    for _ in range(3):
        learner.learn(X, Y)
    inner = learner.levels["all"].inner
    assert len(inner.state) == 4

    def move_head(changed: nn.Module) -> None:
        with torch.no_grad():
            changed[2].weight.add_(0.1)  # type: ignore[index, operator]

    learner.consolidate(lambda _: False, change=move_head)
    assert len(inner.state) == 4  # refused: nothing was replaced
    assert learner.consolidate(lambda _: True, change=move_head).status == "committed"
    left = {name for name, param in model.named_parameters() if param in inner.state}
    assert left == {"0.weight", "0.bias", "2.bias"}
    learner.learn(X, Y)
    steps = {name: int(inner.state[param]["step"]) for name, param in model.named_parameters()}
    assert steps == {"0.weight": 4, "0.bias": 4, "2.weight": 1, "2.bias": 4}
    assert learner.consolidate(lambda _: True, change=halve).status == "committed"
    assert not inner.state


def test_replay_judges_by_default() -> None:
    learner = make_overlaid()
    assert learner.consolidate().status == "committed"

    def ruin(model: nn.Module) -> None:
        with torch.no_grad():
            for param in model.parameters():
                param.normal_(0, 30, generator=torch.Generator().manual_seed(0))

    assert learner.consolidate(change=ruin).status == "refused"
    assert learner.consolidate(change=ruin, tolerance=1e9).status == "committed"


def test_consolidation_says_what_it_needs() -> None:
    learner = make_overlaid()
    with pytest.raises(UnknownLevel, match="did you mean 'average'"):
        learner.consolidate(change="averag")
    learner.protections.replay = None
    with pytest.raises(SettingError, match="reads the live model and would be out of date"):
        learner.consolidate(lambda _: True)
    other = nl.Learner(make_mlp())
    other.learn(X, Y)
    with pytest.raises(SettingError, match="consolidate needs a judge"):
        other.consolidate(change=halve)


# --- knobs


def test_knobs_turn_and_are_recorded(tmp_path: Path) -> None:
    learner = nl.Learner(make_mlp())
    early = learner.control("memory", reason="it is empty yet", switch_rate=0.2)
    report = learner.learn(X, Y)
    assert report.events == (early,)
    assert learner.levels["memory"].bank.gate.switch_rate == 0.2
    rate = learner.control("network", reason="slower now", lr=1e-5)
    turned = learner.control("memory", reason="drift", switch_rate=0.1)
    assert (rate.reason, turned.reason) == ("slower now", "drift")
    assert turned.applied_at == 16
    happened = learner.fit([(X, Y)] * 2).events
    assert rate in happened
    assert turned in happened
    assert learner.optimizer is not None
    assert learner.optimizer.param_groups[0]["lr"] == 1e-5
    assert learner.levels["memory"].bank.gate.switch_rate == 0.1
    learner.snapshot(tmp_path / "s")
    twin = nl.Learner(make_mlp())
    twin.restore(tmp_path / "s")
    assert twin.levels["memory"].bank.gate.switch_rate == 0.1
    assert differences(read_state(learner), read_state(twin)) == []


def test_knobs_that_are_not_there() -> None:
    learner = nl.Learner(make_mlp())
    learner.learn(X, Y)
    with pytest.raises(UnknownLevel, match="did you mean 'memory'"):
        learner.control("memori", reason="r", lr=1.0)
    with pytest.raises(SettingError, match="no knob 'switch_rate'"):
        learner.control("network", reason="r", switch_rate=0.1)
    with pytest.raises(SettingError, match="needs a reason"):
        learner.control("memory", reason=" ", switch_rate=0.1)
    alone = nl.Learner(make_mlp(), nl.Plan(nl.Memory("m"), readout="m"))
    with pytest.raises(UnknownLevel, match=r"known: \['m'\]"):
        alone.control("live", reason="r", lr=1.0)


def test_a_level_waits_for_its_event() -> None:
    plan = nl.Plan(nl.Level("all", match=["*"], freeze=nl.Freeze(until="ready")))
    learner = nl.Learner(make_mlp(), plan)
    before = learner.model[0].weight.detach().clone()  # type: ignore[index]
    learner.learn(X, Y)
    assert torch.equal(learner.model[0].weight, before)  # type: ignore[index]
    learner.release("ready")
    learner.learn(X, Y)
    assert not torch.equal(learner.model[0].weight, before)  # type: ignore[index]


def test_wrong_options() -> None:
    with pytest.raises(SettingError, match="precision 'fp8'; known: 'bf16'"):
        nl.Learner(make_mlp(), precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="replay=-1"):
        nl.Learner(make_mlp(), replay=-1)
    with pytest.raises(SettingError, match="submodule 'nope', which the model does not have"):
        nl.Learner(make_mlp(), nl.Plan(nl.Memory("m", on="nope"), readout="m"))


class Steep(nn.Module):
    """One weight vector whose gradient is as large as float32 can say."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight * 3e38).sum() + 0.0 * x.sum(dim=1)


def test_finite_gradients_whose_sum_overflows_are_taken() -> None:
    learner = nl.Learner(
        Steep(),
        nl.Plan(nl.Level("all", match=["*"], optimizer=nl.sgd(lr=1e-38))),
        loss=lambda output, target: (output - target).sum() / len(target),
    )
    report = learner.learn(torch.ones(2, 3), torch.zeros(2))
    assert report.refused == ""
    assert learner.model.weight.tolist() == pytest.approx([-3.0] * 4)
