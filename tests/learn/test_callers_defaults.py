"""A caller's default device and dtype of torch do not reach inside: the same bits come out.

`torch.set_default_device("meta")` stands for any device that is not the data's: what is made
without a device lands there, and nothing can be computed with it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nestling as nl
from learners import draw, read_answer
from nestling.memory import MemoryBank, RidgeMemory
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
    NearestClassMean,
    OnlineEWC,
    RandomProjectionRidge,
    RecursiveRidge,
    Retention,
    StreamingLDA,
)

X = draw(40, 4)
Y = (X[:, 0] > 0).long()

METHODS: dict[str, Callable[[], Retention]] = {
    "ewc": lambda: EWC(20.0),
    "ewc, exact": lambda: EWC(20.0, labels="exact"),
    "online ewc": lambda: OnlineEWC(20.0, 0.9),
    "si": lambda: SI(1.0),
    "mas": lambda: MAS(0.3),
    "l2sp": lambda: L2SP(0.1, 0.0, head=""),
    "lwf": lambda: LwF(1.0),
    "mask": lambda: MaskAbsent(),
    "mask, experience": lambda: MaskAbsent("experience"),
    "er, balanced": lambda: ER(8, 4, balanced=True),
    "er-ace": lambda: ERACE(8, 4),
    "der": lambda: DER(8, 0.3, 4),
    "der++": lambda: DERpp(8, 0.3, 0.5, 4),
    "a-gem": lambda: AGEM(8, 4),
    "gem": lambda: GEM(4),
    "gdumb": lambda: GDumb(8, num_epochs=2),
    "ema": lambda: EMAReader(0.9),
    "mean-er": lambda: MeanER(8, 4, decay=0.9),
    "cls-er": lambda: CLSER(8, 4),
}


def make_net() -> nn.Sequential:
    """Of float32 on the CPU, whatever the defaults are."""
    torch.manual_seed(0)
    wanted = {"device": "cpu", "dtype": torch.float32}
    return nn.Sequential(nn.Linear(4, 8, **wanted), nn.ReLU(), nn.Linear(8, 2, **wanted))  # type: ignore[arg-type]


def make_with(rule: nl.Level, *more: nl.Copy) -> nl.Learner:
    return nl.Learner(make_net(), nl.Plan(rule, *more))


LEARNERS: dict[str, Callable[[], nl.Learner]] = {
    "default": lambda: nl.Learner(make_net()),
    "replay": lambda: nl.Learner(make_net(), replay=10),
    "pretrained": lambda: nl.Learner(make_net(), pretrained=True, replay=10),
    "adamw": lambda: make_with(nl.Level("a", match=["*"], period=2, optimizer=nl.adamw(lr=0.01))),
    "adam, not fused": lambda: make_with(
        nl.Level("a", match=["*"], period=2, optimizer=nl.adam(lr=0.01, fused=False))
    ),
    "momentum": lambda: make_with(
        nl.Level("a", match=["*"], optimizer=nl.sgd(lr=0.1, momentum=0.9))
    ),
    "copy": lambda: make_with(
        nl.Level("a", match=["*"], optimizer=nl.sgd(lr=0.1)),
        nl.Copy("slow", of=["a"], decay=0.9, probability=0.5),
    ),
    "gates": lambda: make_with(
        nl.Level(
            "a",
            match=["*"],
            optimizer=nl.sgd(lr=0.1),
            gate=[nl.SurpriseGate(), nl.ImportanceGate()],
            trust=0.1,
        )
    ),
    **{
        name: lambda make=make: nl.Learner(make_net(), retain=[make()])
        for name, make in METHODS.items()
    },
}


@contextmanager
def defaults(which: str) -> Iterator[None]:
    if which == "meta":
        torch.set_default_device("meta")
    else:
        torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


def use(make: Callable[[], nl.Learner], folder: Path) -> list[Tensor]:
    """Answers of a learner that learns, grows, is saved, comes back and is exported."""
    learner, answers = make(), []
    for _ in range(2):
        learner.fit([(X[:20], Y[:20]), (X[20:], Y[20:])])
    answers.append(read_answer(learner, X))
    if not learner.protections.methods or learner.protections.is_plain:
        learner.learn(X, Y + 1)
        answers.append(read_answer(learner, X))
    learner.snapshot(folder)
    other = make()
    other.restore(folder)
    other.learn(X, Y)
    answers.append(read_answer(other, X))
    learner.read_levels()
    return [*answers, learner.export()(X)]


@pytest.mark.parametrize("which", ["meta", "float64"])
@pytest.mark.parametrize("name", LEARNERS)
def test_learner_keeps_its_bits(name: str, which: str, tmp_path: Path) -> None:
    wanted = use(LEARNERS[name], tmp_path / "plain")
    with defaults(which):
        found = use(LEARNERS[name], tmp_path / "mode")
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def run_memory(make: Callable[[], object]) -> Tensor:
    memory = make()
    for _ in range(3):
        memory.add(X, Y) if hasattr(memory, "add") else memory.learn(X, Y)  # type: ignore[attr-defined]
    ask = getattr(memory, "predict_proba", None) or memory.predict  # type: ignore[attr-defined]
    state = memory.state_dict()  # type: ignore[attr-defined]
    memory.load_state_dict(state)  # type: ignore[attr-defined]
    return ask(X)  # type: ignore[no-any-return]


MEMORIES: dict[str, Callable[[], object]] = {
    "ridge": lambda: RidgeMemory(4),
    "ridge, features": lambda: RidgeMemory(4, features=nl.RandomFeatures(4, 32)),
    "bank": lambda: MemoryBank(4, half_lives=(10.0, 100.0)),
    "means": lambda: NearestClassMean(4),
    "lda": lambda: StreamingLDA(4),
    "recursive": lambda: RecursiveRidge(4),
    "projections": lambda: RandomProjectionRidge(4, num_features=16),
}


@pytest.mark.parametrize("which", ["meta", "float64"])
@pytest.mark.parametrize("name", MEMORIES)
def test_memory_keeps_its_bits(name: str, which: str) -> None:
    wanted = run_memory(MEMORIES[name])
    with defaults(which):
        found = run_memory(MEMORIES[name])
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)
