"""The default follows labels that change their meaning and change back, and keeps its promises."""

import copy

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from nestling.core.errors import SettingError, UnknownLevel
from nestling.data.digits import load_digits


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def make_stream() -> list[tuple[Tensor, Tensor]]:
    """Digits under their labels, under others, and under their own again, in batches of 10."""
    x, y = load_digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    other = torch.randperm(10, generator=torch.Generator().manual_seed(4))
    y = torch.cat([y[:600], other[y[600:1200]], y[1200:]])
    return list(zip(x.split(10), y.split(10), strict=True))


def follow(learner: nl.Learner, stream: list[tuple[Tensor, Tensor]]) -> list[float]:
    """Accuracy of each batch before it is learned."""
    found = []
    for x, y in stream:
        found.append(learner.evaluate(x, y) if learner.task else 0.0)
        learner.learn(x, y)
    return found


def test_a_meaning_is_learned_beside_the_old_one_and_that_recalled() -> None:
    learner = nl.Learner(make_net())
    found = follow(learner, make_stream())
    assert learner.levels["concepts"].clock.num_updates == 1
    assert sum(found[90:120]) / 30 > 0.8  # the new meaning
    assert sum(found[125:170]) / 45 > 0.85  # the old one, at once


def test_without_concepts_a_memory_cannot_follow() -> None:
    plan = nl.Plan(
        nl.Memory("memory", on="input", half_lives=(float("inf"),), features="auto"),
        nl.Level("network", match=["*"]),
        readout=nl.mix("memory", "live"),
    )
    found = follow(nl.Learner(make_net(), plan), make_stream())
    assert sum(found[125:170]) / 45 < 0.8


def test_resumes_bitwise_in_the_midst_of_two_meanings() -> None:
    stream = make_stream()
    whole, twin = nl.Learner(make_net()), nl.Learner(make_net())
    follow(whole, stream[:80])
    twin.load_state_dict(whole.state_dict())
    follow(whole, stream[80:130])
    follow(twin, stream[80:130])
    x = stream[0][0]
    assert torch.equal(whole.predict_proba(x), twin.predict_proba(x))
    assert whole.levels["concepts"].digest() == twin.levels["concepts"].digest()
    assert copy.deepcopy(whole).predict(x).tolist() == whole.predict(x).tolist()


def test_reads_and_refuses_knobs() -> None:
    learner = nl.Learner(make_net())
    follow(learner, make_stream()[:80])
    reading = next(one for one in learner.read_levels() if one.level == "concepts")
    assert reading.kind == "concepts"
    assert reading.num_updates == 1
    assert reading.num_parameters > 0
    with pytest.raises(SettingError, match="nothing to turn"):
        learner.control("concepts", reason="try", lr=0.1)


def test_exports_while_no_meaning_has_changed_and_after() -> None:
    stream = make_stream()
    learner = nl.Learner(make_net())
    x = stream[0][0]
    for until in (40, 80):
        follow(learner, stream[:until] if until == 40 else stream[40:80])
        exported = learner.export()(x)
        torch.testing.assert_close(exported, learner.predict_proba(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("concepts", "readout", "error"),
    [
        (nl.Concepts("c", of="nobody"), "live", UnknownLevel),
        (nl.Concepts("c", of="m"), "c", SettingError),
    ],
)
def test_wrong_plans(concepts: nl.Concepts, readout: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        nl.Plan(nl.Memory("m", on="input"), nl.Level("net", match=["*"]), concepts, readout=readout)


def test_a_plan_with_concepts_is_a_file_and_back() -> None:
    plan = nl.Plan(
        nl.Memory("m", on="input"),
        nl.Level("net", match=["*"]),
        nl.Concepts("c", of="m", num_slots=3, num_features=100),
        readout=nl.mix("m", "live", "c"),
    )
    assert nl.Plan.from_toml(plan.to_toml()) == plan


def test_values_have_no_concepts() -> None:
    torch.manual_seed(0)
    learner = nl.Learner(nn.Linear(8, 1))
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    for rows in x.split(10):
        learner.learn(rows, rows[:, :1])
    assert learner.levels["concepts"].clock.num_ticks == 0
    assert bool(learner.predict(x).isfinite().all())
