"""Every learner can be killed at any batch and goes on, bit for bit, from its snapshot."""

import copy
import pickle
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from learners import differences, make_batch, read_answer, read_state
from nestling.core.errors import SnapshotError
from nestling.levels import Copy, Freeze, Gate, Level, Memory, Plan
from nestling.optim import OptimizerSpec, adam, adamw, sgd

NUM_BATCHES = 40
NUM_KILLS = {True: 20, False: 6}  # of a special plan; of the table, where each is in four or more
NUM_AFTER = 4  # batches after each restart: more than the longest period

OPTIMIZERS: dict[str, OptimizerSpec] = {
    "adamw": adamw(lr=1e-2),
    "adam": adam(lr=1e-2),
    "sgd": sgd(lr=0.05),
    "momentum": sgd(lr=0.05, momentum=0.9, nesterov=True),
}
GATES: dict[str, tuple[Gate, ...]] = {
    "none": (),
    "schedule": (nl.ScheduleGate(start=2, stop=20, low=0.1),),
    "surprise": (nl.SurpriseGate(half_life=5.0),),
    "importance": (nl.ImportanceGate(half_life=5.0),),
    "agreement": (nl.AgreementGate(half_life=3.0),),
    "parent": (nl.ParentGate(of="head"),),
    "several": (nl.SurpriseGate(), nl.AgreementGate(), nl.ScheduleGate(start=0, stop=9)),
}
MEMORIES: dict[str, Memory] = {
    "slow": Memory("m", on="input", half_lives=(float("inf"),), num_features=6),
    "fast and slow": Memory("m", on="input", half_lives=(9.0, float("inf")), num_features=6),
    "prior": Memory("m", on="input", half_lives=(30.0,), num_features=4, prior_half_life=5.0),
    "fourier on a frozen layer": Memory("m", on="0", features="fourier", num_features=5, block=7),
    "live head input": Memory("m", frozen=False, half_lives=(20.0, 90.0), num_features=0),
    "fixed ridge": Memory("m", on="input", half_lives=(5.0, 50.0), num_features=4, ridge=0.1),
}


