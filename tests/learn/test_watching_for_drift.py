"""A learner that watches its own errors: freezes end and gates open when the world has changed."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import DataError, ForeignSnapshot, SettingError
from nestling.judge.drift import DETECTORS
from nestling.levels import DriftAlarm, Plan

STILL, SHIFT = 60, 100  # batches of the first concept while it is being watched, of all


def make_net(*, is_trained: bool = True) -> nn.Sequential:
    """A network that knows the first concept: which half of the plane."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for step in range(200 if is_trained else 0):
        x, y = draw(step + 10_000)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net


def draw(step: int, *, is_flipped: bool = False, num: int = 8) -> tuple[Tensor, Tensor]:
    x = torch.randn(num, 2, generator=torch.Generator().manual_seed(step))
    return x, ((x.sum(dim=1) > 0) ^ is_flipped).long()


def draw_stream() -> list[tuple[Tensor, Tensor]]:
    return [draw(step, is_flipped=step >= STILL) for step in range(STILL + SHIFT)]


def make_plan(*, gate: bool = False, **watch: Any) -> Plan:
    freeze = None if gate else nl.Freeze(until="drift")
    gates = [nl.DriftGate(steps=30)] if gate else []
    return nl.Plan(
        nl.Level("net", match=["*"], optimizer=nl.adam(lr=0.02), freeze=freeze, gate=gates),
        nl.DriftWatch("shift", **watch),
    )


def find_drifts(report: Any) -> list[DriftAlarm]:
    return [event for event in report.events if isinstance(event, DriftAlarm)]


@pytest.mark.parametrize("detector", DETECTORS)
def test_frozen_until_the_world_changes_then_learns(detector: str) -> None:
    settings = {"threshold": 10.0} if detector == "page_hinkley" else {}
    net = make_net()
    learner = nl.Learner(net, make_plan(detector=detector, settings=settings), num_classes=2)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    alarms: list[int] = []
    for step, (x, y) in enumerate(draw_stream()):
        report = learner.learn(x, y)
        if not alarms:  # the batch that brought the alarm was still learned by a frozen level
            assert all(torch.equal(value, start[name]) for name, value in net.state_dict().items())
        alarms += [step for _ in find_drifts(report)]
    assert STILL <= alarms[0] < STILL + 15, alarms
    assert learner.evaluate(*draw(5, is_flipped=True, num=200)) > 0.9
    assert math.isfinite(report.loss)


def test_without_a_change_it_stays_frozen() -> None:
    net = make_net()
    learner = nl.Learner(net, make_plan(), num_classes=2)
    before = learner.levels["net"].digest()  # type: ignore[attr-defined]
    reports = [learner.learn(*draw(step)) for step in range(200)]
    assert not any(find_drifts(report) for report in reports)
    assert learner.levels.digests()["net"] == before


def test_the_alarm_says_who_what_when() -> None:
    learner = nl.Learner(make_net(), make_plan(), num_classes=2)
    found = learner.fit(draw_stream())
    (alarm,) = find_drifts(found)[:1]
    assert (alarm.level, alarm.event, alarm.is_rise) == ("shift", "drift", True)
    assert 8 * STILL < alarm.at < 8 * (STILL + 15)
    assert alarm.message == f"watch 'shift': the error rose, by adwin after {alarm.at} values"
    reading = next(one for one in learner.read_levels() if one.level == "shift")
    assert reading.kind == "watch"
    assert reading.num_updates == len(find_drifts(found))
    assert reading.num_steps == 8 * (STILL + SHIFT)


def test_a_gate_opens_for_some_steps_after_a_drift() -> None:
    net = make_net()
    learner = nl.Learner(net, make_plan(gate=True), num_classes=2)
    last, open_until = -math.inf, []
    for step, (x, y) in enumerate(draw_stream()):
        before = net[0].weight.detach().clone()
        report = learner.learn(x, y)
        moved = not torch.equal(before, net[0].weight)
        assert moved == (last < step <= last + 30), step
        if find_drifts(report):
            last = step
            open_until.append(step + 30)
    assert open_until
    assert open_until[0] < STILL + 15 + 30


