"""A level that explodes is put back to its last good state, and no other is."""

import pytest
import torch
from torch import nn

import nestling as nl
from governed_nets import Clock, Net, digest, draw, make_optimizer, take_step
from nestling.core.errors import SettingError
from nestling.levels import Braked, ChangeBounds, NestedOptimizer

pytestmark = pytest.mark.filterwarnings("ignore::nestling.levels.LevelAlarm")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_others_go_on_as_if_the_level_had_been_frozen(optimizer: str) -> None:
    braked, frozen = Net(), Net()
    nested = make_optimizer(braked, 0.01, optimizer)
    nested.levels.keep_good("middle")
    still = make_optimizer(frozen, 0.01, optimizer)
    still.control("middle", reason="test", freeze=nl.Freeze(windows=((1, 100),)))
    events: list[object] = []
    for step in range(1, 11):
        take_step(braked, nested, step, spoil="3.")
        take_step(frozen, still, step)
        events += nested.take_events()
    assert digest(braked) == digest(frozen)
    told = [event for event in events if isinstance(event, Braked)]
    assert [event.step for event in told] == list(range(1, 11))
    assert told[0].level == "middle"
    assert "not finite" in told[0].reason
    assert nested.levels.gradient["middle"].clock.num_updates == 0


def test_goes_back_to_the_last_good_state_with_its_moments() -> None:
    """Parts that do not know each other, so that the others see nothing of it."""

    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.parts = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([part(x) for part in self.parts])

    def make() -> tuple[Apart, NestedOptimizer]:
        model = Apart()
        levels = [
            nl.Level(f"part{n}", match=[f"parts.{n}.*"], optimizer=nl.adamw(lr=0.01))
            for n in range(3)
        ]
        nested = NestedOptimizer(model, nl.Plan(*levels))
        nested.levels.keep_good("part1", every=10)
        return model, nested

    def go(model: Apart, nested: NestedOptimizer, step: int, spoil: bool) -> None:
        nested.zero_grad()
        model(draw(step)[0]).square().mean().backward()
        if spoil:
            model.parts[1].weight.grad.fill_(torch.inf)  # type: ignore[union-attr,operator]
        nested.step()

    (model, nested), (twin, plain) = make(), make()
    for step in range(1, 21):
        go(model, nested, step, spoil=False)
        go(twin, plain, step, spoil=False)
    good = plain.levels["part1"].state_dict()
    for step in range(21, 26):
        go(model, nested, step, spoil=step == 25)
        go(twin, plain, step, spoil=False)
    assert nested.levels["part1"].digest() != plain.levels["part1"].digest()
    back = nested.levels["part1"].state_dict()
    for kept in ("weights", "moments"):
        assert repr(back[kept]) == repr(good[kept])
    for other in ("part0", "part2"):
        ours, theirs = nested.levels[other].state_dict(), plain.levels[other].state_dict()
        assert nested.levels[other].digest() == plain.levels[other].digest()
        assert repr(ours["moments"]) == repr(theirs["moments"])
    go(model, nested, 26, spoil=False)
    assert torch.isfinite(model.parts[1].weight).all()  # type: ignore[arg-type]


def test_an_explosion_is_judged_by_what_is_usual() -> None:
    model = Net()
    nested = make_optimizer(model, lr=0.01)
    nested.levels.keep_good("middle", explode=0.5)
    for step in range(1, 31):
        take_step(model, nested, step)
    before = nested.levels["middle"].digest()
    for step in (31, 32):
        x, y = draw(step)
        nested.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        if step == 31:
            model[3].weight.grad.mul_(1e5)
        nested.step()
        told = [e for e in nested.take_events() if isinstance(e, Braked)]
        assert len(told) == (step == 31)
        if told:
            assert "times as much as usual" in told[0].reason
            assert nested.levels["middle"].digest() != before, "the good state is older"


def test_large_steps_that_are_usual_are_no_explosion() -> None:
    model = Net()
    nested = make_optimizer(model, lr=1e4)
    nested.levels.bind("spine", ChangeBounds(per_update=0.01), Clock())
    for step in range(1, 40):
        take_step(model, nested, step)
        with torch.no_grad():  # only the spine is bound
            for place in (3, 5):
                for param in model[place].parameters():
                    param.fill_(0.1)
    assert not [e for e in nested.take_events() if isinstance(e, Braked)]


def test_what_cannot_be_kept_is_refused() -> None:
    nested = make_optimizer(Net())
    with pytest.raises(SettingError, match="every=0; 1 or more"):
        nested.levels.keep_good("spine", every=0)
    with pytest.raises(SettingError, match="explode=0"):
        nested.levels.keep_good("spine", explode=0)
    assert nested.levels.gradient["spine"].budget is None
