"""Outer rules of copy levels as data: Lookahead, outer Nesterov (DiLoCo, SNOO), beakers.

A rule holds slow weights behind the live ones. At each boundary of its copy level it makes new
slow weights of the live ones, and the live ones go on from there.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from nestling.core.checked import checked
from nestling.core.errors import SettingError
from nestling.core.params import Params, wide_dtype, widen_half
from nestling.levels.outer_rules.beaker_chain import Chain, check_step, make_chain, step_beakers
from nestling.levels.outer_rules.outer_steps import lookahead_step, outer_step, read_fast

_CONFIG = ConfigDict(extra="forbid", defer_build=True)
_Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
_Share = Annotated[float, Field(gt=0.0, le=1.0)]
_Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
# What a rule holds, in its order: name -> tensor each.
Parts = list[dict[str, Tensor]]


@checked
@dataclass(frozen=True, config=_CONFIG)
class LookaheadRule:
    """Lookahead as the rule of a copy level; see `lookahead`."""

    rate: _Share = 0.5
    reset_inner: bool = False
    kind: Literal["lookahead"] = "lookahead"

    parts: ClassVar[tuple[str, ...]] = ("slow",)
    answer: ClassVar[int] = 0  # which part the copy answers by
    knobs: ClassVar[tuple[str, ...]] = ("rate",)

    def check_period(self, _period: int) -> None:
        """Any period works."""

    def start(self, live: Params) -> Parts:
        """Its parts beside live weights, name -> tensor of any shape; float32 at least."""
        return [_widen(live)]

    def step(self, parts: Sequence[Params], live: Params, _period: int) -> Parts:
        """Its parts after a boundary; the first is what the live weights become."""
        (slow,) = parts
        return [lookahead_step(slow, _read_all(slow, live), self.rate)]

    def restart(self, _parts: Sequence[Params], live: Params) -> Parts:
        """Its parts where the live weights were put in from elsewhere."""
        return self.start(live)

    def describe(self) -> str:
        """What it is, in a few words."""
        return f"lookahead, rate {self.rate:g}"


@checked
@dataclass(frozen=True, config=_CONFIG)
class OuterNesterovRule:
    """Outer Nesterov momentum (DiLoCo, SNOO) as the rule of a copy level; see `outer_nesterov`."""

    lr: _Positive = 0.7
    momentum: _Fraction = 0.9
    kind: Literal["outer_nesterov"] = "outer_nesterov"

    parts: ClassVar[tuple[str, ...]] = ("slow", "velocity")
    answer: ClassVar[int] = 0
    knobs: ClassVar[tuple[str, ...]] = ("lr", "momentum")
    reset_inner: ClassVar[bool] = False

    def check_period(self, _period: int) -> None:
        """Any period works."""

    def start(self, live: Params) -> Parts:
        """As `LookaheadRule.start`; the velocity is zero."""
        slow = _widen(live)
        return [slow, {name: torch.zeros_like(value) for name, value in slow.items()}]

    def step(self, parts: Sequence[Params], live: Params, _period: int) -> Parts:
        """As `LookaheadRule.step`."""
        slow, velocity = parts
        fast = _read_all(slow, live)
        return list(outer_step(slow, fast, velocity, step_size=self.lr, momentum=self.momentum))

    def restart(self, _parts: Sequence[Params], live: Params) -> Parts:
        """As `LookaheadRule.restart`: what moved them was no step, so the velocity is zero."""
        return self.start(live)

    def describe(self) -> str:
        """What it is, in a few words."""
        return f"outer nesterov, lr {self.lr:g}, momentum {self.momentum:g}"


@checked
@dataclass(frozen=True, config=_CONFIG)
class BeakersRule:
    """Benna-Fusi beakers as the rule of a copy level; see `beakers`."""

    num: Annotated[int, Field(ge=2)] = 4
    shortest: _Positive = 10.0
    longest: _Positive = 10_000.0
    leak: bool = False
    kind: Literal["beakers"] = "beakers"

    answer: ClassVar[int] = -1
    knobs: ClassVar[tuple[str, ...]] = ()
    reset_inner: ClassVar[bool] = False

    @model_validator(mode="after")
    def _check(self) -> "BeakersRule":
        try:
            self.check_period(1)
        except SettingError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of its parts: one for each beaker, the weight itself first."""
        return tuple(f"beaker {k}" for k in range(1, self.num + 1))

    @property
    def chain(self) -> Chain:
        """Its capacities and conductances, per optimizer step."""
        return make_chain(self.num, self.shortest, self.longest, with_leak=self.leak)

    def check_period(self, period: int) -> None:
        """Raise SettingError if a beaker would overshoot in so many optimizer steps at once."""
        check_step(self.chain, float(period))

    def start(self, live: Params) -> Parts:
        """As `LookaheadRule.start`; every beaker is as full as the weight, in float64.

        Slow flows are far below the rounding of float32, and would never arrive.
        """
        return [
            {n: v.detach().to(wide_dtype(v.device), copy=True) for n, v in live.items()}
            for _ in range(self.num)
        ]

    def step(self, parts: Sequence[Params], live: Params, period: int) -> Parts:
        """As `LookaheadRule.step`: what came to the weights is poured in, then the chain flows."""
        full = [_read_all(parts[0], live), *parts[1:]]
        return step_beakers(full, self.chain, float(period))

    def restart(self, parts: Sequence[Params], live: Params) -> Parts:
        """As `LookaheadRule.restart`: the slower beakers keep what they hold."""
        return [self.start(live)[0], *(dict(part) for part in parts[1:])]

    def describe(self) -> str:
        """What it is, in a few words."""
        leak = ", leaking" if self.leak else ""
        return f"{self.num} beakers, {self.shortest:g} to {self.longest:g} steps{leak}"


