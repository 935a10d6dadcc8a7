"""A person's own low-rank adapter over the head of the given model, trained step by step.

Letters: N examples, H inputs of the head, K classes, r the rank.
"""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.params import digest_tensors
from nestling.core.seeds import make_generator
from nestling.levels import LevelReading

RANK = 4
# Of AdamW; picked on persons of other slants and turns than those of the benchmark.
RATE, BETA_1, BETA_2, EPSILON, WEIGHT_DECAY = 0.01, 0.9, 0.99, 1e-8, 0.01
_NAMES = ("A", "B", "first_A", "first_B", "second_A", "second_B")


class OwnAdapter:
    """Low-rank adapter on a head: logits = given logits + B A h / rms(h)  [Hu 2022, Sec. 4.1].

    B starts at zero, so that it answers as the given model. Every batch is one step of AdamW
    [Loshchilov & Hutter 2019, Alg. 2] down the cross entropy of its own logits.

    Differs: h is divided by the root of its mean square, so that one rate fits any model.

    Args:
        num_inputs: H.
        num_outputs: K to begin with.

    >>> adapter = OwnAdapter(3, 2)
    >>> given = torch.zeros(1, 2)
    >>> for _ in range(50):
    ...     adapter.learn(torch.ones(1, 3), given, torch.tensor([1]))
    >>> bool(adapter.answer(torch.ones(1, 3), given)[0, 1] > 0.9)
    True
    """

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        narrow = torch.float32
        bound = num_inputs**-0.5
        drawn = torch.rand(
            RANK, num_inputs, generator=make_generator(0, "personal"), dtype=narrow, device="cpu"
        )
        self.A = (2.0 * drawn - 1.0) * bound
        self.B = torch.zeros(num_outputs, RANK, dtype=narrow, device="cpu")
        # Running means of gradients and of their squares.
        self.first_A, self.second_A = torch.zeros_like(self.A), torch.zeros_like(self.A)
        self.first_B, self.second_B = torch.zeros_like(self.B), torch.zeros_like(self.B)
        self.num_steps = 0
        self.seconds = 0.0

    def answer(self, h_NH: Tensor, given_NK: Tensor) -> Tensor:
        """Probabilities (N, K), float64, of K classes or as many as are given.

        Args:
            h_NH: (N, H) inputs of the head.
            given_NK: (N, K') logits of the given model.
        """
        logits_NK, _ = self._run(h_NH, given_NK)
        return logits_NK.double().softmax(dim=1)

    def learn(self, h_NH: Tensor, given_NK: Tensor, label_N: Tensor) -> None:
        """Take one step on examples; arguments as in `answer`, and labels (N,)."""
        started = time.perf_counter()
        self.grow(int(label_N.max()) + 1)
        logits_NK, z_NH = self._run(h_NH, given_NK)
        wrong_NK = logits_NK.softmax(dim=1)
        wrong_NK[torch.arange(len(label_N), device="cpu"), label_N] -= 1.0
        wrong_NK /= len(label_N)
        wrong_NK = wrong_NK[:, : len(self.B)]
        slope_B, slope_A = wrong_NK.T @ (z_NH @ self.A.T), (wrong_NK @ self.B).T @ z_NH
        self.num_steps += 1
        _step(self.B, slope_B, self.first_B, self.second_B, self.num_steps)
        _step(self.A, slope_A, self.first_A, self.second_A, self.num_steps)
        self.seconds += time.perf_counter() - started

    def grow(self, num_outputs: int) -> None:
        """Make room for so many classes."""
        if (extra := num_outputs - len(self.B)) > 0:
            self.B, self.first_B, self.second_B = (
                nn.functional.pad(one, (0, 0, 0, extra))
                for one in (self.B, self.first_B, self.second_B)
            )

    def _run(self, h_NH: Tensor, given_NK: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and h / rms(h)."""
        h_NH, given_NK = h_NH.float(), given_NK.float()
        z_NH = h_NH * h_NH.square().mean(dim=1, keepdim=True).add(1e-12).rsqrt()
        added_NK = (z_NH @ self.A.T) @ self.B.T
        if (extra := added_NK.shape[1] - given_NK.shape[1]) > 0:
            # Of a class that it does not know the given model says what it says of the least.
            least_N1 = given_NK.amin(dim=1, keepdim=True)
            given_NK = torch.cat((given_NK, least_N1.expand(-1, extra)), dim=1)
        elif extra < 0:
            added_NK = nn.functional.pad(added_NK, (0, -extra))
        return given_NK + added_NK, z_NH

    def read(self) -> LevelReading:
        """How it stands: a step per batch."""
        return LevelReading(
            level="adapter",
            kind="gradient",
            num_parameters=self.A.numel() + self.B.numel(),
            share=0.0,
            period=1,
            age=0,
            num_steps=self.num_steps,
            num_updates=self.num_steps,
            lr=RATE,
            seconds=self.seconds,
        )

    def tensors(self) -> dict[str, Tensor]:
        """A, B and the optimizer's moments; copies."""
        return {name: getattr(self, name).clone() for name in _NAMES}

    def digest(self) -> str:
        """The sha256 of its tensors."""
        return digest_tensors(self.tensors())

    def state_dict(self) -> dict[str, Any]:
        """Its tensors and steps."""
        return {**self.tensors(), "num_steps": self.num_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; ValueError if a tensor has another size."""
        num_outputs, num_inputs = len(state["B"]), self.A.shape[1]
        for name in _NAMES:
            wanted = (RANK, num_inputs) if name.endswith("A") else (num_outputs, RANK)
            if state[name].shape != wanted:
                raise ValueError(f"{name} of shape {tuple(state[name].shape)}, not {wanted}")
        for name in _NAMES:
            setattr(self, name, state[name].clone())
        self.num_steps = state["num_steps"]


def _step(value: Tensor, slope: Tensor, first: Tensor, second: Tensor, num_steps: int) -> None:
    """One step of AdamW, in place."""
    first.lerp_(slope, 1.0 - BETA_1)
    second.mul_(BETA_2).addcmul_(slope, slope, value=1.0 - BETA_2)
    scale = (second / (1.0 - BETA_2**num_steps)).sqrt_().add_(EPSILON)
    value.mul_(1.0 - RATE * WEIGHT_DECAY)
    value.addcdiv_(first, scale, value=-RATE / (1.0 - BETA_1**num_steps))
