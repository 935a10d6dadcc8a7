"""Trying a change on a copy: what it does to each level, and the model as it would be committed."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nestling.core.errors import ContractError, ProposalError
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.contradictions import covers
from nestling.ledger.version_diff import measure_change
from nestling.levels.bounds import ChangeBounds
from nestling.oversight.subjects.subject import Subject

# A change: the name of a level or "merge" for a learner, or a function that is given the copy.
Change = str | Callable[[Any], object]


@dataclass(frozen=True)
class TriedChange:
    """What a change did on a copy.

    Attributes:
        states: level -> what a commit takes over, of every level that the change altered.
        changes: level -> relative change ||after - before|| / ||before||, of these.
        candidate: the model as it would be after the commit.
        digests: level -> sha256 before, of all levels.
    """

    states: Mapping[str, Mapping[str, Any]]
    changes: Mapping[str, float]
    candidate: Subject
    digests: Mapping[str, str]


def try_change(subject: Subject, contract: Contract, clause_id: str, change: Change) -> TriedChange:
    """Let a change happen to a copy, in which only the level of its clause may move.

    Args:
        subject: left as it is, whatever happens.
        contract: whose clause is cited.
        clause_id: of the modification.
        change: see `Governed.propose`.

    Raises:
        ContractError: it altered a level that no modification lets change.
        ProposalError: it altered nothing.
    """
    level = contract.find_modification(clause_id).level
    digests = {name: one.digest() for name, one in subject.levels.items()}
    twin = subject.copy()
    twin.hold(list_fixed(subject, contract), [n for n in _list_weights(subject) if n != level])
    for name in _list_weights(subject):
        twin.bind(name, ChangeBounds(), time.time)
    _apply(twin.target, change)
    moved = _find_moved(twin, digests, level)
    if level not in moved:
        raise ProposalError(
            f"the change under {clause_id!r} left level {level!r} as it was; give one that alters "
            "it, or cite another clause"
        )
    allowed = {clause.level for clause in contract.may_change}
    for name in moved:
        if name not in allowed:
            raise ContractError(
                f"the change altered level {name!r}, which no modification of the contract lets "
                "change; restrict it, or agree on a clause"
            )
    states = {name: twin.read_part(name) for name in moved}
    changes = {
        name: measure_change(subject.levels[name].tensors(), twin.levels[name].tensors())
        for name in moved
    }
    candidate = subject.copy()
    for name, state in states.items():
        candidate.load_level(name, state)
    return TriedChange(states, changes, candidate, digests)


def _apply(target: Any, change: Change) -> None:
    if isinstance(change, str):
        target.consolidate(lambda _: True, change=change)
    else:
        change(target)


def _find_moved(twin: Subject, digests: Mapping[str, str], level: str) -> list[str]:
    """Levels that a change altered: the one that is cited, and others that have weights.

    Memories and copies that learned while it was tried are not taken over.
    """
    weights = {*_list_weights(twin), level}
    return [
        name for name in digests if name in weights and twin.levels[name].digest() != digests[name]
    ]


def _list_weights(subject: Subject) -> list[str]:
    """Levels that learn by gradient."""
    kinds = subject.kinds
    return [name for name, kind in kinds.items() if kind == "gradient"]


def list_fixed(subject: Subject, contract: Contract) -> list[str]:
    """Names of the tensors that a contract fixes."""
    patterns = contract.must_stay_fixed.parameters
    return [name for name in subject.read_fixed() if covers(patterns, name)]


def find_not_finite(states: Mapping[str, Mapping[str, Any]]) -> str:
    """Name of a tensor that would become non-finite; empty if none."""
    for level, state in states.items():
        for name, value in _walk(state):
            if value.dtype.is_floating_point and not bool(value.isfinite().all()):
                return f"{level}: {name}"
    return ""


def _walk(tree: Any, at: str = "") -> list[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        return [(at, tree)]
    if isinstance(tree, Mapping):
        return [pair for key, value in tree.items() for pair in _walk(value, str(key))]
    if isinstance(tree, list | tuple):
        return [pair for value in tree for pair in _walk(value, at)]
    return []
