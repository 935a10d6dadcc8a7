"""Protecting methods in a learner do what they do in a plain loop, and are saved with it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import DataError, ForeignSnapshot, SettingError
from nestling.data import load_digits
from nestling.protect import (
    AGEM,
    CLSER,
    DER,
    ER,
    ERACE,
    EWC,
    GEM,
    L2SP,
    MAS,
    SI,
    DERpp,
    EMAReader,
    GDumb,
    LwF,
    MaskAbsent,
    MeanER,
    OnlineEWC,
    Retention,
    take_step,
)

METHODS: dict[str, Callable[[], Retention]] = {
    "ewc": lambda: EWC(20.0, seed=1),
    "online ewc": lambda: OnlineEWC(20.0, 0.9, seed=1),
    "si": lambda: SI(1.0),
    "mas": lambda: MAS(0.3),
    "l2sp": lambda: L2SP(0.1, 0.0, head=""),
    "lwf": lambda: LwF(1.0),
    "mask": lambda: MaskAbsent("experience"),
    "er": lambda: ER(50, joint=True),
    "er-ace": lambda: ERACE(50),
    "der": lambda: DER(50, 0.3),
    "der++": lambda: DERpp(50, 0.3, 0.5),
    "a-gem": lambda: AGEM(50),
    "gem": lambda: GEM(20),
    "gdumb": lambda: GDumb(50, num_epochs=5),
    "ema": lambda: EMAReader(0.9),
    "mean-er": lambda: MeanER(50, decay=0.9),
    "cls-er": lambda: CLSER(50),
}
Batches = list[tuple[Tensor, Tensor]]


def cut(first: int, num: int = 8) -> Batches:
    """Batches of digits `first` and `first + 1`."""
    x, y = load_digits()
    kept = (y >= first) & (y < first + 2)
    return list(zip(x[kept].split(10)[:num], y[kept].split(10)[:num], strict=True))


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))


def make_learner(methods: list[Retention]) -> nl.Learner:
    plan = nl.Plan(nl.Level("all", match=("*",), optimizer=nl.sgd(lr=0.1)))
    return nl.Learner(make_model(), plan, retain=methods)


def read_weights(model: nn.Module) -> list[Tensor]:
    return [param.detach().clone() for param in model.parameters()]


# GDumb leaves the live weights alone, which is worth an alarm elsewhere.
quiet_alarms = pytest.mark.filterwarnings("ignore:level 'all' got no gradient")


def keep_seen(probabilities: Tensor, num_seen: int) -> Tensor:
    """What is answered: classes that never came have no probability."""
    seen = probabilities.clone()
    seen[:, num_seen:] = 0.0
    return seen / seen.sum(dim=1, keepdim=True)


@quiet_alarms
@pytest.mark.parametrize("name", METHODS)
def test_a_learner_does_what_a_plain_loop_does(name: str) -> None:
    method, model = METHODS[name](), make_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    learner = make_learner([METHODS[name]()])
    alone = make_learner([])
    for first in (0, 2, 4):
        batches = cut(first)
        model.train()
        for x, y in batches:
            take_step(model, optimizer, (x, y), [method])
        method.end_experience(model, batches)
        learner.fit(batches)
        alone.fit(batches)
    for ours, theirs in zip(read_weights(learner.model), read_weights(model), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    x = cut(6)[0][0]
    reader = method.find_reader() or model
    expected = keep_seen(reader(x).softmax(dim=1), 6)
    torch.testing.assert_close(learner.predict_proba(x), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(alone.predict_proba(x), expected, atol=1e-3)


@quiet_alarms
@pytest.mark.parametrize("name", METHODS)
def test_a_snapshot_in_an_experience_goes_on_bit_by_bit(name: str, tmp_path: Path) -> None:
    learner, again = make_learner([METHODS[name]()]), make_learner([METHODS[name]()])
    learner.fit(cut(0))
    for x, y in cut(2)[:3]:
        learner.learn(x, y)
    learner.snapshot(tmp_path / "s")
    again.restore(tmp_path / "s")
    for one in (learner, again):
        for x, y in cut(2)[3:]:
            one.learn(x, y)
        one.end_experience(cut(2))
        one.fit(cut(4))
    x = cut(6)[0][0]
    assert torch.equal(learner.predict_proba(x), again.predict_proba(x))
    for ours, theirs in zip(read_weights(learner.model), read_weights(again.model), strict=True):
        assert torch.equal(ours, theirs)


def test_a_snapshot_of_other_methods_is_refused(tmp_path: Path) -> None:
    learner = make_learner([SI(1.0)])
    learner.fit(cut(0))
    learner.snapshot(tmp_path / "s")
    other = make_learner([MAS(1.0)])
    with pytest.raises(ForeignSnapshot, match=r"methods \['SI'\], this learner \['MAS'\]"):
        other.restore(tmp_path / "s")
    assert other.counts.num_examples == 0


def test_a_new_task_without_a_boundary_is_refused() -> None:
    learner = make_learner([EWC(1.0)])
    (x, y), (x2, y2) = cut(0)[0], cut(2)[0]
    learner.learn(x, y, task=0)
    before = read_weights(learner.model)
    with pytest.raises(DataError, match="task 0 became 1 but EWC protects only what"):
        learner.learn(x2, y2, task=1)
    assert all(torch.equal(a, b) for a, b in zip(before, read_weights(learner.model), strict=True))
    learner.end_experience(cut(0))
    learner.learn(x2, y2, task=1)


def test_a_loader_that_is_spent_is_refused_before_anything_is_learned() -> None:
    learner = make_learner([EWC(1.0)])
    with pytest.raises(DataError, match="EWC reads an experience once more"):
        learner.fit(iter(cut(0)))
    assert learner.counts.num_examples == 0
    with pytest.raises(DataError):
        learner.end_experience()


def test_a_reader_answers_and_its_head_does_not_grow() -> None:
    class Reader(Retention):
        def find_reader(self) -> nn.Module | None:
            return self.model

        model = make_model()

    learner = make_learner([Reader()])
    learner.fit(cut(0))
    x = cut(0)[0][0]
    expected = keep_seen(Reader.model(x).softmax(dim=1), 2)
    torch.testing.assert_close(learner.predict_proba(x), expected)
    torch.testing.assert_close(learner.export()(x), expected)
    with pytest.raises(SettingError, match="Reader answers by a copy whose head cannot grow"):
        learner.learn(x, torch.full((len(x),), 11))


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ([EWC], "give methods such as"),
        ([one := SI(1.0), one], "stands in retain twice"),
    ],
    ids=["class", "twice"],
)
def test_what_is_no_method_is_refused(methods: list[Retention], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        make_learner(methods)


def test_memories_alone_have_nothing_to_protect() -> None:
    plan = nl.Plan(nl.Memory("memory", on="input"), readout="memory")
    with pytest.raises(SettingError, match="no level of the plan learns by gradient"):
        nl.Learner(make_model(), plan, retain=[SI(1.0)])
