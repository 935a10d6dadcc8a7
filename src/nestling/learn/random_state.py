"""Where a learner's random numbers come from, and how a step that fails leaves them untouched."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from nestling.core.seeds import (
    export_generator,
    export_torch_generators,
    import_generator,
    import_torch_generators,
    make_generator,
)


class RandomState:
    """A learner's own generator, and torch's, from which dropout draws.

    Args:
        seed: of the learner.
        device: whose generator is kept beside the CPU's.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.own = make_generator(seed, "head")

    def mark(self, generators: Sequence[torch.Generator]) -> Callable[[], None]:
        """Remember where generators stand, torch's own included; gives what puts them back."""
        states = [export_generator(generator) for generator in generators]
        torch_states = export_torch_generators(self.device)

        def put_back() -> None:
            for generator, state in zip(generators, states, strict=True):
                import_generator(generator, state)
            import_torch_generators(self.device, torch_states)

        return put_back

    def state_dict(self) -> dict[str, Any]:
        """Where both stand."""
        return {"own": export_generator(self.own), "torch": export_torch_generators(self.device)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        import_generator(self.own, state["own"])
        import_torch_generators(self.device, state["torch"])
