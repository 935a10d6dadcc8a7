"""Metrics to TensorBoard, where it is installed."""

from pathlib import Path

from nestling.core.errors import MissingExtra
from nestling.levels import LevelReading


class Board:
    """A TensorBoard event file.

    Args:
        folder: where the event file goes.

    Raises:
        MissingExtra: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtra(
                "board needs TensorBoard: pip install 'nestling[tensorboard]'"
            ) from None
        self.writer = SummaryWriter(str(folder))

    def write(self, name: str, value: float, num_examples: int) -> None:
        """One number at so many examples."""
        self.writer.add_scalar(name, value, num_examples)

    def write_level(self, reading: LevelReading, num_examples: int) -> None:
        """A level's clock and movement."""
        self.write(f"{reading.level}/num_updates", reading.num_updates, num_examples)
        self.write(f"{reading.level}/relative_change", reading.relative_change, num_examples)
        self.write(f"{reading.level}/gate", reading.factor, num_examples)
        self.writer.flush()