# Any outer rule of a copy level.
AnyRule = LookaheadRule | OuterNesterovRule | BeakersRule
# Rule of a copy level as data; a table in a file says which by its `kind`.
OuterRule = Annotated[AnyRule, Field(discriminator="kind")]


def lookahead(rate: float = 0.5, *, reset_inner: bool = False) -> LookaheadRule:
    """Lookahead: every `period` steps slow weights go a part of the way to the fast ones.

    phi <- phi + rate (theta_k - phi),  theta <- phi   [Zhang 2019, Algorithm 1]

    The rule of a copy level: `nl.Copy("slow", of=["trunk"], period=5, rule=nl.lookahead())`. The
    paper's values are a rate of 0.5 or 0.8 and a period of 5 or 10.

    Args:
        rate: alpha in (0, 1]; at 1 training is what it is without the rule.
        reset_inner: forget the inner optimizer's moments at every outer step; by default they are
            kept. The paper has both.

    >>> lookahead(rate=0.8).describe()
    'lookahead, rate 0.8'
    """
    return LookaheadRule(rate=rate, reset_inner=reset_inner)


def outer_nesterov(lr: float = 0.7, momentum: float = 0.9) -> OuterNesterovRule:
    """Outer Nesterov momentum (DiLoCo, SNOO): what fast steps moved is a gradient for slow weights.

    s = w - w_K,  b <- mu b + s,  w <- w - lr (mu b + s)   [DiLoCo, Douillard 2023, Algorithm 1;
    SNOO, 2025]

    The rule of a copy level, here with one worker as in SNOO. Without momentum it is `lookahead` of
    that rate. The inner optimizer keeps its moments, as in both papers.

    Args:
        lr: > 0, share of the fast steps' way that is gone.
        momentum: mu in [0, 1).

    >>> outer_nesterov().describe()
    'outer nesterov, lr 0.7, momentum 0.9'
    """
    return OuterNesterovRule(lr=lr, momentum=momentum)


def beakers(
    num: int = 4, *, shortest: float = 10.0, longest: float = 10_000.0, leak: bool = False
) -> BeakersRule:
    """Benna-Fusi beakers: behind every weight a chain of slow variables that pull it back.

    C_k du_k/dt = g_{k-1,k} (u_{k-1} - u_k) + g_{k,k+1} (u_{k+1} - u_k)   [Benna and Fusi 2016;
    Kaplanis 2018]

    The rule of a copy level; the weight is beaker 1. At each boundary what the optimizer added is
    poured into it, and the chain flows for the `period` steps that have passed, in both directions:
    without a leak sum_k C_k u_k stays what it is. The copy answers by the slowest beaker. Beakers
    are kept in float64 (float32 on MPS), 8 bytes per weight each.

    Args:
        num: beakers, >= 2, the weight itself included.
        shortest: time of the weight's exchange with the next beaker, in optimizer steps.
        longest: time of the last beaker, in optimizer steps, >= `shortest`.
        leak: the last beaker empties at its own time, so that what is old fades to 0.

    >>> beakers(3, shortest=4, longest=64).chain
    Chain(capacities=(1.0, 2.0, 4.0), conductances=(0.25, 0.125), leak=0.0)
    """
    return BeakersRule(num=num, shortest=shortest, longest=longest, leak=leak)


def _widen(live: Params) -> dict[str, Tensor]:
    return {name: widen_half(value.detach()).clone() for name, value in live.items()}


def _read_all(slow: Mapping[str, Tensor], live: Params) -> dict[str, Tensor]:
    return {name: read_fast(value, live[name].detach()) for name, value in slow.items()}
