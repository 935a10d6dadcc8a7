"""Running statistics that stand still in a step: of levels that do not move, of frozen modules."""

from collections.abc import Iterable

from torch import nn

from nestling.levels.assign import find_frozen_modules
from nestling.levels.gradient import GradientLevel


class StandingStill:
    """Modules that are in evaluation mode for one step, so that their statistics stay.

    Args:
        model: unwrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._frozen = find_frozen_modules(model)
        self._held: list[nn.Module] = []
        self.is_prepared = False

    def prepare(self, levels: Iterable[GradientLevel], step: int) -> None:
        """Before the forward pass of optimizer step `step`."""
        self.is_prepared = True
        for level in levels:
            if level.buffers and level.is_frozen(step):
                self._hold(module for module, _ in level.buffers.values())
        self._hold(self._frozen)

    def _hold(self, modules: Iterable[nn.Module]) -> None:
        for module in modules:
            if module.training:
                module.training = False
                self._held.append(module)

    def let_go(self) -> None:
        """After the step, taken or not."""
        for module in self._held:
            module.training = True
        self._held.clear()
        self.is_prepared = False


def remember_buffers(levels: Iterable[GradientLevel], step: int) -> None:
    """What the running statistics of levels must stay if those are frozen at step `step`."""
    for level in levels:
        if level.buffers and level.spec.freeze is not None:
            level.remember_buffers(step)
