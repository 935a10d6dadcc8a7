"""Optimizers under comparison, and the settings that a search with equal budgets draws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.seeds import make_generator
from nestling.optim import DGD, DMGD, M3, SGD, AdamW, MemoryMomentum, Muon
from nestling.optim.deep.m3 import Mode
from nestling.optim.deep.memory_momentum import Preconditioner

# Setting -> bounds within which it is drawn, uniform in its logarithm.
Space = Mapping[str, tuple[float, float]]
Settings = Mapping[str, float]

# The two settings that most rules have: what a momentum forgets per step, and the rate of AdamW on
# what a rule for matrices does not take.
FORGET = (0.02, 0.3)
REST_LR = (3e-4, 3e-2)


@dataclass(frozen=True)
class Contender:
    """One optimizer of the comparison.

    Args:
        space: its learning rate `lr`, within two decades where a usual one is known, and one
            further setting.
        build: optimizer over parameters, from drawn settings.
        of_body: it takes the matrices of a model's body only; embeddings, head and vectors learn
            by AdamW with the rate `rest_lr`, as is usual with Muon.
        needs_inputs: it runs within `record_layers`.
    """

    space: Space
    build: Callable[[list[Tensor], Settings], torch.optim.Optimizer]
    of_body: bool = False
    needs_inputs: bool = False

    def build_all(
        self, model: nn.Module, body: nn.Module, settings: Settings
    ) -> list[torch.optim.Optimizer]:
        """The optimizers that together move every parameter of a model.

        Args:
            model: what learns.
            body: the part of it whose matrices a rule for matrices takes.
            settings: as drawn from `space`.
        """
        every: list[Tensor] = list(model.parameters())
        if not self.of_body:
            return [self.build(every, settings)]
        taken: list[Tensor] = [param for param in body.parameters() if param.dim() == 2]
        rest = [param for param in every if all(param is not one for one in taken)]
        other = AdamW(lr=settings["rest_lr"], weight_decay=0.0)
        return [self.build(taken, settings), other.build(rest)]


def draw_trials(space: Space, num_trials: int, *salts: str | int) -> list[dict[str, float]]:
    """Draw settings of a random search by Latin hypercube: each bin of a setting is met once.

    The points of the unit cube depend on the number of trials and the salts alone, so that all
    spaces of as many settings are searched at the same points.

    Args:
        space: bounds by setting, uniform in the logarithm.
        num_trials: how many.
        salts: what the search is for.

    Returns: settings of each trial.

    >>> trials = draw_trials({"lr": (0.01, 1.0)}, 2, "doc")
    >>> sorted(one["lr"] > 0.1 for one in trials)
    [False, True]
    """
    trials: list[dict[str, float]] = [{} for _ in range(num_trials)]
    for number, (name, (low, high)) in enumerate(space.items()):
        generator = make_generator(number, "trials", *salts)
        order = torch.randperm(num_trials, generator=generator, device="cpu")
        inside = torch.rand(num_trials, generator=generator, dtype=torch.float64, device="cpu")
        shares: list[float] = ((order + inside) / num_trials).tolist()
        for trial, share in zip(trials, shares, strict=True):
            trial[name] = low * (high / low) ** share
    return trials


def _build_adamw(params: list[Tensor], drawn: Settings) -> torch.optim.Optimizer:
    betas = (1.0 - drawn["forget"], 0.999)
    return AdamW(lr=drawn["lr"], betas=betas, weight_decay=0.0).build(params)


def _build_heavy_ball(params: list[Tensor], drawn: Settings) -> torch.optim.Optimizer:
    return MemoryMomentum(lr=drawn["lr"], momentum=1.0 - drawn["forget"]).build(params)


def _build_delta(params: list[Tensor], drawn: Settings) -> torch.optim.Optimizer:
    spec = MemoryMomentum(lr=drawn["lr"], erase="element", erase_rate=drawn["erase_rate"])
    return spec.build(params)


def _build_delta_matrix(params: list[Tensor], drawn: Settings) -> torch.optim.Optimizer:
    spec = MemoryMomentum(lr=drawn["lr"], erase="matrix", erase_rate=drawn["erase_rate"])
    return spec.build(params)


def _make_preconditioned(kind: Preconditioner) -> Callable[..., torch.optim.Optimizer]:
    def build(params: list[Tensor], drawn: Settings) -> torch.optim.Optimizer:
        forget = drawn.get("forget", 0.1)
        spec = MemoryMomentum(lr=drawn["lr"], momentum=1.0 - forget, preconditioner=kind)
        return spec.build(params)

    return build


def _build_dmgd(params: list[Tensor], drawn: Settings) -> torch.optim.Optimizer:
    return DMGD(lr=drawn["lr"], inner_lr=drawn["inner_lr"]).build(params)


def _build_muon(params: list[Tensor], drawn: Settings) -> torch.optim.Optimizer:
    return Muon(lr=drawn["lr"]).build(params)


def _build_torch_muon(params: list[Tensor], drawn: Settings) -> torch.optim.Optimizer:
    made: Any = torch.optim.Muon(params, lr=drawn["lr"], weight_decay=0.0)
    return made  # type: ignore[no-any-return]


def _make_m3(mode: Mode) -> Callable[..., torch.optim.Optimizer]:
    def build(params: list[Tensor], drawn: Settings) -> torch.optim.Optimizer:
        return M3(lr=drawn["lr"], mode=mode).build(params)

    return build


def _build_dgd(params: list[Tensor], drawn: Settings) -> torch.optim.Optimizer:
    return DGD(lr=drawn["lr"]).build(params)


def _build_still(params: list[Tensor], _drawn: Settings) -> torch.optim.Optimizer:
    return SGD(lr=0.0).build(params)


# The first is what all others are compared with. "still" is a control: the body does not learn at
# all, which a rule that only disturbs it does not reach. M3's divided forms have four decades of
# rates: no value is printed, and a step is about 1 / |gradient|.
CONTENDERS: Mapping[str, Contender] = {
    "adamw": Contender({"lr": (3e-4, 3e-2), "forget": FORGET}, _build_adamw),
    "momentum": Contender({"lr": (1e-2, 1.0), "forget": FORGET}, _build_heavy_ball),
    "delta": Contender({"lr": (1e-2, 1.0), "erase_rate": (1.0, 1e6)}, _build_delta),
    "delta_matrix": Contender({"lr": (1e-2, 1.0), "erase_rate": (1e-2, 1e4)}, _build_delta_matrix),
    "preconditioned": Contender(
        {"lr": (3e-5, 3e-3), "forget": FORGET}, _make_preconditioned("diagonal")
    ),
    "whitened": Contender(
        {"lr": (1e-3, 0.1), "rest_lr": REST_LR}, _make_preconditioned("matrix"), of_body=True
    ),
    "muon": Contender({"lr": (2e-3, 0.2), "rest_lr": REST_LR}, _build_muon, of_body=True),
    "torch_muon": Contender(
        {"lr": (2e-3, 0.2), "rest_lr": REST_LR}, _build_torch_muon, of_body=True
    ),
    "m3": Contender({"lr": (2e-3, 0.2), "rest_lr": REST_LR}, _make_m3("normalized"), of_body=True),
    "m3_ema": Contender({"lr": (1e-9, 1e-5), "rest_lr": REST_LR}, _make_m3("ema"), of_body=True),
    "m3_paper": Contender(
        {"lr": (1e-9, 1e-5), "rest_lr": REST_LR}, _make_m3("paper"), of_body=True
    ),
    "dgd": Contender(
        {"lr": (1e-3, 0.1), "rest_lr": REST_LR}, _build_dgd, of_body=True, needs_inputs=True
    ),
    "still": Contender({"rest_lr": REST_LR}, _build_still, of_body=True),
    "dmgd": Contender({"lr": (3e-2, 3.0), "inner_lr": (0.1, 10.0)}, _build_dmgd),
}
