"""A head that grows when labels appear that it has no output for, and shrinks back."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from nestling.core.errors import MismatchedParameters, SettingError, UnknownLabel
from nestling.core.heads import find_head_layer
from nestling.levels import Levels

MOST_NEW_CLASSES = 10_000


def check_growth(model: nn.Module, num_outputs: int, num_classes: int) -> None:
    """Raise unless the head can grow; nothing is changed.

    Args:
        model: its last linear layer must be its head.
        num_outputs: logits that it gives now.
        num_classes: outputs wanted.

    Raises:
        SettingError: the last linear layer is not the head, or shares or overlays its weight.
        UnknownLabel: more new classes than can be meant.
    """
    remedy = f"make the model with {num_classes} outputs and declare num_classes={num_classes}"
    label = num_classes - 1
    found = find_head_layer(model)
    if found is None:
        raise SettingError(
            f"label {label} is new but the model has no linear head to grow; {remedy}"
        )
    name, head = found
    if head.out_features != num_outputs:
        raise SettingError(
            f"label {label} is new but the last linear layer {name!r} has {head.out_features} "
            f"outputs and the model {num_outputs}, so it is not the head; {remedy}"
        )
    if parametrize.is_parametrized(head) or head._parameters.get("weight") is None:
        raise SettingError(f"label {label} is new but head {name!r} has an overlay; {remedy}")
    for part in ("weight", "bias"):
        own = f"{name}.{part}" if name else part
        for other, param in model.named_parameters(remove_duplicate=False):
            if param is getattr(head, part) and other != own:
                raise SettingError(
                    f"label {label} is new but head parameter {own!r} is tied to {other!r} and "
                    f"cannot grow; {remedy}"
                )
    if num_classes - num_outputs > MOST_NEW_CLASSES:
        raise UnknownLabel(
            f"label {label} would add {num_classes - num_outputs} outputs to head {name!r} at "
            f"once; number classes 0, 1, 2, ... or declare num_classes={num_classes}"
        )


def count_head_rows(model: nn.Module) -> int:
    """Outputs of the last linear layer; 0 if there is none."""
    found = find_head_layer(model)
    return 0 if found is None else found[1].out_features


class Head:
    """The model's last linear layer, whose rows are classes: more of them, or fewer again.

    Args:
        model: any module.
        levels: told of new parameters.
        generator: draws new rows.
        may_grow: whether classes may appear that were not declared.
    """

    def __init__(
        self, model: nn.Module, levels: Levels, generator: torch.Generator, *, may_grow: bool
    ) -> None:
        self.model = model
        self.levels = levels
        self.generator = generator
        self.may_grow = may_grow
        self.num_built = self.num_rows  # it never gets smaller than it was made

    @property
    def num_rows(self) -> int:
        """Outputs of the last linear layer; 0 if there is none."""
        return count_head_rows(self.model)

    def check_growth(self, num_outputs: int, num_classes: int) -> None:
        """Raise unless it can grow; see `check_growth`. What is held fixed cannot."""
        check_growth(self.model, num_outputs, num_classes)
        found = find_head_layer(self.model)
        assert found is not None
        for part in ("weight", "bias"):
            self.levels.governance.check_swap(f"{found[0]}.{part}" if found[0] else part)

    def resize(self, num_classes: int) -> None:
        """Give it more rows, or take the last ones away; see `resize_head`."""
        resize_head(self.model, self.levels, num_classes, generator=self.generator)

    def state_dict(self) -> dict[str, Any]:
        """How many rows it has."""
        return {"num_rows": self.num_rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Get as many rows as were saved.

        Raises:
            MismatchedParameters: it may not grow, or was made with more rows.
        """
        num_rows, own = state["num_rows"], self.num_rows
        if num_rows == own:
            return
        if not self.may_grow or num_rows < self.num_built:
            raise MismatchedParameters(
                f"the head has {num_rows} outputs there and {own} here; "
                "make the model as it was made there"
            )
        check_growth(self.model, own, num_rows)
        self.resize(num_rows)


def resize_head(
    model: nn.Module,
    levels: Levels | None,
    num_classes: int,
    *,
    generator: torch.Generator,
) -> None:
    """Give the last linear layer more outputs, or take the last ones away again.

    What it answers for the others stays. New rows are drawn as torch draws a fresh linear
    layer (uniform in +-1/sqrt(in)). Moments, gathered gradients and copies of the head get as
    many rows.

    Args:
        model: changed in place; to grow, `check_growth` must have passed.
        levels: told of the new parameters, where one of them owns the old; None: nothing learns.
        num_classes: outputs afterwards.
        generator: draws the new rows.
    """
    found = find_head_layer(model)
    assert found is not None
    name, head = found
    num_new = max(0, num_classes - head.out_features)
    bound = 1.0 / math.sqrt(head.in_features)
    for part in ("weight", "bias"):
        old = getattr(head, part)
        if old is None:
            continue
        rows = torch.empty((num_new, *old.shape[1:]), dtype=torch.float32, device="cpu").uniform_(
            -bound, bound, generator=generator
        )
        kept = old.detach()[:num_classes]
        sized = torch.cat([kept, rows.to(old.device, old.dtype)])
        param = nn.Parameter(sized, requires_grad=old.requires_grad)
        setattr(head, part, param)
        full = f"{name}.{part}" if name else part
        if levels is not None and levels.gradient and old.requires_grad:
            levels.swap_parameter(full, param)
    head.out_features = num_classes
