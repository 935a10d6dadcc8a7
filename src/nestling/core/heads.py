"""Which layer of a model is its head: the last linear one in the order of registration."""

from torch import nn

from nestling.core.errors import SettingError


def find_head_layer(model: nn.Module) -> tuple[str, nn.Linear] | None:
    """The last linear layer of a model with its name, or None where it has none.

    Args:
        model: any module; one that is a linear layer itself is its own head, named "".

    >>> find_head_layer(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)))
    ('2', Linear(in_features=3, out_features=4, bias=True))
    >>> find_head_layer(nn.ReLU()) is None
    True
    """
    linear = [
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)
    ]
    return linear[-1] if linear else None


def find_head(model: nn.Module, remedy: str = "name it: head='...'") -> str:
    """The name of the last linear layer of a model, where a head is needed.

    Args:
        model: any module; "" if it is a linear layer itself.
        remedy: what the caller offers instead, for the error.

    Raises:
        SettingError: it has no linear layer.

    >>> find_head(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)))
    '2'
    """
    found = find_head_layer(model)
    if found is None:
        raise SettingError(f"no head found: {type(model).__name__} has no linear layer; {remedy}")
    return found[0]
