"""What a change contract needs to know of a plan, with its model or without."""

from torch import nn

from nestling.judge.contract.plan_facts import PlanFacts
from nestling.levels import Concepts, Copy, DriftWatch, Level, Memory, Plan, assign_levels
from nestling.levels.assign import find_frozen_modules, unwrap
from nestling.levels.spec import AnySpec

# A window that ends no earlier than this is for good.
_FOR_GOOD = 10**9


def read_plan_facts(plan: Plan, model: nn.Module | None = None) -> PlanFacts:
    """Levels of a plan, their parameters and who learns, as a change contract sees them.

    Args:
        plan: any.
        model: that it is for; None leaves the names of parameters out.

    Raises:
        SettingError: the plan does not fit the model.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    >>> plan = Plan(Level("head", match=["1.*"]), Level("spine", match=["*"], period=8))
    >>> facts = read_plan_facts(plan, model)
    >>> facts.levels["head"], sorted(facts.trained)
    (('1.weight', '1.bias'), ['head', 'spine'])
    """
    fired = {level.event for level in plan.levels if isinstance(level, DriftWatch)}
    owned: dict[str, list[str]] = {}
    tensors: set[str] = set()
    frozen: set[str] = set()
    if model is not None:
        inner = unwrap(model)
        owned = assign_levels(model, plan) if plan.gradient_levels else {}
        names = {name for name, _ in inner.named_parameters()}
        tensors = names | {name for name, _ in inner.named_buffers()}
        claimed = {name for claims in owned.values() for name in claims}
        frozen = (names - claimed) | _list_still_buffers(inner)
    return PlanFacts(
        levels={level.name: tuple(owned.get(level.name, ())) for level in plan.levels},
        kinds={level.name: level.kind for level in plan.levels},
        tensors=frozenset(tensors),
        trained=frozenset(level.name for level in plan.levels if _learns(level, fired)),
        held=frozenset(level.name for level in plan.gradient_levels if _is_held(level)),
        periods={level.name: level.period for level in plan.gradient_levels},
        frozen=frozenset(frozen),
    )


def _learns(level: AnySpec, fired: set[str]) -> bool:
    """Whether it moves at some time by itself; a sleep teaches others, when it is told to."""
    if isinstance(level, Level):
        freeze = level.freeze
        if freeze is None:
            return True
        is_released = freeze.until is None or freeze.until in fired
        is_open = not any(first == 1 and last >= _FOR_GOOD for first, last in freeze.windows)
        return is_released and is_open
    if isinstance(level, Copy):
        return level.decay < 1.0
    return isinstance(level, Memory | Concepts)


def _is_held(level: Level) -> bool:
    return level.protect or (level.freeze is not None and level.freeze.until is not None)


def _list_still_buffers(model: nn.Module) -> set[str]:
    """Running statistics of modules all of whose parameters are frozen."""
    names = {id(module): name for name, module in model.named_modules()}
    return {
        f"{names[id(module)]}.{own}".lstrip(".")
        for module in find_frozen_modules(model)
        for own, _ in module.named_buffers(recurse=False)
    }
