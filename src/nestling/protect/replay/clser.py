"""CLS-ER: replayed examples are held to slow averages of the weights.

Letters: N examples of a batch, M replayed ones, K classes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.batches import Batch, Loss, default_loss
from nestling.core.seeds import export_generator, import_generator, make_generator
from nestling.protect.penalties.distillation import list_rows, require_labels
from nestling.protect.penalties.quadratic import check_strength
from nestling.protect.replay.answering_copy import ModelCopy
from nestling.protect.replay.buffer import answer_kept, check_share
from nestling.protect.replay.er import ER
from nestling.protect.replay.weight_averages import ramp_decay


def choose_answers(stable: Tensor, plastic: Tensor, y: Tensor) -> Tensor:
    """For each example the teacher's logits that give its class the higher probability (CLS-ER).

    z_i = stable_i if softmax(stable_i)[y_i] > softmax(plastic_i)[y_i] else plastic_i
    [Arani 2022, Algorithm 1]

    Args:
        stable, plastic: logits, (M, K).
        y: (M,) classes.

    Returns: (M, K).

    >>> two = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    >>> choose_answers(two, torch.zeros(2, 2), torch.tensor([0, 1]))
    tensor([[2., 0.],
            [0., 0.]])
    """
    better = (stable.softmax(1) - plastic.softmax(1)).gather(1, y[:, None]) > 0.0
    return torch.where(better, stable, plastic)


class CLSER(ER):
    """CLS-ER: replay with a fast and a slow moving average of the weights as teachers.

    L = CE(f(x), y; f(x_m), y_m) + weight ||f(x_m) - z||^2   [Arani 2022, Algorithm 1]

    with z of `choose_answers` among a plastic and a stable running mean of the weights. After step
    t each moves with its own probability, by `ramp_decay` of its own decay. The stable one answers.

    Args:
        buffer_size: most examples that are kept, 1 or more.
        batch_size: M >= 1, replayed at each step.
        plastic_decay, stable_decay: in [0, 1]; the stable one's is the longer memory.
        plastic_prob, stable_prob: in [0, 1], with which a mean moves at a step.
        weight: >= 0, of the distance, a mean over examples and classes.
        balanced, seed: as in `ER`.
        joint: as in `ER`; on, since the paper's rates and weights are for it.

    Raises:
        SettingError: a setting outside its range.

    Differs: the means answer in eval mode with averaged buffers, and what is replayed runs through
    the model once; the paper's code runs them in training mode, and the model twice. Both are
    the same without batch norm and dropout.
    """

    def __init__(
        self,
        buffer_size: int,
        batch_size: int = 10,
        plastic_decay: float = 0.999,
        plastic_prob: float = 0.9,
        stable_decay: float = 0.999,
        stable_prob: float = 0.7,
        weight: float = 0.1,
        *,
        balanced: bool = False,
        joint: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(buffer_size, batch_size, balanced=balanced, joint=joint, seed=seed)
        self.plastic_decay = check_share("plastic_decay", plastic_decay)
        self.plastic_prob = check_share("plastic_prob", plastic_prob)
        self.stable_decay = check_share("stable_decay", stable_decay)
        self.stable_prob = check_share("stable_prob", stable_prob)
        self.weight = check_strength("weight", weight)
        self._plastic, self._stable = ModelCopy(), ModelCopy()
        self._num_steps = 0
        self._moves = make_generator(seed, "clser moves")

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """The loss of what is replayed and its distance to the means; None while nothing is kept.

        Raises:
            DataError: targets that are not classes.
            ShapeMismatch: examples of another shape or dtype than those that are kept.
        """
        require_labels(batch, "CLSER replays")
        self.check(batch, output)
        self.build_reader(model)
        kept = self.draw(output.device)
        if kept is None:
            return None
        replayed, y = answer_kept(model, kept), kept["y"]
        with torch.no_grad():
            stable, plastic = (
                list_rows(answer_kept(mean.read(), kept), y)
                for mean in (self._stable, self._plastic)
            )
            # Positions without a label take the answer for the first class, as good as any.
            answers = choose_answers(stable, plastic, y.flatten().clamp(min=0))
        again = self._weigh(loss(replayed, y), len(y), batch, output, loss)
        return again + self.weight * functional.mse_loss(list_rows(replayed, y), answers)

    def observe(self, model: nn.Module, batch: Batch, output: Tensor) -> None:
        """Offer the batch to the buffer and move the means, each with its probability."""
        super().observe(model, batch, output)
        self._num_steps += 1
        plastic_draw, stable_draw = torch.rand(
            2, generator=self._moves, dtype=torch.float32, device="cpu"
        ).tolist()
        if plastic_draw < self.plastic_prob:
            self._plastic.average(model, ramp_decay(self._num_steps, self.plastic_decay))
        if stable_draw < self.stable_prob:
            self._stable.average(model, ramp_decay(self._num_steps, self.stable_decay))

    def find_reader(self) -> nn.Module | None:
        """The stable mean, in eval mode; None before the first step.

        Raises:
            NotFitted: a state was loaded and no model was there since; see `build_reader`.
        """
        return None if self._stable.is_empty else self._stable.read()

    def build_reader(self, model: nn.Module, loss: Loss = default_loss) -> None:
        """Give loaded weights a module like the model's, to answer before a next step."""
        self._plastic.follow(model)
        self._stable.follow(model)

    def list_generators(self) -> list[torch.Generator]:
        """Of what is kept, of what is replayed and of which mean moves."""
        return [*super().list_generators(), self._moves]

    def count_bytes(self) -> int:
        """Of the examples that are kept and of both means."""
        return super().count_bytes() + self._plastic.count_bytes() + self._stable.count_bytes()

    def state_dict(self) -> dict[str, Any]:
        """The settings, the buffer, the generators, the steps and both means."""
        return {
            **super().state_dict(),
            "num_steps": self._num_steps,
            "plastic": self._plastic.state_dict(),
            "stable": self._stable.state_dict(),
            "moves": export_generator(self._moves),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        super().load_state_dict(state)
        self._plastic.load_state_dict(state["plastic"])
        self._stable.load_state_dict(state["stable"])
        self._num_steps = state["num_steps"]
        import_generator(self._moves, state["moves"])

    def _describe(self) -> dict[str, object]:
        return {
            **super()._describe(),
            "plastic_decay": self.plastic_decay,
            "plastic_prob": self.plastic_prob,
            "stable_decay": self.stable_decay,
            "stable_prob": self.stable_prob,
            "weight": self.weight,
        }
