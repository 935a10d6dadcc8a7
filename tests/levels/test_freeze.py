"""A frozen level stands still whole; what was begun and not done leaves nothing."""

import copy
import gc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import SettingError
from nestling.levels import Freeze, Level, NestedOptimizer, Plan


class Net(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def draw(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 4, generator=generator), torch.randint(3, (16,), generator=generator)


def take_step(model: nn.Module, nested: NestedOptimizer, step: int, prepares: bool) -> bool:
    """One step of a plain loop; whether the first layer moved."""
    before = model[0].weight.detach().clone()
    x, y = draw(step)
    nested.zero_grad()
    if prepares:
        nested.prepare_step()
    loss = nn.functional.cross_entropy(model(x), y)
    if loss.requires_grad:
        loss.backward()
    nested.step()
    return not torch.equal(before, model[0].weight)


@given(
    first=st.integers(1, 9),
    length=st.integers(0, 8),
    period=st.integers(1, 5),
    between=st.sampled_from(["accumulate", "skip"]),
    prepares=st.booleans(),
)
def test_nothing_moves_in_a_window(
    first: int, length: int, period: int, between: str, prepares: bool
) -> None:
    model, last = Net(), first + length
    freeze = Freeze(windows=((first, last),))
    levels = [
        Level("head", match=["3.*"], optimizer=nl.sgd(lr=0.1)),
        Level("spine", match=["*"], period=period, between=between, freeze=freeze),  # type: ignore[arg-type]
    ]
    nested = NestedOptimizer(model, Plan(*levels))
    for step in range(1, 20):
        statistics = model[1].running_mean.clone()
        moved = take_step(model, nested, step, prepares)
        is_boundary, is_frozen = step % period == 0, first <= step <= last
        assert moved == (is_boundary and not is_frozen)
        assert torch.equal(statistics, model[1].running_mean) == is_frozen
        assert model[1].training


def test_gradients_from_before_a_freeze_do_not_slip_in() -> None:
    """The boundary at step 4 is frozen; that at step 8 sees steps 5 to 8 alone."""
    models = [nn.Linear(4, 3) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    spec = {"match": ["*"], "period": 4, "optimizer": nl.sgd(lr=0.1)}
    frozen = NestedOptimizer(models[0], Plan(Level("a", freeze=Freeze(windows=((4, 4),)), **spec)))
    fresh = NestedOptimizer(models[1], Plan(Level("a", **spec)))
    for step in range(1, 9):
        for model, nested in zip(models, (frozen, fresh), strict=True):
            if nested is fresh and step < 5:
                continue
            nested.zero_grad()
            x, y = draw(step)
            nn.functional.cross_entropy(model(x), y).backward()
            nested.step()
    assert torch.equal(models[0].weight, models[1].weight)


def test_each_freeze_until_an_event_waits_anew() -> None:
    model = Net()
    nested = NestedOptimizer(model, Plan(Level("all", match=["*"])))
    steps = iter(range(100))

    def moves(count: int = 3) -> list[bool]:
        return [take_step(model, nested, next(steps), prepares=True) for _ in range(count)]

    assert all(moves())
    for _ in range(3):
        nested.control("all", freeze=Freeze(until="calm"), reason="storm")
        assert not any(moves())
        nested.control("all", lr=1e-2, reason="another knob does not end it")
        assert not any(moves())
        nested.release("calm")
        nested.release("calm")  # said twice is heard once
        nested.control("all", lr=1e-3, reason="another knob does not begin it")
        assert all(moves())
    with pytest.raises(SettingError, match=r"no level waits for event 'clam'.*'calm'"):
        nested.release("clam")


def test_a_release_is_heard_as_soon_as_the_freeze_was_asked_for() -> None:
    model = Net()
    nested = NestedOptimizer(model, Plan(Level("all", match=["*"], period=4)))
    take_step(model, nested, 0, prepares=True)  # in the middle of a period
    nested.control("all", freeze=Freeze(until="calm"), reason="storm")
    nested.release("calm")  # before it came into force
    saved = copy.deepcopy((model.state_dict(), nested.state_dict()))
    moved = [take_step(model, nested, step, prepares=True) for step in range(1, 12)]
    assert [step for step, one in enumerate(moved, 2) if one] == [4, 8, 12]
    again = Net()
    twin = NestedOptimizer(again, Plan(Level("all", match=["*"], period=4)))
    again.load_state_dict(saved[0])
    twin.load_state_dict(saved[1])
    assert [take_step(again, twin, step, prepares=True) for step in range(1, 12)] == moved


def test_a_knob_between_two_steps_holds_from_the_next_one() -> None:
    model = Net()
    nested = NestedOptimizer(model, Plan(Level("all", match=["*"])))
    still = nested.control("all", lr=0.0, weight_decay=0.0, reason="hold")
    assert (still.asked_at, still.applied_at) == (0, 0)
    assert not take_step(model, nested, 0, prepares=False)
    nested.control("all", lr=0.1, reason="go")
    assert take_step(model, nested, 1, prepares=False)
    assert [event.applied_at for event in nested.take_events()] == [0, 1]


# --- running statistics


def make_learner(model: nn.Module, freeze: Freeze | None) -> nl.Learner:
    return nl.Learner(
        model,
        Plan(
            Level("head", match=["3.*"]),
            Level("spine", match=["*"], freeze=freeze),
        ),
    )


def test_a_frozen_level_keeps_its_features() -> None:
    model = Net()
    x, _ = draw(0)
    spine = nn.Sequential(*list(model)[:3])
    features = spine.eval()(x).detach()
    learner = make_learner(model, Freeze(until="never"))
    for step in range(10):
        x_new, y = draw(step)
        learner.learn(x_new + 5.0, y)
    learner.learn(x[:1], torch.tensor([0]))  # and one event at a time can be learned
    assert torch.equal(spine.eval()(x), features)


def test_a_frozen_backbone_of_the_users_own_keeps_its_statistics() -> None:
    model = Net()
    for module in (model[0], model[1]):
        module.requires_grad_(False)
    statistics = model[1].running_mean.clone()
    learner = nl.Learner(model, Plan(Level("head", match=["*"])))
    for step in range(4):
        learner.learn(*draw(step))
    assert torch.equal(model[1].running_mean, statistics)
    assert model[1].training


@pytest.mark.parametrize("num_rows", [1, 16])
def test_a_users_own_eval_is_respected(num_rows: int) -> None:
    model = Net().train()
    model[1].eval()
    statistics = model[1].running_mean.clone()
    learner = make_learner(model, None)
    for step in range(3):
        x, y = draw(step)
        learner.learn(x[:num_rows], y[:num_rows])
        learner.predict(x)
    assert torch.equal(model[1].running_mean, statistics)
    assert not model[1].training


def test_one_picture_can_be_learned() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    learner = nl.Learner(model, Plan(Level("all", match=["*"])))
    assert learner.learn(torch.randn(1, 1, 8, 8), torch.tensor([0])).refused == ""


# --- a step that is not taken


@pytest.mark.parametrize("is_alive", [True, False])
@pytest.mark.parametrize("how", ["optimizer", "learner", "assign"])
def test_a_step_that_was_begun_and_never_taken_freezes_nobody(is_alive: bool, how: str) -> None:
    model = Net()
    spine = Level("spine", match=["*"], period=3, between="skip")
    first = NestedOptimizer(model, Plan(Level("head", match=["3.*"]), spine))
    first.prepare_step()
    assert not model[0].weight.requires_grad
    if not is_alive:
        del first
        gc.collect()
    plan = Plan(Level("all", match=["*"]))
    assert len(nl.assign_levels(model, plan)["all"]) == 6
    before = model[0].weight.detach().clone()
    if how == "learner":
        nl.Learner(model, plan).learn(*draw(0))
    else:
        nested = NestedOptimizer(model, plan)
        assert take_step(model, nested, 0, prepares=True)
    assert not torch.equal(before, model[0].weight)
    assert all(param.requires_grad for param in model.parameters())


def test_frozen_parameters_stay_frozen_whoever_pauses() -> None:
    model = Net()
    model[3].requires_grad_(False)
    plan = Plan(Level("spine", match=["*"], period=3, between="skip"))
    nested = NestedOptimizer(model, plan)
    for step in range(4):
        take_step(model, nested, step, prepares=True)
    nested.prepare_step()
    NestedOptimizer(model, plan)
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [False] * 2


# --- a snapshot is the whole state


class Extra(nn.Linear):
    """Keeps a count that is no tensor, and a buffer that it assigns anew."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.num_seen = 0
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def get_extra_state(self) -> dict[str, int]:
        return {"num_seen": self.num_seen}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.num_seen = state["num_seen"]

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_seen += len(x)
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return super().forward(x - self.mean)


def test_extra_state_and_buffers_assigned_anew_are_saved(tmp_path: Path) -> None:
    learner = nl.Learner(Extra(), Plan(Level("all", match=["*"])))
    for step in range(3):
        learner.learn(*draw(step))
    learner.snapshot(tmp_path / "s")
    twin = nl.Learner(Extra(), Plan(Level("all", match=["*"])))
    twin.restore(tmp_path / "s")
    assert twin.model.num_seen == learner.model.num_seen == 48
    assert torch.equal(twin.model.mean, learner.model.mean)
    x, _ = draw(9)
    assert torch.equal(twin.predict_proba(x), learner.predict_proba(x))
    assert twin.levels["all"].digest() == learner.levels["all"].digest()
