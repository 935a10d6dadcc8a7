"""In which order the gradient levels of a plan move, and whether changed levels fit together."""

from collections.abc import Iterable, Mapping

from nestling.levels.copies import CopyLevel
from nestling.levels.gradient import GradientLevel
from nestling.levels.plan import Plan, order_by_parent
from nestling.levels.spec import AnySpec, Copy, Level


def check_together(
    gradient: Mapping[str, GradientLevel],
    copies: Mapping[str, CopyLevel],
    changed: Level | Copy,
) -> None:
    """Raise SettingError if the plan cannot be with a changed level, now or when others that wait
    have changed."""
    live = {level.spec.name: level.spec for level in gradient.values()}
    others = {copy.spec.name: copy.spec for copy in copies.values()}
    pending = {spec.name: spec for spec in _list_waiting(gradient, copies)}
    specs: dict[str, AnySpec] = {**live, **others, **pending}
    specs[changed.name] = changed
    # Whichever of the waiting changes comes first, no parent may be missing or in a circle.
    Plan(*specs.values())


def order_levels(
    gradient: Mapping[str, GradientLevel],
    copies: Mapping[str, CopyLevel],
    *changed: Level | Copy,
) -> list[str]:
    """Names of the gradient levels, parents first, now and after every waiting change."""
    live = [level.spec for level in gradient.values()]
    specs = [*live, *_list_waiting(gradient, copies), *changed]
    return order_by_parent(spec for spec in specs if isinstance(spec, Level))


def share_model(gradient: Iterable[GradientLevel], copies: Iterable[CopyLevel]) -> None:
    """Tell every level how many trainable scalars the model has."""
    levels = list(gradient)
    num_all = sum(param.numel() for level in levels for param in level.params)
    both: list[GradientLevel | CopyLevel] = [*levels, *copies]
    for level in both:
        level.num_all = num_all


def _list_waiting(
    gradient: Mapping[str, GradientLevel], copies: Mapping[str, CopyLevel]
) -> list[Level | Copy]:
    levels = [one.spec for level in gradient.values() for one in level.changes.waiting]
    others = [one.spec for copy in copies.values() for one in copy.changes.waiting]
    return [*levels, *others]
