"""What all rehearsal shares: a buffer that is fed after each step, and draws from it.

Letters: N examples of a batch, M replayed ones, K classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.batches import IGNORE_INDEX, Batch, read_output
from nestling.core.errors import DataError, SettingError
from nestling.core.seeds import export_generator, import_generator, make_generator
from nestling.memory.checks import check_saved
from nestling.memory.replay_store import BalancedReplay, ReservoirReplay
from nestling.memory.tensor_slots import Columns
from nestling.protect.columns import pack_batch, require_target, unpack_batch
from nestling.protect.method import Retention


class ReplayMethod(Retention):
    """A buffer of examples and the generator of what is replayed; the losses are its users'.

    Attributes:
        store: the buffer; its columns are those of `pack_batch`.

    Args:
        buffer_size: most examples that are kept, 1 or more.
        batch_size: M, replayed at each step, 1 or more; fewer while fewer are kept.
        balanced: as equal a number of each class as can be, instead of a uniform sample.
        seed: of what is kept and of what is replayed.

    Raises:
        SettingError: a setting outside its range.
    """

    def __init__(
        self, buffer_size: int, batch_size: int, *, balanced: bool = False, seed: int = 0
    ) -> None:
        self.buffer_size = check_count("buffer_size", buffer_size, "without one, no rehearsal")
        self.batch_size = check_count("batch_size", batch_size)
        self.balanced = balanced
        self.seed = seed
        kind = BalancedReplay if balanced else ReservoirReplay
        self.store: BalancedReplay | ReservoirReplay = kind(buffer_size, seed=seed)
        self._generator = make_generator(seed, "rehearsal draws")

    def observe(self, model: nn.Module, batch: Batch, output: Tensor) -> None:
        """Offer the batch to the buffer; targets that the loss ignores are left out.

        Raises:
            ShapeMismatch: examples of another shape or dtype than those that are kept.
        """
        self.store.add(drop_ignored(self._read_columns(batch, output)))

    def list_generators(self) -> list[torch.Generator]:
        """Of what is kept and of what is replayed."""
        return list(dict.fromkeys([find_generator(self.store), self._generator]))

    def count_bytes(self) -> int:
        """Of the examples that are kept."""
        return self.store.num_bytes

    def state_dict(self) -> dict[str, Any]:
        """The settings, the buffer and the generators."""
        return {
            "config": self._describe(),
            "buffer": self.store.state_dict(),
            "generator": export_generator(self._generator),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._describe(), "retention method")
        self.store.load_state_dict(state["buffer"])
        import_generator(self._generator, state["generator"])

    def check(self, batch: Batch, output: Tensor | None = None) -> None:
        """Refuse, before the step, a batch that could not be kept after it; nothing is changed.

        Args:
            output: (N, ...) that the model gave for it; None: one that fits.

        Raises:
            DataError: no target, or a balanced buffer and targets that are not classes.
            ShapeMismatch: examples of another shape or dtype than those that are kept.
        """
        if self.balanced:
            require_classes(batch, f"the balanced buffer of {type(self).__name__} sorts")
        require_target(batch)
        self.store.store.check(self._read_columns(batch, output))

    def draw(self, device: torch.device) -> Columns | None:
        """Examples to replay, name -> (at most M, ...); None while nothing is kept."""
        if not len(self.store):
            return None
        columns = self.store.store.sample(self.batch_size, self._generator)
        return {name: column.to(device) for name, column in columns.items()}

    def _read_columns(self, batch: Batch, output: Tensor | None) -> Columns:
        """What is kept of a batch: name -> (N, ...)."""
        return pack_batch(batch)

    def _describe(self) -> dict[str, object]:
        return {
            "kind": type(self).__name__,
            "buffer_size": self.buffer_size,
            "batch_size": self.batch_size,
            "balanced": self.balanced,
            "seed": self.seed,
        }


def answer_kept(model: nn.Module, kept: Mapping[str, Tensor]) -> Tensor:
    """The model's output (M, ...) for examples that were kept."""
    return read_output(unpack_batch(kept).call(model))


def drop_ignored(columns: Columns) -> Columns:
    """The examples of which a target counts, in one position at least; a loss of a replayed batch
    without any would be 0 / 0."""
    y = columns["y"]
    if y.is_floating_point():
        return columns
    counts = y != IGNORE_INDEX
    counts = counts.flatten(1).any(dim=1) if y.ndim > 1 else counts
    if bool(counts.all()):
        return columns
    return {name: column[counts] for name, column in columns.items()}


def find_generator(buffer: BalancedReplay | ReservoirReplay) -> torch.Generator:
    """What a buffer draws from."""
    return buffer.generator if isinstance(buffer, ReservoirReplay) else buffer._generator


def require_classes(batch: Batch, what: str) -> Tensor:
    """The targets; DataError unless they are one class for each example."""
    y = require_target(batch)
    if y.is_floating_point() or y.ndim != 1:
        raise DataError(
            f"{what} classes, and the targets are {y.dtype} of shape {tuple(y.shape)}; "
            "integers (N,) work"
        )
    return y


def check_count(name: str, value: int, why: str = "") -> int:
    """The value; SettingError unless it is a whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        reason = f" ({why})" if why else ""
        raise SettingError(f"{name}={value!r}; a whole number of 1 or more works{reason}, e.g. 200")
    return value


def check_share(name: str, value: float) -> float:
    """The value as a float; SettingError unless it lies in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise SettingError(f"{name}={value}; a number from 0 to 1 works")
    return float(value)
