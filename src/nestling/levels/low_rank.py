"""Low-rank adapters over slow weights, as torch parametrizations of linear layers."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nestling.core.errors import IdlePattern, SettingError, suggest


class LowRank(nn.Module):
    """A weight plus a fast overlay of low rank.

    W_fast = W + scale * B A   [Hu 2022, Sec. 4.1, with scale = alpha / r]

    Args:
        weight: W, (out, in); gives shapes, dtype and device, and is not kept.
        rank: r, at least 1.
        scale: of the overlay.
        generator: for A, uniform in +-1/sqrt(in); B starts at zero, so that W_fast = W.
    """

    def __init__(
        self, weight: Tensor, rank: int, *, scale: float = 1.0, generator: torch.Generator
    ) -> None:
        super().__init__()
        num_outputs, num_inputs = weight.shape
        self.scale = scale
        self.A = nn.Parameter(weight.new_empty(rank, num_inputs))
        self.B = nn.Parameter(weight.new_zeros(num_outputs, rank))
        self.reset(generator)

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Make the overlay zero; with a generator A is drawn anew, else it is kept."""
        with torch.no_grad():
            self.B.zero_()
            if generator is not None:
                bound = self.A.shape[1] ** -0.5
                drawn = torch.empty(self.A.shape, dtype=torch.float32, device="cpu").uniform_(
                    -bound, bound, generator=generator
                )
                self.A.copy_(drawn)

    def forward(self, weight: Tensor) -> Tensor:
        """W (out, in) -> W + scale * B A, (out, in)."""
        return weight + self.scale * (self.B @ self.A)


def attach_low_rank(
    model: nn.Module,
    match: Sequence[str],
    rank: int,
    *,
    scale: float = 1.0,
    generator: torch.Generator,
) -> list[str]:
    """Lay a low-rank overlay over linear weights; the model's outputs stay what they were.

    The slow weight `x.weight` is then called `x.parametrizations.weight.original` (the same
    Parameter object); the overlay is `x.parametrizations.weight.0.A` and `.B`.

    Args:
        model: changed in place.
        match: globs over the names of `nn.Linear` weights, e.g. "blocks.*.weight".
        rank: r, from 1 to the smaller side of every matched weight.
        scale: of every overlay.
        generator: CPU generator for A.

    Returns: names of the new parameters, in the model's order.

    Raises:
        IdlePattern: a glob matches no linear weight.
        SettingError: a matched weight is tied or already parametrized, or the rank does not fit;
            nothing is changed then.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    >>> attach_low_rank(model, ["1.*"], rank=2, generator=torch.Generator())
    ['1.parametrizations.weight.0.A', '1.parametrizations.weight.0.B']
    """
    layers = _match_layers(model, match)
    for name, layer in layers.items():
        _check_layer(model, name, layer, rank)
    for layer in layers.values():
        _own_class(layer)
        overlay = LowRank(layer.weight.detach(), rank, scale=scale, generator=generator)
        parametrize.register_parametrization(layer, "weight", overlay)
    new = {id(layer.parametrizations.weight[0]) for layer in layers.values()}  # type: ignore[union-attr, index]
    return [
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if id(module) in new
        for name, _ in module.named_parameters()
    ]


def merge_low_rank(model: nn.Module, *, generator: torch.Generator | None = None) -> list[str]:
    """Fold every overlay into the slow weight under it and set the overlay to zero.

    W <- W + scale * B A;  B <- 0. The model's function is unchanged up to rounding.

    Args:
        model: changed in place; parameters stay the same objects.
        generator: draws A anew, so that later overlays can reach other directions; None:
            A is kept.

    Returns: names of the slow weights that took an overlay in.

    Raises:
        SettingError: there is no overlay.
    """
    layers = _find_layers(model)
    for layer, overlay in layers.values():
        slow: Tensor = layer.parametrizations.weight.original  # type: ignore[union-attr, assignment]
        with torch.no_grad():
            slow.copy_(overlay(slow))
        overlay.reset(generator)
    return [_join(name, "parametrizations.weight.original") for name in layers]


def detach_low_rank(model: nn.Module, *, merge: bool) -> list[str]:
    """Take every overlay off; weights get their old names back and stay the same objects.

    Args:
        model: changed in place.
        merge: True keeps what the overlays learned (function unchanged up to rounding);
            False goes back to the slow weights alone.

    Returns: names of the weights that are plain again.

    Raises:
        SettingError: there is no overlay.
    """
    if merge:
        merge_low_rank(model)
    layers = _find_layers(model)
    for layer, _ in layers.values():
        strip_parametrization(layer, "weight", keep_value=False)
        bias = layer.bias  # removed and put back, so that it again comes after the weight
        del layer.bias
        layer.register_parameter("bias", bias)
    return [_join(name, "weight") for name in layers]


def strip_parametrization(module: nn.Module, name: str, *, keep_value: bool) -> None:
    """Make a parametrized tensor plain again, without touching deep copies of the module.

    Args:
        module: changed in place.
        name: of the tensor, e.g. "weight".
        keep_value: True keeps the parametrized value, False the original under it.
    """
    _own_class(module)
    parametrize.remove_parametrizations(module, name, leave_parametrized=keep_value)


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own.

    torch puts the parametrized tensor on a class made for the module as a property, and a deep
    copy shares that class: taking the property off one would break the other.
    """
    if parametrize.is_parametrized(module):
        made = type(module)
        body = {k: v for k, v in vars(made).items() if k not in ("__dict__", "__weakref__")}
        module.__class__ = type(made.__name__, made.__bases__, body)


def _match_layers(model: nn.Module, match: Sequence[str]) -> dict[str, nn.Linear]:
    known = {
        _join(name, "weight"): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    claimed = set()
    for pattern in match:
        matched = {name for name in known if fnmatchcase(name, pattern)}
        if not matched:
            raise IdlePattern(
                f"{pattern!r} matches no weight of an nn.Linear; " + suggest(pattern, known)
            )
        claimed |= matched
    return {name: layer for name, layer in known.items() if name in claimed}


def _check_layer(model: nn.Module, name: str, layer: nn.Linear, rank: int) -> None:
    if parametrize.is_parametrized(layer, "weight"):
        kind = type(layer.parametrizations.weight[0]).__name__  # type: ignore[union-attr, index]
        raise SettingError(
            f"{name!r} is already parametrized ({kind}); "
            "call detach_low_rank or leave it out of `match`"
        )
    twins = [
        other
        for other, parameter in model.named_parameters(remove_duplicate=False)
        if parameter is layer.weight and other != name
    ]
    if twins:
        raise SettingError(
            f"{name!r} is tied to {twins[0]!r}, and an overlay on one would not reach the other; "
            "leave it out of `match`"
        )
    if not 1 <= rank <= min(layer.weight.shape, default=0):
        raise SettingError(
            f"rank {rank} does not fit {name!r} of shape {tuple(layer.weight.shape)}; "
            f"choose 1 to {min(layer.weight.shape, default=0)}"
        )


def _find_layers(model: nn.Module) -> dict[str, tuple[nn.Linear, LowRank]]:
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module, "weight"):
            chain = list(module.parametrizations.weight)  # type: ignore[union-attr, arg-type]
            if not any(isinstance(part, LowRank) for part in chain):
                continue
            if len(chain) > 1:
                raise SettingError(
                    f"{_join(name, 'weight')!r} has other parametrizations beside the overlay; "
                    "remove them first"
                )
            layers[name] = (module, chain[0])
    if not layers:
        raise SettingError("the model has no low-rank overlay; call attach_low_rank first")
    return layers


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
