"""Moving averages of the weights that answer instead of them."""

from typing import Any

from torch import Tensor, nn

from nestling.core.batches import Batch, Loss, default_loss
from nestling.memory.checks import check_saved
from nestling.protect.method import Retention
from nestling.protect.replay.answering_copy import ModelCopy
from nestling.protect.replay.buffer import check_share
from nestling.protect.replay.er import ER


def ramp_decay(num_steps: int, decay: float) -> float:
    """Warm-up of an exponential moving average: a small decay at first, so the start fades.

    min(1 - 1 / (t + 1), decay): the plain mean of the start and all steps, until that is longer
    [Tarvainen & Valpola 2017; the code of Arani 2022]

    Args:
        num_steps: t >= 1, steps so far.
        decay: in [0, 1].

    >>> ramp_decay(1, 0.999), ramp_decay(10**6, 0.999)
    (0.5, 0.999)
    """
    return min(1.0 - 1.0 / (num_steps + 1), decay)


class EMAReader(Retention):
    """Exponential moving average (EMA) of the weights that answers; learning stays as it is.

    a <- min(1 - 1 / (t + 1), decay) a + (1 - ...) theta after step t   [Soutif-Cormerais 2023]

    It combines with all others, e.g. `[EWC(100.0), EMAReader(0.99)]`. Where a head grew, the new
    rows of the mean start as those of the model.

    Args:
        decay: in [0, 1]; 0.99 remembers about the last 100 steps.

    Raises:
        SettingError: a decay outside its range.

    Differs: the buffers (a batch norm's statistics) are averaged too, and integer ones copied.

    >>> reader, model = EMAReader(0.99), nn.Linear(1, 1)
    >>> reader.find_reader() is None  # nothing was learned yet
    True
    """

    def __init__(self, decay: float) -> None:
        self.decay = check_share("decay", decay)
        self._num_steps = 0
        self._mean = ModelCopy()

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """None; the weights before the first step are where the mean starts."""
        self._mean.follow(model)
        return None

    def observe(self, model: nn.Module, batch: Batch, output: Tensor) -> None:
        """Move the mean."""
        self._num_steps += 1
        self._mean.average(model, ramp_decay(self._num_steps, self.decay))

    def find_reader(self) -> nn.Module | None:
        """The mean, in eval mode; None before the first step.

        Raises:
            NotFitted: a state was loaded and no model was there since; see `build_reader`.
        """
        return None if self._mean.is_empty else self._mean.read()

    def build_reader(self, model: nn.Module, loss: Loss = default_loss) -> None:
        """Give loaded weights a module like the model's, to answer before a next step."""
        self._mean.follow(model)

    def count_bytes(self) -> int:
        """Of the mean."""
        return self._mean.count_bytes()

    def state_dict(self) -> dict[str, Any]:
        """The setting, the steps and the mean."""
        return {
            "config": {"kind": "EMAReader", "decay": self.decay},
            "num_steps": self._num_steps,
            "mean": self._mean.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        own = {"kind": "EMAReader", "decay": self.decay}
        check_saved(state["config"], own, "retention method")
        self._mean.load_state_dict(state["mean"])
        self._num_steps = state["num_steps"]


class MeanER(ER):
    """Experience replay whose answers come from a moving average of the weights.

    `ER`'s loss and `EMAReader`'s mean   [Arani 2022, "Mean-ER"]

    Args:
        buffer_size, batch_size, balanced, joint, seed: as in `ER`.
        decay: of the mean, as in `EMAReader`.

    Raises:
        SettingError: a setting outside its range.

    Differs: as `ER` and `EMAReader` do; the mean moves at every step. Give `joint=True` for the
    paper's loss.
    """

    def __init__(
        self,
        buffer_size: int,
        batch_size: int = 10,
        decay: float = 0.999,
        *,
        balanced: bool = False,
        joint: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(buffer_size, batch_size, balanced=balanced, joint=joint, seed=seed)
        self._reader = EMAReader(decay)

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """As `ER`."""
        self._reader.compute_loss(model, batch, output)
        return super().compute_loss(model, batch, output, loss)

    def observe(self, model: nn.Module, batch: Batch, output: Tensor) -> None:
        """Offer the batch to the buffer and move the mean."""
        super().observe(model, batch, output)
        self._reader.observe(model, batch, output)

    def find_reader(self) -> nn.Module | None:
        """As `EMAReader`."""
        return self._reader.find_reader()

    def build_reader(self, model: nn.Module, loss: Loss = default_loss) -> None:
        """As `EMAReader`."""
        self._reader.build_reader(model)

    def count_bytes(self) -> int:
        """Of the examples that are kept and of the mean."""
        return super().count_bytes() + self._reader.count_bytes()

    def state_dict(self) -> dict[str, Any]:
        """The settings, the buffer, the generators and the mean."""
        return {**super().state_dict(), "reader": self._reader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        super().load_state_dict(state)
        self._reader.load_state_dict(state["reader"])

    def _describe(self) -> dict[str, object]:
        return {**super()._describe(), "decay": self._reader.decay}
