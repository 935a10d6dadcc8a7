"""Random numbers come from generators that are passed as arguments, never from global state."""

from collections.abc import Mapping

import torch
from torch import Tensor

from nestling.core.arguments import check_seed


def make_generator(seed: int, *salts: str | int) -> torch.Generator:
    """A CPU generator for one purpose of one run.

    Different salts give independent streams, so that adding one user of randomness
    does not change what the others draw.

    Args:
        seed: the run's seed, any integer.
        salts: what the stream is for, e.g. "replay" or a level's name.

    Raises:
        SettingError: the seed is no whole number.

    >>> a, b = make_generator(0, "replay"), make_generator(0, "copy")
    >>> bool(torch.rand(1, generator=a) == torch.rand(1, generator=b))
    False
    """
    import hashlib

    seed = check_seed(seed)
    digest = hashlib.sha256(repr((seed, *salts)).encode()).digest()
    generator = torch.Generator(device="cpu")
    generator.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return generator


def export_generator(generator: torch.Generator) -> Tensor:
    """The generator's whole state as a uint8 tensor, to be saved."""
    return generator.get_state()


def import_generator(generator: torch.Generator, state: Tensor) -> None:
    """Put a generator back into a state that `export_generator` gave."""
    generator.set_state(state.to(device="cpu", dtype=torch.uint8))


def export_torch_generators(device: torch.device) -> dict[str, Tensor]:
    """States of torch's own generators, from which dropout draws.

    Args:
        device: whose generator is wanted beside the CPU's.

    Returns: "cpu", and "cuda" or "mps" for such a device -> uint8 tensor.
    """
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def import_torch_generators(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Put back what `export_torch_generators` gave, as far as this device has it."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