def test_a_gate_can_be_opened_by_hand_and_keeps_its_floor() -> None:
    gate = nl.DriftGate(steps=2, on="sale", floor=0.5)
    model = nn.Linear(2, 2)
    level = nl.Level("all", match=["*"], optimizer=nl.sgd(lr=0.1), gate=[gate])
    learner = nl.Learner(model, nl.Plan(level), num_classes=2)
    factors = []
    for step in range(5):
        if step == 1:
            learner.release("sale")
        learner.learn(*draw(step))
        factors.append(learner.read_levels()[0].factor)
    assert factors == [0.5, 1.0, 1.0, 0.5, 0.5]
    with pytest.raises(SettingError, match="did you mean 'sale'"):
        learner.release("sail")


def test_an_alarm_may_come_while_nobody_waits() -> None:
    plan = nl.Plan(nl.Level("net", match=["*"]), nl.DriftWatch("shift"))
    assert find_drifts(nl.Learner(make_net(), plan, num_classes=2).fit(draw_stream()))


@pytest.mark.parametrize(("side", "counts"), [("rise", True), ("fall", False), ("both", True)])
def test_which_side_counts(side: str, counts: bool) -> None:
    learner = nl.Learner(make_net(), make_plan(side=side), num_classes=2)
    assert bool(find_drifts(learner.fit(draw_stream()))) == counts


def test_learning_well_is_no_drift_but_a_fall() -> None:
    def learn(side: str) -> list[DriftAlarm]:
        plan = nl.Plan(
            nl.Level("net", match=["*"], optimizer=nl.adam(lr=0.01)),
            nl.DriftWatch("shift", side=side),  # type: ignore[arg-type]
        )
        learner = nl.Learner(make_net(is_trained=False), plan, num_classes=2)
        return find_drifts(learner.fit([draw(step) for step in range(100)]))

    assert learn("rise") == []
    assert [alarm.is_rise for alarm in learn("fall")] == [False]


def test_the_loss_of_each_batch_may_be_watched() -> None:
    plan = make_plan(of="loss", detector="page_hinkley", settings={"threshold": 5.0})
    learner = nl.Learner(make_net(), plan, num_classes=2)
    alarm = find_drifts(learner.fit(draw_stream()))[0]
    assert STILL < alarm.at < STILL + 15
    assert "the loss rose" in alarm.message


def test_values_are_watched_by_their_distance() -> None:
    torch.manual_seed(0)
    plan = nl.Plan(
        nl.Level("net", match=["*"], optimizer=nl.adam(lr=0.02), freeze=nl.Freeze(until="drift")),
        nl.DriftWatch("shift"),
    )
    learner = nl.Learner(nn.Linear(2, 1), plan)
    batches = [(x, x.sum(dim=1, keepdim=True) + 5.0 * y.shape[0] * (i >= 40)) for i, (x, y) in
               enumerate(draw(step) for step in range(80))]  # fmt: skip
    alarm = find_drifts(learner.fit(batches))[0]
    assert 8 * 40 - 8 < alarm.at < 8 * 50
    bounded = nl.Learner(nn.Linear(2, 1), make_plan(detector="hddm_average"))
    with pytest.raises(DataError, match="watch 'shift': hddm_average takes errors of classes"):
        bounded.learn(*batches[0])
    assert bounded.counts.num_examples == 0
    assert bounded.task is None


def test_ignored_positions_are_no_errors() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x)

    torch.manual_seed(0)
    learner = nl.Learner(Tagger(), nl.Plan(nl.Level("all", match=["*"]), nl.DriftWatch("shift")))
    x, y = torch.randn(5, 7, 4), torch.randint(3, (5, 7))
    y[:, 4:] = -100
    for _ in range(3):
        learner.learn(x, y)
    assert learner.read_levels()[-1].num_steps == 3 * 5 * 4


def test_repeated_examples_are_not_heard_twice() -> None:
    learner = nl.Learner(make_net(), make_plan(), num_classes=2)
    learner.fit([draw(step) for step in range(10)], epochs=3)
    assert learner.read_levels()[-1].num_steps == 10 * 8


def test_refused_batches_leave_the_watch_alone() -> None:
    learner = nl.Learner(make_net(), make_plan(), num_classes=2)
    for step in range(5):
        learner.learn(*draw(step))
    before = learner.levels["shift"].state_dict()
    x, y = draw(6)
    x[0, 0] = math.nan
    with pytest.raises(DataError):
        learner.learn(x, y)
    with pytest.raises(DataError):
        learner.learn(*(draw(6)[0], y + 7))
    assert learner.levels["shift"].state_dict() == before


