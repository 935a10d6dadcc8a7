"""Signing a change contract: digests of what must stay fixed, written into its text."""

from collections.abc import Mapping
from dataclasses import replace

import tomli_w

from nestling.core.errors import SettingError
from nestling.judge.contract.change_contract import Contract
from nestling.judge.contract.contradictions import covers

_TABLE = "[must_stay_fixed.digests]"


def sign_contract(text: str, digests: Mapping[str, str], where: str = "the contract") -> str:
    """Write the digests of what a contract fixes into its text; comments and order stay.

    Args:
        text: TOML of a contract.
        digests: name -> sha256 of every parameter and buffer of the model that is signed for.
        where: what to call it in errors.

    Returns: the text with one table of digests, at its end, in place of any that it had.

    Raises:
        SettingError: no contract, or one whose parameters are none or match nothing.

    >>> text = 'name = "triage"\\n[must_stay_fixed]\\nparameters = ["norm.*"]  # statistics\\n'
    >>> signed = sign_contract(text, {"norm.w": "ab" * 32, "head.w": "cd" * 32})
    >>> "# statistics" in signed, list(Contract.from_toml(signed).must_stay_fixed.digests)
    (True, ['norm.w'])
    """
    contract = Contract.from_toml(text, where)
    fixed = contract.must_stay_fixed
    if not fixed.parameters:
        raise SettingError(
            f"{where} fixes no parameters, so there is nothing to sign; name some under "
            "[must_stay_fixed], such as parameters = ['norm.*']"
        )
    chosen = {name: digests[name] for name in sorted(digests) if covers(fixed.parameters, name)}
    if not chosen:
        raise SettingError(
            f"{where}: parameters {list(fixed.parameters)} match nothing of this model; correct "
            "the patterns"
        )
    wanted = replace(contract, must_stay_fixed=replace(fixed, digests=chosen))
    lines, is_inside = [], False
    for line in text.splitlines():
        if line.lstrip().startswith("["):
            is_inside = line.split("#")[0].strip() == _TABLE
        # A comment before the next table belongs to that.
        if not is_inside or (line.startswith("#") and line != _NOTE):
            lines.append(line)
    kept = "\n".join(line for line in lines if line != _NOTE).rstrip()
    table = tomli_w.dumps({"must_stay_fixed": {"digests": chosen}})
    signed = f"{kept}\n\n{_NOTE}\n{table}"
    try:
        if Contract.from_toml(signed) == wanted:
            return signed
    except SettingError:
        pass
    # Digests that stand in some other form, e.g. within another table's braces.
    return wanted.to_toml()


_NOTE = "# Written by `nestling contract sign`: sha256 of each tensor that must stay bit for bit."
