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


def check_width(model: nn.Module, num_classes: int) -> None:
    """Raise SettingError where no layer of a model can give one output per declared class.

    Which layer is the last to be run is certain only in a plain sequence of layers; elsewhere a
    model passes if any layer is as wide, and its first batch tells.

    Args:
        model: any module.
        num_classes: K, declared.

    >>> check_width(nn.Sequential(nn.Linear(2, 3)), 3)
    """
    found = find_head_layer(model)
    if found is None or found[1].out_features == num_classes:
        return
    name, head = found
    after = list(model.modules())
    after = after[after.index(head) + 1 :]
    is_last = isinstance(model, nn.Sequential) and not any(
        True for module in after for _ in module.parameters(recurse=False)
    )
    if not is_last and any(num_classes in param.shape for param in model.parameters()):
        return
    raise SettingError(say_width(f"head {name!r}", head.out_features, num_classes))


def say_width(what: str, num_outputs: int, num_classes: int) -> str:
    """What to do where a head is not as wide as there are declared classes."""
    return (
        f"num_classes={num_classes} but {what} has {num_outputs} "
        f"{'output' if num_outputs == 1 else 'outputs'}; make the model with {num_classes}, "
        f"declare num_classes={num_outputs}, or leave num_classes out and let the head grow"
    )


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
