"""Probes of a contract with their data, and digests of what it fixes."""

from collections.abc import Mapping

from nestling.consolidate.proposal import digest_tensor
from nestling.core.errors import ContractError, SettingError
from nestling.judge.contract.change_contract import Contract
from nestling.judge.probes import ProbeData, load_probe_data, make_probe
from nestling.judge.probes.probe_result import Probe
from nestling.oversight.subjects.subject import Subject
from nestling.oversight.tried_change import list_fixed


def make_probes(contract: Contract, given: Mapping[str, ProbeData | Probe]) -> list[Probe]:
    """The probes of a contract, with the data that were given, and probes of one's own.

    Args:
        contract: lists probes by name.
        given: name -> data of a probe that the contract lists, or a probe.

    Raises:
        SettingError: a probe has no data, or data are given for none.
    """
    specs = {spec.name: spec for spec in contract.probes}
    made: list[Probe] = []
    for name, spec in specs.items():
        source = given.get(name)
        if source is None and not spec.data:
            raise SettingError(
                f"probe {name!r} has no data; say data = 'module:function' in the contract, or "
                f"give probes={{{name!r}: nl.judge.ProbeData(x, y)}}"
            )
        source = load_probe_data(spec) if source is None else source
        if isinstance(source, ProbeData):
            source = make_probe(spec, source, contract.protocol)
        made.append(source)
    for name, source in given.items():
        if name in specs:
            continue
        if isinstance(source, ProbeData):
            raise SettingError(
                f"data are given for probe {name!r}, which the contract does not list; add it "
                "under [[probes]], or give a probe of your own"
            )
        made.append(source)
    return made


def sign_fixed(subject: Subject, contract: Contract) -> dict[str, str]:
    """SHA-256 of everything that a contract fixes, name -> digest.

    Raises:
        ContractError: something is not as the contract says that it was signed.
    """
    tensors = subject.read_fixed()
    signed = contract.must_stay_fixed.digests
    found = {name: digest_tensor(tensors[name]) for name in list_fixed(subject, contract)}
    for name, digest in found.items():
        if signed.get(name, digest) != digest:
            raise ContractError(
                f"{name!r} is not as it was signed ({digest[:12]}..., signed "
                f"{signed[name][:12]}...); put the signed weights back, or have the contract "
                "signed anew"
            )
    return found
