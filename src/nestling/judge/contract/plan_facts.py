"""Change contract against a plan: what the plan has, and where a clause does not fit it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nestling.core.errors import IdlePattern, SettingError, UnknownLevel, suggest
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.clauses import BOUNDS, FixedBehaviour, MayChange, MustChange
from nestling.judge.contract.contradictions import covers

_GRADIENT, _COPY = "gradient", "copy"


@dataclass(frozen=True)
class PlanFacts:
    """What a contract needs to know of a plan and its model: levels, tensors, who learns.

    Attributes:
        levels: level -> names of its parameters; none for memories and copies, and of a plan
            whose model is not known.
        kinds: level -> "gradient", "copy", "memory", "concepts", "sleep" or "watch".
        tensors: names of all parameters and buffers; none if the model is not known.
        trained: names of the levels that learn and are not frozen for good.
        held: of those, the ones that stand still until they are released, or are asked before
            each update (`freeze`, `protect`).
        periods: level -> steps between two updates; the slowest is taken for the spine.
        frozen: names of parameters that no level trains.
    """

    levels: Mapping[str, tuple[str, ...]]
    kinds: Mapping[str, str]
    tensors: frozenset[str] = frozenset()
    trained: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    periods: Mapping[str, int] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()


def check_against_plan(contract: Contract, facts: PlanFacts) -> list[str]:
    """Check that a contract fits a plan.

    Args:
        contract: agrees with itself already.
        facts: of the plan and its model. Without names of tensors (the model is not known) globs
            and digests of parameters are not checked.

    Returns: what follows from it, one line each, though nothing is wrong: levels that are held
        between proposals.

    Raises:
        UnknownLevel: a role, modification or duty of a level that the plan does not have.
        IdlePattern: a glob of fixed parameters, or a digest, that matches nothing.
        SettingError: a level that may change but is all fixed, or that learns though no
            modification lets it; bounds on a level that has no weights; views of a spine that no
            level is.

    >>> from nestling.judge.contract.clauses import LevelRole
    >>> facts = PlanFacts({"head": ()}, {"head": "gradient"}, trained=frozenset({"head"}))
    >>> check_against_plan(Contract("triage"), facts)
    Traceback (most recent call last):
    nestling.core.errors.SettingError: level 'head' learns, but no modification lets it change; it
    must not change: freeze it in the plan, or add a may_change clause
    """
    _check_levels(contract, facts)
    _check_fixed_names(contract, facts)
    _check_changes(contract, facts)
    _check_spine(contract)
    return _list_held(contract, facts)


def _check_levels(contract: Contract, facts: PlanFacts) -> None:
    named = [
        *(("the contract gives a role to", role.name) for role in contract.levels),
        *((f"modification {one.id!r} is of", one.level) for one in contract.may_change),
        *((f"duty {duty.id!r} freezes", duty.level) for duty in contract.must_change_by),
    ]
    for who, level in named:
        if level not in facts.levels:
            raise UnknownLevel(f"{who} level {level!r}; {suggest(level, facts.levels)}")


def _check_fixed_names(contract: Contract, facts: PlanFacts) -> None:
    if not facts.tensors:
        return
    fixed = contract.must_stay_fixed
    for pattern in fixed.parameters:
        if not any(covers([pattern], name) for name in facts.tensors):
            raise IdlePattern(
                f"fixed parameters {pattern!r} match nothing; {suggest(pattern, facts.tensors)}"
            )
    for name in fixed.digests:
        if name not in facts.tensors:
            raise IdlePattern(
                f"must_stay_fixed has a digest of {name!r}, which the model does not have; "
                + suggest(name, facts.tensors)
            )


def _check_changes(contract: Contract, facts: PlanFacts) -> None:
    changing = {clause.level for clause in contract.may_change}
    for clause in contract.may_change:
        names = facts.levels[clause.level]
        if names and all(covers(contract.must_stay_fixed.parameters, name) for name in names):
            raise SettingError(
                f"modification {clause.id!r} lets level {clause.level!r} change, but "
                f"must_stay_fixed fixes all its {len(names)} parameters; narrow "
                f"{list(contract.must_stay_fixed.parameters)} or drop the modification"
            )
        _check_bounds(clause, facts.kinds.get(clause.level, _GRADIENT))
    for level in facts.levels:
        if level in facts.trained and level not in changing:
            raise SettingError(
                f"level {level!r} learns, but no modification lets it change; it must not change: "
                "freeze it in the plan, or add a may_change clause"
            )


def _check_bounds(clause: MayChange, kind: str) -> None:
    given = [name for name in BOUNDS if getattr(clause, name) is not None]
    if given and kind not in (_GRADIENT, _COPY):
        raise SettingError(
            f"modification {clause.id!r} bounds the change of level {clause.level!r} "
            f"({given[0]} = {getattr(clause, given[0]):g}), a {kind} level without weights whose "
            f"change could be measured; leave {', '.join(given)} out and fix its behaviour instead"
        )


def _check_spine(contract: Contract) -> None:
    clauses: list[FixedBehaviour | MustChange] = [
        *contract.must_stay_fixed.behaviour,
        *contract.must_change_by,
    ]
    for clause in clauses:
        if "spine" in clause.views and not contract.list_spine():
            raise SettingError(
                f"clause {clause.id!r} is judged in the view 'spine', but no level has that role; "
                "give one role = 'spine' under [[levels]], or say views = ['whole']"
            )


def _list_held(contract: Contract, facts: PlanFacts) -> list[str]:
    proposed = _unique(c.level for c in contract.may_change if c.trigger == "proposal")
    return [
        f"level {level!r} changes by proposals only, and the plan lets it learn freely: govern "
        "freezes it between proposals"
        for level in proposed
        if level in facts.trained - facts.held
    ]


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