class Net(nn.Sequential):
    """With all that keeps a state or draws: batch norm, dropout."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 2)
        )


def make_plan(optimizer: str, gate: str, memory: str) -> Plan:
    rule = OPTIMIZERS[optimizer]
    return Plan(
        MEMORIES[memory],
        Level("head", match=("4.*",), optimizer=rule, gate=(nl.SurpriseGate(half_life=20.0),)),
        Level("spine", match=["*"], period=3, optimizer=rule, gate=GATES[gate], trust=0.5),
        Copy("average", of=("head", "spine"), decay=0.9, probability=0.6),
        readout=nl.mix("m", "live", "average"),
    )


# Every optimizer with every gate; memories take turns, so that each meets all of both.
PLANS = {
    f"{optimizer}, {gate}, {memory}": (optimizer, gate, memory)
    for i, optimizer in enumerate(OPTIMIZERS)
    for j, gate in enumerate(GATES)
    for memory in [list(MEMORIES)[(i + j) % len(MEMORIES)]]
}
SPECIAL = {
    "default with replay": lambda: nl.Learner(Net(), replay=12),
    "pretrained": lambda: nl.Learner(Net(), pretrained=True, replay=12, seed=3),
    "pretrained without replay": lambda: nl.Learner(Net(), pretrained=True, seed=3),
    "pretrained without modes": lambda: nl.Learner(
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), pretrained=True
    ),
    "outside of two half-lives": lambda: nl.Learner(
        Net(),
        Plan(
            Memory("m", on=("input of 0", "4"), half_lives=(9.0, float("inf")), num_features=6),
            Level("all", match=["*"]),
            Copy("given", of=("all",), decay=1.0),
            Copy("average", of=("all",), decay=0.9),
            readout=nl.mix("m", "live", "average", "given", outside="given"),
        ),
    ),
    "outside of the first of two memories": lambda: nl.Learner(
        Net(),
        Plan(
            Memory("m", on="input of 4", half_lives=(float("inf"),), num_features=6),
            Memory("fast", on="input", half_lives=(9.0, 30.0), num_features=5, block=8),
            Level("all", match=["*"]),
            Copy("given", of=("all",), decay=1.0),
            readout=nl.mix("m", "fast", "live", "given", outside="given"),
        ),
    ),
    "optimizers of one's own": lambda: nl.Learner(
        Net(),
        Plan(
            Memory("m", on="input", half_lives=(9.0,), num_features=6),
            Level(
                "head",
                match=("4.*",),
                optimizer=partial(torch.optim.RMSprop, lr=1e-2, momentum=0.5),
                gate=GATES["several"],
            ),
            Level("spine", match=["*"], period=3, optimizer=torch.optim.NAdam, trust=0.5),
            Copy("average", of=("head", "spine"), decay=0.9),
            readout=nl.mix("m", "live", "average"),
        ),
        replay=10,
    ),
    "slow weights of two outer rules": lambda: nl.Learner(
        Net(),
        Plan(
            Level("head", match=("4.*",), gate=GATES["several"]),
            Level("spine", match=["*"], period=3, trust=0.5),
            Copy("slow", of=("head",), period=2, rule=nl.outer_nesterov()),
            Copy("poured", of=("spine",), period=4, rule=nl.beakers(3, shortest=9, longest=90)),
            Copy("average", of=("head", "spine"), decay=0.9),
            readout=nl.mix("live", "slow", "poured", "average"),
        ),
    ),
    "memory alone": lambda: nl.Learner(Net(), Plan(Memory("m", num_features=8), readout="m")),
    "skip, freeze and protect": lambda: nl.Learner(
        Net(),
        Plan(
            Level("head", match=("4.*",), freeze=Freeze(windows=((5, 9),)), protect=True),
            Level("spine", match=["*"], period=4, between="skip", window=2, reduce="sum"),
            readout="live",
        ),
        judge=lambda model: int(model[4].bias.sum() * 1e6) % 3 != 0,  # type: ignore[index]
    ),
}


def make_learner(case: str) -> nl.Learner:
    torch.manual_seed(0)
    if case in SPECIAL:
        return SPECIAL[case]()
    return nl.Learner(Net(), make_plan(*PLANS[case]), replay=10)


def give(learner: nl.Learner, index: int) -> None:
    """Batch `index` of the stream: sizes differ, and a third class comes half way."""
    x, y = make_batch(index, 6 + index % 5, num_classes=2 if index < 20 else 3)
    learner.learn(x, y, task=index // 20)


@pytest.mark.parametrize("case", [*SPECIAL, *PLANS])
def test_killed_and_restored_at_any_batch(case: str, tmp_path: Path) -> None:
    kills = sorted(random.Random(case).sample(range(1, NUM_BATCHES), NUM_KILLS[case in SPECIAL]))
    learner = make_learner(case)
    states: dict[int, dict[str, Any]] = {}
    answers: dict[int, Tensor] = {}
    x, _ = make_batch(999)
    wanted = {min(kill + NUM_AFTER, NUM_BATCHES) for kill in kills}
    for index in range(NUM_BATCHES):
        if index in kills:
            learner.snapshot(tmp_path / str(index))
        give(learner, index)
        if index + 1 in wanted:
            states[index + 1] = read_state(learner)
            answers[index + 1] = read_answer(learner, x)
    for kill in kills:
        torch.manual_seed(kill)  # what else the process has drawn does not matter
        again = make_learner(case)
        again.restore(tmp_path / str(kill))
        end = min(kill + NUM_AFTER, NUM_BATCHES)
        for index in range(kill, end):
            give(again, index)
        assert differences(states[end], read_state(again)) == []
        # A memory's answer is solved in other steps by whoever was asked in between.
        torch.testing.assert_close(answers[end], read_answer(again, x), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("case", [*SPECIAL, *list(PLANS)[::7]])
def test_a_restored_learner_gives_the_same_bits(case: str, tmp_path: Path) -> None:
    learner, again = make_learner(case), make_learner(case)
    x, _ = make_batch(999)
    for index in range(14):
        give(learner, index)
        read_answer(learner, x)
    learner.snapshot(tmp_path / "now")
    again.restore(tmp_path / "now")
    assert torch.equal(read_answer(learner, x), read_answer(again, x))
    for one in (learner, again):
        torch.manual_seed(14)  # both draw dropout from the same
        give(one, 14)
    assert torch.equal(read_answer(learner, x), read_answer(again, x))


@pytest.mark.parametrize("case", [*SPECIAL, *list(PLANS)[::5]])
@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
def test_a_copy_goes_on_by_itself(case: str, how: str) -> None:
    learner = make_learner(case)
    for index in range(18):
        give(learner, index)
    state = torch.get_rng_state()
    if how == "pickle":
        if learner.levels.judge is not None:
            pytest.skip("its judge is a function of the test's own, which cannot be pickled")
        twin = pickle.loads(pickle.dumps(learner))
    else:
        twin = learner.copy() if how == "copy" else copy.deepcopy(learner)
    before = read_state(learner)
    assert differences(before, read_state(twin)) == []
    for index in range(18, 24):
        give(twin, index)
    now = read_state(learner)
    now["random"]["torch"] = before["random"]["torch"]  # both draw dropout from the same
    assert differences(before, now) == []
    torch.set_rng_state(state)
    for index in range(18, 24):
        give(learner, index)
    assert differences(read_state(learner), read_state(twin)) == []
    x, _ = make_batch(999)
    assert torch.equal(read_answer(learner, x), read_answer(twin, x))


def test_every_pair_is_in_the_table() -> None:
    assert {(o, g) for o, g, _ in PLANS.values()} == {(o, g) for o in OPTIMIZERS for g in GATES}
    assert {m for *_, m in PLANS.values()} == set(MEMORIES)
    assert {(o, m) for o, _, m in PLANS.values()} == {(o, m) for o in OPTIMIZERS for m in MEMORIES}


def test_nothing_to_restore(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="no snapshot"):
        make_learner("default with replay").restore(tmp_path / "none")
