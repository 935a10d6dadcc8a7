"""Answers of some levels only: who is not named is silent, and nothing is changed by asking."""

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.batches import read_batch
from nestling.core.errors import MismatchedParameters, SettingError, UnknownLevel


class TwoParts(nn.Module):
    """Logits of a slow and a fast part, added."""

    def __init__(self) -> None:
        super().__init__()
        self.spine = nn.Linear(2, 2)
        self.fast = nn.Linear(2, 2)
        nn.init.zeros_(self.fast.weight)
        nn.init.zeros_(self.fast.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.spine(x) + self.fast(x)
        return out


def make_rows() -> tuple[Tensor, Tensor]:
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()


def make_plan(*more: nl.Memory | nl.Copy, readout: object = "live") -> nl.Plan:
    return nl.Plan(
        nl.Level("fast", match=["fast.*"], optimizer=nl.sgd(lr=1.0)),
        nl.Level("spine", match=["spine.*"], period=64),
        *more,
        readout=readout,  # type: ignore[arg-type]
    )


def test_the_spine_alone_answers_without_what_the_fast_level_learned() -> None:
    torch.manual_seed(0)
    learner = nl.Learner(TwoParts(), make_plan())
    start = {"fast": learner.levels["fast"].tensors()}
    x, y = make_rows()
    with torch.no_grad():
        before = learner.model(x).softmax(1)
    for _ in range(10):
        learner.learn(x, y)
    alone = learner.restricted_to(["spine"], references=start).predict_proba(x)
    torch.testing.assert_close(alone, before)
    assert not torch.allclose(learner.predict_proba(x), before, atol=0.05)


def test_asking_changes_nothing_bit_for_bit() -> None:
    learner = nl.Learner(TwoParts(), make_plan())
    start = {"fast": learner.levels["fast"].tensors()}
    x, y = make_rows()
    learner.learn(x, y)
    digests, answers = learner.levels.digests(), learner.predict_proba(x)
    learner.restricted_to(["spine"], references=start).predict(x)
    assert learner.levels.digests() == digests
    assert torch.equal(learner.predict_proba(x), answers)


def test_all_levels_answer_as_the_learner_does() -> None:
    learner = nl.Learner(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)))
    x, y = make_rows()
    for start in range(0, 64, 8):
        learner.learn(x[start : start + 8], y[start : start + 8])
    everyone = learner.restricted_to(list(learner.levels))
    torch.testing.assert_close(everyone.predict_proba(x), learner.predict_proba(x))


def test_all_levels_of_a_pretrained_default_answer_as_the_learner_does() -> None:
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    learner = nl.Learner(model, pretrained=True)
    x, y = make_rows()
    for start in range(0, 64, 8):
        learner.learn(x[start : start + 8], y[start : start + 8])
    everyone = learner.restricted_to(list(learner.levels))
    torch.testing.assert_close(everyone.predict_proba(x), learner.predict_proba(x))
    given = learner.restricted_to(
        ["origin"], references={name: learner.levels[name].tensors() for name in ("head", "spine")}
    )
    twin = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    twin.load_state_dict(learner.levels["origin"].tensors())
    with torch.no_grad():
        torch.testing.assert_close(given.predict_proba(x), twin(x).softmax(1))


def test_a_memory_alone_and_the_network_alone() -> None:
    plan = make_plan(
        nl.Memory("recent", on="input", half_lives=(30.0,)), readout=nl.mix("recent", "live")
    )
    learner = nl.Learner(TwoParts(), plan)
    start = {"fast": learner.levels["fast"].tensors(), "spine": learner.levels["spine"].tensors()}
    x, y = make_rows()
    for _ in range(3):
        learner.learn(x, y)
    live = learner.restricted_to(["fast", "spine"]).predict_proba(x)
    with torch.no_grad():
        torch.testing.assert_close(live, learner.model(x).softmax(1))
    recent = learner.restricted_to(["recent"], references=start).predict_proba(x)
    memory = learner.levels.memories["recent"]
    rows = memory.read_rows(read_batch((x,)), None)
    torch.testing.assert_close(recent, memory.answer(rows.features).float())


def test_a_low_rank_adapter_stands_at_zero_by_itself() -> None:
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    generator = torch.Generator().manual_seed(0)
    plan = nl.adapters(model, ["*.weight"], rank=1, generator=generator, fast_lr=0.1)
    learner = nl.Learner(model, plan)
    x, y = make_rows()
    with torch.no_grad():
        before = learner.model(x).softmax(1)
    for _ in range(20):
        learner.learn(x, y)
    torch.testing.assert_close(learner.restricted_to(["spine"]).predict_proba(x), before)
    assert not torch.allclose(learner.predict_proba(x), before, atol=0.01)


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (["spin"], UnknownLevel, "did you mean 'spine'"),
        ([], SettingError, "a list of levels' names works"),
        ("spine", SettingError, "a list of levels' names works"),
        (["spine"], SettingError, "level 'fast' is not named and nothing says"),
    ],
)
def test_bad_names_are_refused(names: list[str], error: type[Exception], words: str) -> None:
    learner = nl.Learner(TwoParts(), make_plan())
    with pytest.raises(error, match=words):
        learner.restricted_to(names)


def test_a_reference_of_another_level_is_refused() -> None:
    learner = nl.Learner(TwoParts(), make_plan())
    with pytest.raises(MismatchedParameters, match="the reference of level 'fast'"):
        learner.restricted_to(["spine"], references={"fast": learner.levels["spine"].tensors()})


def test_a_level_that_nobody_asks_cannot_answer() -> None:
    plan = make_plan(nl.Copy("stable", of=["fast", "spine"]))
    learner = nl.Learner(TwoParts(), plan)
    start = {name: learner.levels[name].tensors() for name in ("fast", "spine")}
    with pytest.raises(SettingError, match="none of the levels"):
        learner.restricted_to(["stable"], references=start)
