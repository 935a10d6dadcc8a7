"""Assignment of parameters to levels: by name, first match, nothing left over."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

from torch import Tensor, nn

from nestling.core.errors import (
    IdlePattern,
    LateParameter,
    SettingError,
    UnclaimedParameter,
    suggest,
)
from nestling.core.pauses import is_trainable
from nestling.levels.plan import Plan

_WRAPPERS = ("module", "_orig_mod")


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside torch.compile's or data-parallel's wrapper."""
    for attribute in _WRAPPERS:
        inner = model._modules.get(attribute)
        is_compiled = attribute == "_orig_mod"
        if inner is not None and (is_compiled or _is_parallel(model)):
            return unwrap(inner)
    return model


def collect_aliases(model: nn.Module) -> dict[str, tuple[Tensor, list[str]]]:
    """Every parameter once, under its first name, with all the names that it has.

    Args:
        model: any module; tied weights have several names.

    Returns: first name -> (parameter, all its names).

    Raises:
        SettingError: a lazy module has not been run yet.
    """
    found: dict[int, tuple[str, Tensor, list[str]]] = {}
    for name, parameter in unwrap(model).named_parameters(remove_duplicate=False):
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise SettingError(
                f"parameter {name!r} has no shape yet; run one batch through the model"
            )
        found.setdefault(id(parameter), (name, parameter, []))[2].append(name)
    return {first: (parameter, names) for first, parameter, names in found.values()}


def assign_levels(model: nn.Module, plan: Plan) -> dict[str, list[str]]:
    """Assign every trainable parameter to the first level whose pattern matches its name.

    Args:
        model: any module. Frozen parameters (requires_grad False) are left alone. A tied
            weight is claimed once, by any of its names, and goes by the first of them.
        plan: its gradient levels are tried in order.

    Returns: level name -> parameter names, in the model's order.

    Raises:
        UnclaimedParameter: no pattern matches a trainable parameter.
        IdlePattern: a pattern claims nothing; says what took its parameters, or the nearest
            names.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> from nestling.levels.spec import Level
    >>> assign_levels(model, Plan(Level("head", match=("1.*",)), Level("rest", match=("*",))))
    {'head': ['1.weight', '1.bias'], 'rest': ['0.weight', '0.bias']}
    """
    aliases = collect_aliases(model)
    trainable = {n: names for n, (param, names) in aliases.items() if is_trainable(param)}
    if not trainable:
        raise SettingError(
            "the model has no trainable parameter; requires_grad is False everywhere"
        )
    claimed: dict[str, list[str]] = {level.name: [] for level in plan.gradient_levels}
    idle = {pattern: level.name for level in plan.gradient_levels for pattern in level.match}
    for first, names in trainable.items():
        claim = _find_claim(names, plan)
        if claim is None:
            raise UnclaimedParameter(
                f"no level claims parameter {first!r}; patterns: "
                f"{[p for level in plan.gradient_levels for p in level.match]}; "
                "add its pattern to a level, or a last level with match=('*',)"
            )
        level_name, pattern = claim
        claimed[level_name].append(first)
        idle.pop(pattern, None)
    if idle:
        pattern, level_name = next(iter(idle.items()))
        raise IdlePattern(_explain_idle(pattern, level_name, aliases, claimed))
    return claimed


def find_buffers(
    model: nn.Module, claims: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, tuple[nn.Module, str]]]:
    """Level -> its running statistics: name -> (module, name in it).

    They belong to the level that owns all parameters of their module, or, where it has none, of
    the nearest module around it that has some; to no level if several share those.

    Args:
        model: unwrapped.
        claims: level -> names of its parameters.
    """
    owner = {name: level for level, names in claims.items() for name in names}
    modules = dict(model.named_modules())
    found: dict[str, dict[str, tuple[nn.Module, str]]] = {}
    for name, _ in model.named_buffers():
        path, _, own = name.rpartition(".")
        prefix = path
        while True:
            start = f"{prefix}." if prefix else ""
            levels = {level for param, level in owner.items() if param.startswith(start)}
            if levels or not prefix:
                break
            prefix = prefix.rpartition(".")[0]
        if len(levels) == 1:
            found.setdefault(levels.pop(), {})[name] = (modules[path], own)
    return found


def find_frozen_modules(model: nn.Module) -> list[nn.Module]:
    """Modules with running statistics all of whose parameters are frozen; of one that has none,
    all of the nearest module around it that has some.

    Args:
        model: unwrapped.
    """
    modules = dict(model.named_modules())
    found: dict[int, nn.Module] = {}
    for name, _ in model.named_buffers():
        path = prefix = name.rpartition(".")[0]
        while prefix and not any(True for _ in modules[prefix].parameters()):
            prefix = prefix.rpartition(".")[0]
        params = list(modules[prefix].parameters())
        if params and not any(is_trainable(param) for param in params):
            found[id(modules[path])] = modules[path]
    return list(found.values())


class ParameterWatch:
    """Notices a trainable parameter that no level owns, at next to no cost per step.

    Args:
        model: unwrapped; its modules are watched.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.refresh()

    def refresh(self) -> None:
        """Take the model as it is now for what is known."""
        # The modules are kept alive, so that a new one cannot get the id of an old one.
        self._modules = list(self.model.modules())
        self._tables: list[dict[str, Any]] = [module._parameters for module in self._modules]
        self._tables += [module._modules for module in self._modules]
        self._identities = self._identify()
        self._frozen = [p for p in self.model.parameters() if not p.requires_grad]

    def check(self, owned: Mapping[str, Tensor]) -> None:
        """Raise LateParameter if a parameter wants gradients that is not in `owned`."""
        is_same = self._identify() == self._identities
        if is_same and not any(param.requires_grad for param in self._frozen):
            return
        ids = {id(param) for param in owned.values()}
        for name, param in self.model.named_parameters():
            if id(param) not in ids and param.requires_grad:
                raise LateParameter(
                    f"parameter {name!r} appeared or was unfrozen after the levels were assigned; "
                    "build a new NestedOptimizer with a plan that claims it"
                )
        self.refresh()

    def _identify(self) -> list[int]:
        # This runs at every step, so the walk over the tables stays in C.
        return list(map(id, chain.from_iterable(map(dict.values, self._tables))))


def _find_claim(names: Sequence[str], plan: Plan) -> tuple[str, str] | None:
    for level in plan.gradient_levels:
        for pattern in level.match:
            if any(fnmatchcase(name, pattern) for name in names):
                return level.name, pattern
    return None


def _explain_idle(
    pattern: str,
    level_name: str,
    aliases: dict[str, tuple[Tensor, list[str]]],
    claimed: dict[str, list[str]],
) -> str:
    start = f"pattern {pattern!r} of level {level_name!r} claims no parameter"
    for first, (parameter, names) in aliases.items():
        if any(fnmatchcase(name, pattern) for name in names):
            if not parameter.requires_grad:
                return f"{start}: {first!r} is frozen (requires_grad False)"
            owner = next(name for name, owned in claimed.items() if first in owned)
            return f"{start}: {first!r} was claimed before, by level {owner!r}; move it up"
    if "_orig_mod." in pattern:
        return f"{start}; the names of a compiled model go without '_orig_mod.'"
    return f"{start}; {suggest(pattern, aliases)}"


def _is_parallel(model: nn.Module) -> bool:
    return isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
