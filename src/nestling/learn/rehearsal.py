"""Replay with stored outputs: a small store of examples that are learned again."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch, read_output
from nestling.memory import ReservoirReplay

Loss = Callable[[Tensor, Tensor], Tensor]


class Rehearsal:
    """Dark experience replay over a reservoir.

    beta * loss(f(x'), y') + alpha * ||f(x') - z'||^2 / K   [Buzzega 2020, eq. 6 (DER++)]

    with x', y', z' drawn from the store and z' the output when x' was stored.
    Differs: one draw serves both terms, which saves a forward pass.

    Args:
        capacity: examples that may be stored.
        loss: (output, target) -> scalar ().
        seed: of what is stored and drawn.
        num_drawn: examples drawn per step.
        alpha: weight of the stored outputs.
        beta: weight of the stored labels.
    """

    def __init__(
        self,
        capacity: int,
        loss: Loss,
        *,
        seed: int,
        num_drawn: int = 32,
        alpha: float = 0.2,
        beta: float = 1.0,
    ) -> None:
        self.store = ReservoirReplay(capacity, seed=seed)
        self.loss = loss
        self.num_drawn = num_drawn
        self.alpha = alpha
        self.beta = beta

    def compute_loss(self, model: nn.Module, device: torch.device) -> Tensor:
        """The replay loss, scalar (); the store must not be empty."""
        drawn = self.draw(device)
        outputs = drawn.pop("output")
        batch = unpack(drawn)
        assert batch.target is not None
        output = read_output(batch.call(model))
        loss = self.beta * self.loss(output, batch.target)
        outputs = _widen(outputs, output.shape)
        known = ~outputs.isnan()  # a head that grew had no output for some classes before
        change = torch.where(known, output - outputs.nan_to_num(), 0.0)
        return loss + self.alpha * change.square().sum() / known.sum().clamp_min(1)

    def draw(self, device: torch.device) -> dict[str, Tensor]:
        """Stored examples by name: inputs, target and output."""
        drawn = self.store.sample(self.num_drawn)
        return {name: value.to(device) for name, value in drawn.items()}

    def check(self, batch: Batch) -> None:
        """Raise ShapeMismatch if a batch cannot be stored beside those that are."""
        stored = self.store.store.read_shape("output")
        if stored is not None:
            self.store.store.check({**pack(batch), "output": torch.zeros(batch.size, *stored)})

    def add(self, batch: Batch, output: Tensor) -> None:
        """Offer examples with the outputs that the model gave them."""
        self.store.store.pad("output", output.shape[1:], math.nan)
        self.store.add({**pack(batch), "output": output.detach().float().cpu()})

    def state_dict(self) -> dict[str, object]:
        """What is stored, and the generator."""
        return {"store": self.store.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.store.load_state_dict(state["store"])


def _widen(outputs: Tensor, shape: torch.Size) -> Tensor:
    """`outputs` at the front of NaN of that shape: a head that has grown has more of them."""
    if outputs.shape == shape:
        return outputs
    wider = outputs.new_full(shape, math.nan)
    wider[tuple(slice(0, length) for length in outputs.shape)] = outputs
    return wider


def pack(batch: Batch) -> dict[str, Tensor]:
    """A batch as named tensors, on the CPU."""
    named = {f"input {index}": value for index, value in enumerate(batch.inputs)}
    named |= {f"keyword {name}": value for name, value in batch.keywords.items()}
    if batch.target is not None:
        named["y"] = batch.target
    return {name: value.detach().cpu() for name, value in named.items()}


def unpack(named: Mapping[str, Tensor]) -> Batch:
    """The batch that `pack` took apart.

    >>> unpack(pack(Batch((torch.ones(1),), target=torch.zeros(1)))).inputs
    (tensor([1.]),)
    """
    num_inputs = sum(name.startswith("input ") for name in named)
    keywords = {
        name.removeprefix("keyword "): value
        for name, value in named.items()
        if name.startswith("keyword ")
    }
    inputs = tuple(named[f"input {index}"] for index in range(num_inputs))
    return Batch(inputs, keywords, named.get("y"))