def test_a_network_that_blew_up_is_wrong_and_stops_nothing() -> None:
    net = make_net()
    learner = nl.Learner(net, make_plan(), num_classes=2)
    for step in range(40):
        learner.learn(*draw(step))
    with torch.no_grad():
        net[2].weight.fill_(math.inf)
    reports = [learner.learn(*draw(step)) for step in range(40, 80)]
    assert any(find_drifts(report) for report in reports)


@pytest.mark.parametrize("default", [False, True])
def test_watching_changes_nothing_else(default: bool) -> None:
    """Weights, memories and the gate are bit for bit what they are without a watch."""

    def learn(watch: tuple[nl.DriftWatch, ...]) -> nl.Learner:
        torch.manual_seed(0)
        if default:
            plain = nl.Learner(make_net()).plan
            plan = nl.Plan(*plain.levels, *watch, readout=plain.readout)
        else:
            plan = nl.Plan(
                nl.Memory("recent", on="input"),
                nl.Level("net", match=["*"], optimizer=nl.adam(lr=0.02)),
                *watch,
                readout=nl.mix("recent", "live"),
            )
        learner = nl.Learner(make_net(), plan, num_classes=2)
        for x, y in draw_stream():
            learner.learn(x, y)
        return learner

    without, beside = learn(()), learn((nl.DriftWatch("shift"),))
    x = draw(1, num=50)[0]
    assert torch.equal(without.predict_proba(x), beside.predict_proba(x))
    digests = beside.levels.digests()
    assert digests.pop("shift")
    assert digests == without.levels.digests()


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("cut", [1, STILL - 1, STILL + 3, STILL + 7, STILL + 20])
def test_it_resumes_exactly(tmp_path: Path, gate: bool, cut: int) -> None:
    stream = draw_stream()
    first = nl.Learner(make_net(), make_plan(gate=gate), num_classes=2)
    for x, y in stream[:cut]:
        first.learn(x, y)
    first.snapshot(tmp_path / "cut")
    second = nl.Learner(make_net(is_trained=False), make_plan(gate=gate), num_classes=2)
    second.restore(tmp_path / "cut")
    for x, y in stream[cut:]:
        one, other = first.learn(x, y), second.learn(x, y)
        assert one == other
        assert one.events == other.events
    assert first.levels.digests() == second.levels.digests()
    assert first.levels["shift"].state_dict() == second.levels["shift"].state_dict()


def test_a_state_of_another_watch_is_refused_whole() -> None:
    first = nl.Learner(make_net(), make_plan(), num_classes=2)
    first.learn(*draw(0))
    for watch in ({"detector": "kswin"}, {"settings": {"delta": 0.1}}, {"side": "both"}):
        other = nl.Learner(make_net(), make_plan(**watch), num_classes=2)
        before = other.levels["shift"].state_dict()
        with pytest.raises(ForeignSnapshot, match=r"shift|adwin"):
            other.load_state_dict(first.state_dict())
        assert other.levels["shift"].state_dict() == before


