"""A torch module as one more expert of a stream: it answers, and learns at every event."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nestling.core.errors import ForeignSnapshot, ShapeMismatch
from nestling.core.modes import eval_mode
from nestling.core.params import digest_tensors
from nestling.optim import OptimizerSpec
from nestling.optim.inner_state import export_inner, import_inner

Floats = NDArray[np.float64]
# What it says of a class for which it has no output.
LEAST = 1e-3


class ModelExpert:
    """Have a torch module answer events, and learn each by one step of its optimizer.

    It is given running z-scores of the numeric columns and one-hots of the categories, as many as
    there are when it answers first; what comes later it does not see.

    Args:
        model: from (B, D) to (B, outputs): logits of classes in the order in which they appear,
            or one value in running deviations; learned in place.
        optimizer: of its parameters.
        classifies: whether targets are classes.
    """

    def __init__(self, model: nn.Module, optimizer: OptimizerSpec, *, classifies: bool) -> None:
        self.model, self._classifies = model, classifies
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._optimizer = optimizer.build(list(self._named.values()))
        self.num_inputs: int | None = None
        self.num_updates = 0

    @property
    def lr(self) -> float:
        """Learning rate of its optimizer."""
        return float(self._optimizer.param_groups[0]["lr"])

    @lr.setter
    def lr(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def _look(self, view_V: Floats, num_inputs: int) -> Tensor:
        if self.num_inputs is None:
            self.num_inputs = num_inputs
        like = next(iter(self._named.values()), torch.zeros(1, device="cpu", dtype=torch.float32))
        return torch.from_numpy(view_V[: self.num_inputs]).to(like)[None]

    def _run(self, x_1D: Tensor) -> Tensor:
        try:
            found_1K: Tensor = self.model(x_1D)
        except RuntimeError as error:
            raise ShapeMismatch(
                f"the model cannot take {x_1D.shape[1]} inputs (numeric columns, and one for each "
                f"category): {error}"
            ) from error
        return found_1K

    def answer(self, view_V: Floats, num_inputs: int, answer_K: Floats) -> None:
        """Write probabilities of the classes, or the value.

        Args:
            view_V: (V,) view of the event.
            num_inputs: D, its first part.
            answer_K: written.
        """
        with eval_mode(self.model), torch.no_grad():
            found_K = self._run(self._look(view_V, num_inputs))[0].double().cpu()
        if not self._classifies:
            answer_K[0] = np.clip(np.nan_to_num(found_K[0].item()), -8.0, 8.0)
            return
        known = min(len(answer_K), len(found_K))
        p_K = torch.softmax(found_K[:known], dim=0).numpy()
        answer_K[:] = LEAST
        answer_K[:known] = np.nan_to_num(p_K, nan=1.0 / known)
        answer_K /= answer_K.sum()

    def learn(self, view_V: Floats, num_inputs: int, target: float, weight: float) -> None:
        """One step of the optimizer on one event.

        Args:
            view_V, num_inputs: as of `answer`.
            target: class by number, or value in running deviations.
            weight: factor of the loss.
        """
        with torch.enable_grad():
            found_1K = self._run(self._look(view_V, num_inputs))
            if self._classifies and int(target) >= found_1K.shape[1]:
                return
            if self._classifies:
                label = torch.tensor([int(target)], device=found_1K.device, dtype=torch.int64)
                loss = nn.functional.cross_entropy(found_1K, label)
            else:
                wanted = torch.full_like(found_1K[:, 0], target)
                loss = nn.functional.huber_loss(found_1K[:, 0], wanted)
            self._optimizer.zero_grad()
            (weight * loss).backward()
        self._optimizer.step()
        self.num_updates += 1

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors of the module (copies)."""
        return {name: one.detach().clone() for name, one in self.model.state_dict().items()}

    def digest(self) -> str:
        """SHA-256 digest of its tensors."""
        return digest_tensors(self.tensors())

    def state_dict(self) -> dict[str, Any]:
        """Weights, moments and counts; tensors are copies."""
        names, params = list(self._named), list(self._named.values())
        return {
            "tensors": self.tensors(),
            "inner": export_inner(self._optimizer, names, params),
            "lr": self.lr,
            "num_inputs": self.num_inputs,
            "num_updates": self.num_updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ForeignSnapshot: of another module; nothing changed then.
        """
        own = {name: one.shape for name, one in self.model.state_dict().items()}
        if {name: one.shape for name, one in state["tensors"].items()} != own:
            raise ForeignSnapshot("the state is of a model with other parameters; give the same")
        self.model.load_state_dict(state["tensors"])
        import_inner(self._optimizer, list(self._named), list(self._named.values()), state["inner"])
        self.lr = state["lr"]
        self.num_inputs, self.num_updates = state["num_inputs"], state["num_updates"]
