"""Verdicts on what must stay fixed to the bit: parameters by digest, and the interface."""

from collections.abc import Iterable, Mapping
from typing import Literal

from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.contradictions import covers
from nestling.judge.contract.findings import Finding
from nestling.judge.verdicts.contract_facts import ContractFacts, InterfaceFacts

_SHOWN = 5  # names in one message


def find_broken_parameters(
    contract: Contract, digests: Mapping[str, str], signed: Mapping[str, str]
) -> dict[str, Literal["changed", "gone", "unsigned"]]:
    """Fixed parameters and buffers that are not what was signed: name -> what is wrong.

    Args:
        contract: its own digests come before those of `signed`.
        digests: name -> sha256 of every tensor of the model now.
        signed: name -> sha256 as it stood before.
    """
    fixed = contract.must_stay_fixed
    known = {name: digest for name, digest in signed.items() if covers(fixed.parameters, name)}
    known |= fixed.digests
    found: dict[str, Literal["changed", "gone", "unsigned"]] = {}
    for name in sorted({*known, *(name for name in digests if covers(fixed.parameters, name))}):
        if name not in digests:
            found[name] = "gone"
        elif name not in known:
            found[name] = "unsigned"
        elif digests[name] != known[name]:
            found[name] = "changed"
    return found


def judge_parameters(contract: Contract, facts: ContractFacts) -> Finding:
    """Judge the parameters and buffers that must stay bit for bit; names each that did not."""
    patterns = list(contract.must_stay_fixed.parameters)
    if facts.digests is None:
        message = f"parameters {patterns} were not looked at; check a model or a run with one"
        return Finding("parameters", "not judged", message)
    names = [name for name in facts.digests if covers(patterns, name)]
    broken = find_broken_parameters(contract, facts.digests, facts.signed)
    lost = [name for name, what in broken.items() if what != "unsigned"]
    figures = (("num_fixed", float(len(names))), ("num_changed", float(len(lost))))
    if lost:
        message = (
            f"{join_names(f'{name!r} ({broken[name]})' for name in lost)} must stay bit for bit "
            "as signed; put the signed weights back, or sign anew after a review"
        )
        return Finding("parameters", "failed", message, figures=figures)
    if broken:
        message = (
            f"no digest of {join_names(map(repr, broken))} was signed; `nestling contract sign` "
            "writes what stands now"
        )
        return Finding("parameters", "not judged", message, figures=figures)
    if not names:
        message = f"parameters {patterns} match nothing of this model; correct the patterns"
        return Finding("parameters", "failed", message, figures=figures)
    message = f"{len(names)} fixed parameters and buffers are bit for bit as signed"
    return Finding("parameters", "passed", message, figures=figures)


def judge_interface(contract: Contract, facts: ContractFacts) -> Finding | None:
    """Judge what the model takes and gives; None if the contract says nothing of it."""
    wanted = contract.must_stay_fixed.interface
    found = facts.interface or InterfaceFacts()
    shape = None if wanted.input_shape is None else tuple(wanted.input_shape)
    declared = {
        "task": (wanted.task, found.task or None),
        "input_shape": (shape, found.input_shape),
        "num_outputs": (wanted.num_outputs, found.num_outputs),
    }
    asked = {name: pair for name, pair in declared.items() if pair[0] is not None}
    if not asked:
        return None
    wrong = [
        f"{name} is {now!r}, the contract says {then!r}"
        for name, (then, now) in asked.items()
        if now is not None and then != now
    ]
    if found.refusal:
        wrong.append(f"inputs of the shape {shape} are refused: {found.refusal}")
    if wrong:
        message = f"{'; '.join(wrong)}; put the interface back, or agree on a new contract"
        return Finding("interface", "failed", message)
    if unknown := [name for name, (_, now) in asked.items() if now is None]:
        message = f"{', '.join(unknown)} could not be found out; check a run, or give probes data"
        return Finding("interface", "not judged", message)
    said = ", ".join(f"{name} {now!r}" for name, (_, now) in asked.items())
    return Finding("interface", "passed", said)


def join_names(names: Iterable[str]) -> str:
    """Join names for a message, the first few of them."""
    shown = list(names)
    rest = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + rest
