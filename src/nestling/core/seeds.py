"""Random numbers come from generators that are passed as arguments, never from global state."""

import torch
from torch import Tensor


def make_generator(seed: int, *salts: str | int) -> torch.Generator:
    """A CPU generator for one purpose of one run.

    Different salts give independent streams, so that adding one user of randomness
    does not change what the others draw.

    Args:
        seed: the run's seed, any integer.
        salts: what the stream is for, e.g. "replay" or a level's name.

    >>> a, b = make_generator(0, "replay"), make_generator(0, "copy")
    >>> bool(torch.rand(1, generator=a) == torch.rand(1, generator=b))
    False
    """
    import hashlib

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
