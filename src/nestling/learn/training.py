"""The gradient levels at work: one training step of a model, in its own modes."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from nestling.core.batches import Batch, Loss
from nestling.core.modes import eval_modules, has_modes
from nestling.levels import NestedOptimizer
from nestling.protect import Retention, TakenStep, take_step


class Training:
    """What a training step needs besides a batch.

    Args:
        model: trained in place.
        optimizer: of its levels; None if nothing learns by gradient.
        loss: (output, target) -> scalar ().
        methods: what protects, in order.
        precision: "bf16" for autocast in the forward pass.
        device: of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: NestedOptimizer | None,
        loss: Loss,
        methods: Sequence[Retention],
        precision: Literal["bf16"] | None,
        device: torch.device,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.methods = tuple(methods)
        self.precision = precision
        self.device = device
        modules = list(model.modules())
        # Whether a forward pass of training gives something else than one of evaluation.
        self.has_modes = precision is not None or any(map(has_modes, modules))
        self._norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._NormBase)]
        self._buffers = list(model.buffers())

    def step(self, batch: Batch, *, is_new: bool) -> TakenStep | None:
        """Learn a batch by one step; None if nothing learns by gradient.

        Args:
            batch: N examples with a target.
            is_new: False for a batch that was learned before, in an earlier epoch.
        """
        if self.optimizer is None:
            return None
        if not self.model.training:
            self.model.train()
        autocast = None
        if self.precision is not None:
            autocast = torch.autocast(self.device.type, dtype=torch.bfloat16)
        # One example has no statistics of its own: the running ones are used, and stand still.
        with eval_modules(self._norms if batch.size == 1 else ()):
            return take_step(
                self.model,
                self.optimizer,
                batch,
                self.methods,
                loss=self.loss,
                precision=autocast,
                buffers=self._buffers,
                is_new=is_new,
            )