def test_a_plan_in_toml_says_it() -> None:
    plan = make_plan(detector="adwin", settings={"delta": 0.01, "restart": False}, event="flood")
    text = plan.to_toml()
    assert Plan.from_toml(text) == plan
    assert 'kind = "watch"' in text
    assert hash(plan) == hash(Plan.from_toml(text))
    written = """
    [[level]]
    name = "net"
    match = ["*"]
    freeze = { until = "drift" }
    gate = [{ kind = "drift", steps = 100 }]

    [[level]]
    kind = "watch"
    name = "shift"
    detector = "hddm_average"
    settings = { drift_confidence = 0.01, warning_confidence = 0.05 }
    """
    (watch,) = Plan.from_toml(written).watches
    assert watch.settings == {"drift_confidence": 0.01, "warning_confidence": 0.05}
    (level,) = Plan.from_toml(written).gradient_levels
    assert level.gate == (nl.DriftGate(steps=100),)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"detector": "adwim"}, "detector: 'adwin'.* works"),
        ({"settings": {"delta": 3}}, "watch 'shift': ADWIN delta: a number less than 1 works"),
        ({"settings": {"dleta": 0.1}}, "did you mean 'delta'"),
        ({"of": "losses"}, "of: 'error' or 'loss' works"),
        ({"of": "loss", "detector": "hddm_weighted"}, "takes values in .0, 1."),
        ({"event": "two words"}, "event: a name of letters"),
        ({"side": "up"}, "side: "),
    ],
)
def test_a_wrong_watch_is_said_on_one_line(settings: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        nl.Learner(make_net(), make_plan(**settings))
    assert "\n" not in str(caught.value)


def test_what_a_plan_cannot_have() -> None:
    with pytest.raises(SettingError, match="no gradient level has any; of='error' works"):
        nl.Plan(nl.Memory("m"), nl.DriftWatch("w", of="loss"), readout="m")
    with pytest.raises(SettingError, match="two drift gates"):
        nl.Level("a", match=["*"], gate=[nl.DriftGate(steps=1), nl.DriftGate(steps=2)])
    with pytest.raises(SettingError, match="steps: a number of 1 or more works"):
        nl.DriftGate(steps=0)
    learner = nl.Learner(make_net(), make_plan(), num_classes=2)
    with pytest.raises(SettingError, match=r"watch 'shift' has nothing to turn, got period"):
        learner.control("shift", period=3, reason="faster")


def test_a_watch_is_the_learners_and_a_loop_of_ones_own_says_release() -> None:
    """With `NestedOptimizer` a watch does nothing: the loop has the detector, and the word."""
    net, detector = make_net(), nl.judge.ADWIN()
    nested = nl.NestedOptimizer(net, make_plan())
    assert list(nested.levels) == ["net"]
    moved_at = []
    for step, (x, y) in enumerate(draw_stream()):
        before = net[0].weight.detach().clone()
        nested.zero_grad()
        output = net(x)
        nn.functional.cross_entropy(output, y).backward()
        nested.step()
        if not torch.equal(before, net[0].weight):
            moved_at.append(step)
        alarms = [detector.update(bool(wrong)) for wrong in output.argmax(dim=1) != y]
        if any(alarm is not None and alarm.is_rise for alarm in alarms):
            nested.release("drift")
    assert moved_at[0] > STILL


@pytest.mark.parametrize("readout", ["live", "recent", nl.mix("recent", "live"),
                                     nl.mix("recent", "live", weights=(1, 1))])  # fmt: skip
def test_errors_are_those_of_answers_before_learning(readout: Any) -> None:
    """Whoever answers, the watch hears what `predict` before `learn` would have got wrong."""
    plan = nl.Plan(
        nl.Memory("recent", on="input"),
        nl.Level("net", match=["*"], optimizer=nl.adam(lr=0.02)),
        nl.DriftWatch("shift"),
        readout=readout,
    )
    learner = nl.Learner(make_net(is_trained=False), plan, num_classes=2)
    heard: list[float] = []
    learner.levels["shift"].hear = lambda values: bool(heard.extend(values))  # type: ignore
    missed: list[float] = []
    for step, (x, y) in enumerate(draw_stream()):
        missed += (learner.predict(x) != y).double().tolist() if step else []
        learner.learn(x, y)
    late = len(missed) - len(heard)
    assert -8 <= late <= 16  # the gate hears of some rows together; the first batch may count
    heard = heard[max(0, -late) :] if not isinstance(readout, nl.levels.Mix) else heard
    num = min(len(heard), len(missed))
    differing = sum(a != b for a, b in zip(heard[:num], missed[:num], strict=True))
    if readout in ("live", "recent"):
        assert differing == 0
    assert sum(heard) == pytest.approx(sum(missed), rel=0.1)


def test_errors_that_no_watch_has_heard_of_are_saved(tmp_path: Path) -> None:
    """The end of an experience lets the gate hear of all; the watch hears with the next batch."""
    plain = nl.Learner(make_net()).plan
    plan = nl.Plan(*plain.levels, nl.DriftWatch("shift"), readout=plain.readout)
    first, second = (nl.Learner(make_net(), plan, num_classes=2) for _ in range(2))
    first.fit(draw_stream()[: STILL + 3])
    assert first.panel.errors
    first.snapshot(tmp_path / "after")
    second.restore(tmp_path / "after")
    for x, y in draw_stream()[STILL + 3 : STILL + 20]:
        one, other = first.learn(x, y), second.learn(x, y)
        assert one.events == other.events
    assert first.levels["shift"].state_dict() == second.levels["shift"].state_dict()
    assert first.levels.digests() == second.levels.digests()
