"""The eight ways in which nested-learning code fails, each rebuilt as a small model or rule."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Axes: B samples, T tokens, C width.


# 1. A period that no code reads.


class UnreadPeriod(nn.Module):
    """Two blocks, the slow one of which shall learn every `slow_period` steps."""

    def __init__(self, slow_period: int = 16) -> None:
        super().__init__()
        self.slow_period = slow_period
        self.fast, self.slow = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x_BC: Tensor) -> Tensor:
        return self.slow(self.fast(x_BC).relu())  # type: ignore[no-any-return]


def make_unread_option(update_every: int = 16) -> nn.Module:
    """A period that is an option only."""
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


@dataclass
class Clocks:
    """Settings, as public code keeps them."""

    periods: dict[str, int]


class UnreadSettings(nn.Sequential):
    """Periods in a settings object that nobody asks."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        self.settings = Clocks({"fast": 1, "slow": 16})


class ReadPeriod(nn.Module):
    """Its slow block gets gradient at every `slow_period`-th call; handed on and read there."""

    def __init__(self, slow_period: int = 2) -> None:
        super().__init__()
        self.slow_period = slow_period
        self.fast, self.slow = nn.Linear(8, 8), nn.Linear(8, 4)
        self.settings = Clocks({"slow": slow_period})
        self.register_buffer("clock", torch.zeros((), dtype=torch.long))

    def forward(self, x_BC: Tensor) -> Tensor:
        if self.training:
            self.clock += 1
        y_BK = self.slow(self.fast(x_BC).relu())
        is_due = int(self.clock) % self.settings.periods["slow"] == 0
        return y_BK if is_due or not self.training else y_BK.detach() + self.fast(x_BC)[:, :4]  # type: ignore[no-any-return]


class UnreadOptimizer(torch.optim.SGD):
    """A period among the settings of an optimizer."""

    def __init__(self, params: Iterable[Tensor], period: int = 16) -> None:
        super().__init__(params, lr=0.1)
        self.param_groups[0]["period"] = period


# 2. "Forgetting 0" of a model at chance.


