"""Metrics to whoever takes numbers by name: TensorBoard, or anything with its `add_scalar`."""

from typing import Protocol

from nestling.levels import LevelReading


class Writer(Protocol):
    """Takes one number at a time, as `torch.utils.tensorboard.SummaryWriter` does."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Note a number under a name, after so many examples."""


def write_reading(writer: Writer, reading: LevelReading, num_examples: int) -> None:
    """A level's clock and movement."""
    for name, value in (
        ("num_updates", reading.num_updates),
        ("relative_change", reading.relative_change),
        ("gate", reading.factor),
    ):
        writer.add_scalar(f"{reading.level}/{name}", value, num_examples)
