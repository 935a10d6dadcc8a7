"""Which levels an importance of parameters is about, and whether it fits them."""

from collections.abc import Mapping

from torch import Tensor

from nestling.core.errors import MismatchedParameters, suggest
from nestling.core.params import widen_half
from nestling.levels.gradient import GradientLevel


def match_importance(
    levels: Mapping[str, GradientLevel], importance: Mapping[str, Tensor]
) -> list[tuple[GradientLevel, list[Tensor]]]:
    """The levels that an importance is about, each with a copy of its part.

    Raises:
        MismatchedParameters: an unknown name, another shape, or a part of a level is missing.
    """
    known = {name for level in levels.values() for name in level.names}
    if unknown := sorted(importance.keys() - known):
        raise MismatchedParameters(f"importance of {unknown[0]!r}; {suggest(unknown[0], known)}")
    found: list[tuple[GradientLevel, list[Tensor]]] = []
    for level in levels.values():
        if not importance.keys() & set(level.names):
            continue
        for name, param in zip(level.names, level.params, strict=True):
            if name not in importance or importance[name].shape != param.shape:
                raise MismatchedParameters(
                    f"importance of {name!r} must have shape {tuple(param.shape)}, got "
                    f"{tuple(importance[name].shape) if name in importance else 'none'}"
                )
        values = [widen_half(importance[name].detach()).clone() for name in level.names]
        if not all(bool((value >= 0).all()) for value in values):
            raise MismatchedParameters(
                f"importance of level {level.spec.name!r} must be 0 or more and not NaN"
            )
        found.append((level, values))
    return found
