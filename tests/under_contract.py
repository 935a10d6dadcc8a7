"""A small two-part model under a contract, for the tests of governed change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import nestling as nl
from nestling.judge import (
    EvaluationProtocol,
    FixedBehaviour,
    LevelRole,
    MayChange,
    MustChange,
    ProbeData,
    ProbeSpec,
    Review,
    StaysFixed,
)

DAY = 86_400.0
START = 1_790_000_000.0  # in September 2026


class TwoParts(nn.Module):
    """Logits of a slow and a fast part, added; scales of the input that nothing may change."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(2, 2, bias=False)
        self.spine = nn.Linear(2, 2)
        self.fast = nn.Linear(2, 2)
        with torch.no_grad():
            self.scale.weight.copy_(torch.eye(2))
            self.fast.weight.zero_()
            self.fast.bias.zero_()
            self.spine.weight.copy_(torch.tensor([[-4.0, 0.0], [4.0, 0.0]]))
            self.spine.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        h = self.scale(x)
        out: Tensor = self.spine(h) + self.fast(h)
        return out


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    at: float = START

    def __call__(self) -> float:
        return self.at


def make_plan() -> nl.Plan:
    return nl.Plan(
        nl.Level("fast", match=["fast.*"], optimizer=nl.sgd(lr=0.5)),
        nl.Level("spine", match=["spine.*"], optimizer=nl.sgd(lr=0.5)),
        nl.Level("scale", match=["scale.*"], freeze=nl.Freeze(until="it is released")),
    )


def make_rows(num: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows whose label is the sign of the first number."""
    x = torch.randn(num, 2, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] > 0).long()


def make_data(num: int = 200) -> ProbeData:
    """Held-out rows, half of them of each of two groups."""
    x, y = make_rows(num, seed=9)
    return ProbeData(x, y, columns={"sex": ["female", "male"] * (num // 2)})


def make_contract(
    *,
    behaviour: Sequence[FixedBehaviour] = (),
    duties: Sequence[MustChange] = (),
    reviews: Sequence[Review] = (),
    probes: Sequence[ProbeSpec] = (ProbeSpec("accuracy", metric="accuracy"),),
    approvals: int = 0,
    since_validation: float | None = None,
    least_hours: float = 0.0,
) -> nl.Contract:
    return nl.Contract(
        "triage",
        owner="the clinic",
        levels=[LevelRole("spine", role="spine"), LevelRole("scale", role="spine")],
        may_change=[
            MayChange("M1", level="fast", what="daily drift"),
            MayChange(
                "M2",
                level="spine",
                what="guidelines",
                trigger="proposal",
                approvals=approvals,
                since_validation=since_validation,
                least_hours=least_hours,
            ),
            MayChange("M3", level="scale", what="nothing at present", trigger="proposal"),
        ],
        must_stay_fixed=StaysFixed(behaviour=behaviour),
        must_change_by=duties,
        reviews=reviews,
        probes=probes,
        protocol=EvaluationProtocol(least_examples=20),
    )


HOLDS = FixedBehaviour("B1", probe="accuracy", least=0.8, views=["spine", "whole"])


def train_on(x: Tensor, y: Tensor, steps: int = 10) -> Callable[[nl.Learner], None]:
    """A change: some steps on these rows."""

    def train(trial: nl.Learner) -> None:
        for _ in range(steps):
            trial.learn(x, y)

    return train