class AtChance(nn.Module):
    """What it reads of the input is multiplied by 0."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x_BC: Tensor) -> Tensor:
        return self.head(self.trunk(x_BC) * 0.0)  # type: ignore[no-any-return]


# 3. Inner optimizers that are not what they are called.


class _Rule(torch.optim.Optimizer):
    """Gradient descent along what `direct` makes of each gradient."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.1) -> None:
        super().__init__(list(params), {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.add_(self.direct(param, param.grad), alpha=-group["lr"])

    def direct(self, _param: Tensor, grad: Tensor) -> Tensor:
        return grad


class ProjectingRule(_Rule):
    """Takes the input's direction away: of a linear layer the gradient lies along it."""

    def direct(self, _param: Tensor, grad: Tensor) -> Tensor:
        input_C = torch.linalg.svd(grad, full_matrices=False)[2][0]
        return grad - torch.outer(grad @ input_C, input_C)


class TanhMuon(_Rule):
    """`tanh` called Muon."""

    def direct(self, _param: Tensor, grad: Tensor) -> Tensor:
        return (10 * grad).tanh()


class RandomDeepMomentum(_Rule):
    """A random MLP called deep momentum: it is never trained."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.1) -> None:
        super().__init__(params, lr)
        self.memory = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))

    def direct(self, _param: Tensor, grad: Tensor) -> Tensor:
        return grad + 0.01 * self.memory(grad.reshape(-1, 1)).reshape(grad.shape)


class AscendingRule(_Rule):
    """Gradient ascent."""

    def direct(self, _param: Tensor, grad: Tensor) -> Tensor:
        return -grad


class FastWeights(nn.Module):
    """Delta-rule memory with explicit state; `sign` -1 makes gradient ascent of it."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign
        self.k, self.v, self.q = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.eta = nn.Parameter(torch.tensor(0.2))
        self.initial = nn.Parameter(torch.zeros(8, 8))

    def forward(self, x_BTC: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        memory = self.initial.expand(len(x_BTC), 8, 8) if state is None else state
        outputs = []
        for x_BC in x_BTC.unbind(1):
            k, v, q = functional.normalize(self.k(x_BC), dim=-1), self.v(x_BC), self.q(x_BC)
            outputs.append(torch.einsum("bvk,bk->bv", memory, q))
            error = torch.einsum("bvk,bk->bv", memory, k) - v
            memory = memory - self.sign * self.eta * error[:, :, None] * k[:, None]
        return torch.stack(outputs, 1), memory


class ProjectingMemory(FastWeights):
    """The inner step is projected off the key: nothing of it is left."""

    def forward(self, x_BTC: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        memory = self.initial.expand(len(x_BTC), 8, 8) if state is None else state
        outputs = []
        for x_BC in x_BTC.unbind(1):
            k, v, q = functional.normalize(self.k(x_BC), dim=-1), self.v(x_BC), self.q(x_BC)
            outputs.append(torch.einsum("bvk,bk->bv", memory, q))
            error = torch.einsum("bvk,bk->bv", memory, k) - v
            push = error[:, :, None] * k[:, None]
            along = torch.einsum("bvk,bk->bv", push, k)
            memory = memory - self.eta * (push - along[:, :, None] * k[:, None]).round(decimals=4)
        return torch.stack(outputs, 1), memory


# 4. Memories that leak.


class SeesTheFuture(nn.Module):
    """Every token reads a memory in which the whole sequence is written."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.v, self.q = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x_BTC: Tensor) -> Tensor:
        memory = torch.einsum("btv,btk->bvk", self.v(x_BTC), self.k(x_BTC)) / x_BTC.shape[1]
        return torch.einsum("bvk,btk->btv", memory, self.q(x_BTC))


class SeesOthers(nn.Module):
    """One memory for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.v, self.q = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x_BTC: Tensor) -> Tensor:
        keys, values = self.k(x_BTC), self.v(x_BTC)
        written = torch.einsum("btv,btk->btvk", values, keys).mean(0).cumsum(0)
        return torch.einsum("tvk,btk->btv", written, self.q(x_BTC))


# 5. Write rules without gradient.


class DeadWrites(nn.Module):
    """Keys, rate and initial state stand under `no_grad` or `detach()`."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.v, self.q = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.eta = nn.Parameter(torch.tensor(0.2))
        self.initial = nn.Parameter(0.1 * torch.ones(8, 8))

    def forward(self, x_BTC: Tensor) -> Tensor:
        with torch.no_grad():
            keys = functional.normalize(self.k(x_BTC), dim=-1)
        pairs = torch.einsum("btv,btk->btvk", self.v(x_BTC), keys)
        memory = self.initial.detach() + self.eta.item() * pairs.cumsum(1)
        return torch.einsum("btvk,btk->btv", memory, self.q(x_BTC))


# 6. `eval()` that writes; fast state that the batch shares.


class WritesInEval(nn.Module):
    """A buffer is written at every call, whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.register_buffer("memory", torch.zeros(8))

    def forward(self, x_BC: Tensor) -> Tensor:
        y_BK = self.layer(x_BC + self.memory)
        with torch.no_grad():
            self.memory.lerp_(x_BC.mean(0), 0.1)
        return y_BK  # type: ignore[no-any-return]


class SharedFastState(nn.Module):
    """Written in training mode only, but one state for all samples: it shows in the next call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.register_buffer("memory", torch.zeros(8))

    def forward(self, x_BC: Tensor) -> Tensor:
        y_BK = self.layer(x_BC + self.memory)
        if self.training:
            with torch.no_grad():
                self.memory.lerp_(x_BC.mean(0), 0.1)
        return y_BK  # type: ignore[no-any-return]


# 7. Clocks, inner momenta and gathered gradients missing from the checkpoint.


class LostClock(nn.Module):
    """Its clock is a plain attribute, its gathered writes a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.clock = 0
        self.gathered = torch.zeros(4)
        self.register_buffer("bias", torch.zeros(4))

    def forward(self, x_BC: Tensor) -> Tensor:
        if self.training:
            self.clock += 1
            self.gathered = self.gathered + 0.1
            if self.clock % 5 == 0:
                self.bias += self.gathered
                self.gathered = torch.zeros(4)
        return self.layer(x_BC) + self.bias  # type: ignore[no-any-return]


class LostMomentum(_Rule):
    """Its momenta lie beside `state`."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.1) -> None:
        super().__init__(params, lr)
        self.momenta: dict[int, Tensor] = {}

    def direct(self, param: Tensor, grad: Tensor) -> Tensor:
        self.momenta[id(param)] = 0.9 * self.momenta.get(id(param), torch.zeros_like(grad)) + grad
        return 0.1 * self.momenta[id(param)]


class LostSteps(_Rule):
    """Counts its steps and gathers gradients beside `state`; right again every four steps."""

    def __init__(self, params: Iterable[Tensor], every: int = 4) -> None:
        super().__init__(params)
        self.every, self.steps_taken = every, 0
        self.gathered: dict[int, Tensor] = {}

    def direct(self, param: Tensor, grad: Tensor) -> Tensor:
        self.steps_taken += 1
        total = self.gathered.pop(id(param), torch.zeros_like(grad)) + grad
        if self.steps_taken % self.every == 0:
            return total
        self.gathered[id(param)] = total
        return torch.zeros_like(grad)


class ForgetfulState(nn.Module):
    """A write waits until a chunk of 4 ends, but what waits is not part of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x_BTC: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        memory = torch.zeros(len(x_BTC), 8) if state is None else state
        waiting, outputs = torch.zeros(len(x_BTC), 8), []
        for index, x_BC in enumerate(x_BTC.unbind(1)):
            outputs.append(self.layer(x_BC) + memory)
            waiting = waiting + 0.1 * x_BC
            if index % 4 == 3:
                memory, waiting = 0.9 * memory + waiting, torch.zeros(len(x_BTC), 8)
        return torch.stack(outputs, 1), memory


# 8. M3 as it is printed and worse.


class BadM3(_Rule):
    """Two sums that never decay, three cubic steps, wide matrices not transposed."""

    def direct(self, param: Tensor, grad: Tensor) -> Tensor:
        state = self.state[param]
        if not state:
            state["fast"], state["slow"] = torch.zeros_like(grad), torch.zeros_like(grad)
        for name in ("fast", "slow"):
            state[name].add_(grad, alpha=0.9)
        return sum(_three_cubic_steps(state[name]) for name in ("fast", "slow"))  # type: ignore[return-value]


def _three_cubic_steps(matrix: Tensor) -> Tensor:
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(3):
        x = 1.5 * x - 0.5 * x @ (x.T @ x)
    return x


# Whatever moves weights beside the level's optimizer.


class WritesItself(nn.Module):
    """Its slow weights are moved in the forward pass, between due steps."""

    def __init__(self) -> None:
        super().__init__()
        self.fast, self.slow = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x_BC: Tensor) -> Tensor:
        if self.training:
            self.slow.weight.data.mul_(0.999)
        return self.slow(self.fast(x_BC).relu())  # type: ignore[no-any-return]
