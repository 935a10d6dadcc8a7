"""L2-SP: regularisation towards the weights of a pre-trained model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch, Loss, default_loss
from nestling.core.errors import SettingError, suggest
from nestling.core.heads import find_head
from nestling.core.params import Params, widen_half
from nestling.memory.checks import check_saved
from nestling.protect.method import Retention
from nestling.protect.penalties.quadratic import (
    check_strength,
    copy_tensors,
    count_tensor_bytes,
    weighted_distance,
)


def l2sp_penalty(
    params: Params, start: Params, head: Params, strength: float, head_strength: float
) -> Tensor:
    """L2-SP penalty: pull to the starting point, and plain weight decay of what is new.

    strength/2 ||w_S - w_S^0||^2 + head_strength/2 ||w_new||^2   [Li 2018, Eq. 3]

    Args:
        params: w, name -> (S, ...); differentiated.
        start: w_S^0, name -> (R, ...) for some of the names.
        head: w_new, name -> any shape; differentiated.
        strength: alpha >= 0.
        head_strength: beta >= 0.

    Returns: scalar ().

    Raises:
        MismatchedParameters: a start of no parameter, or shapes that differ beyond their rows.

    >>> one = {"w": torch.ones(1)}
    >>> l2sp_penalty(one, {"w": torch.zeros(1)}, {"h": torch.ones(2)}, 1.0, 3.0)
    tensor(3.5000)
    """
    pull = 0.5 * strength * weighted_distance(params, start)
    if not head:
        return pull
    decay = torch.stack([widen_half(value).square().sum() for value in head.values()]).sum()
    return pull + 0.5 * head_strength * decay


class L2SP(Retention):
    """L2-SP: pull a pre-trained backbone towards its starting point while a new head learns.

    strength/2 ||w_S - w_S^0||^2 + head_strength/2 ||w_new||^2   [Li 2018, Eq. 3]

    The starting point is what the weights are when the method is first asked for its loss, so
    give it to the first step; a parameter that is unfrozen or added later starts then. It does
    not move when experiences end.

    Args:
        strength: alpha >= 0, of the backbone.
        head_strength: beta >= 0, of the head.
        head: name of the new head's module or parameters, e.g. "classifier"; None: the last linear
            layer; "": nothing is new.

    Raises:
        SettingError: a strength below 0 or not finite.

    >>> method, model = L2SP(1.0, 0.0, head=""), nn.Linear(1, 1)
    >>> x = torch.ones(1, 1)
    >>> method.compute_loss(model, Batch((x,), target=x), model(x)).item()
    0.0
    """

    needs_boundary = False

    def __init__(self, strength: float, head_strength: float, *, head: str | None = None) -> None:
        self.strength = check_strength("strength", strength)
        self.head_strength = check_strength("head_strength", head_strength)
        self.head = head
        self._start: dict[str, Tensor] = {}

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """The pull and the decay, scalar (); the first call takes the starting point.

        Raises:
            SettingError: the model has nothing of the head's name, or no linear layer.
        """
        params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        head = _find_head(model, self.head)
        backbone = {name: param for name, param in params.items() if name not in head}
        for name, param in backbone.items():
            start = self._start.get(name, param)
            if name not in self._start or start.device != param.device:
                self._start[name] = start.detach().to(param.device, copy=True)
        known = {name: value for name, value in self._start.items() if name in backbone}
        new = {name: param for name, param in params.items() if name in head}
        return l2sp_penalty(backbone, known, new, self.strength, self.head_strength)

    def count_bytes(self) -> int:
        """Of the starting point."""
        return count_tensor_bytes(self._start.values())

    def state_dict(self) -> dict[str, Any]:
        """The settings and the starting point."""
        return {"config": self._describe(), "start": copy_tensors(self._start)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._describe(), "retention method")
        self._start = copy_tensors(state["start"])

    def _describe(self) -> Mapping[str, object]:
        return {
            "kind": "l2-sp",
            "strength": self.strength,
            "head_strength": self.head_strength,
            "head": self.head,
        }


def _find_head(model: nn.Module, head: str | None) -> set[str]:
    """Names of the parameters of the new head."""
    names = [name for name, _ in model.named_parameters()]
    if head == "":
        return set()
    if head is None:
        head = find_head(model, "name it: head='...', or head='' where nothing is new")
        if head == "":  # the model is its head
            return set(names)
    found = {name for name in names if name == head or name.startswith(f"{head}.")}
    if not found:
        known = {name.rpartition(".")[0] or name for name in names}
        raise SettingError(f"no parameter of a head {head!r} in the model; " + suggest(head, known))
    return found
