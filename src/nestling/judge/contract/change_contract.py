"""`Contract`: what may change, what must stay fixed and what must change by when, as one document.

Its digest is that of its canonical form, so that layout and comments of a file do not count.
"""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from nestling.core.checked import checked, describe
from nestling.core.errors import SettingError, suggest
from nestling.judge.contract.clauses import (
    CONFIG,
    AsTuple,
    EvaluationProtocol,
    LevelRole,
    MayChange,
    MustChange,
    Name,
    Review,
    Risk,
    StaysFixed,
)
from nestling.judge.contract.contradictions import find_contradiction
from nestling.judge.contract.probe_spec import ProbeSpec


@checked
@dataclass(frozen=True, config=CONFIG)
class Contract:
    """Change contract of a learning system: may change, must stay fixed, must change by.

    Args:
        name: of the contract.
        purpose: what the system is for, in words.
        owner: who answers for it.
        levels: roles of the plan's levels; one that is not named is "fast".
        may_change: clauses; a level that none names must not change.
        must_stay_fixed: parameters, behaviour and interface.
        must_change_by: known harms, with the dates by which they must be gone.
        protocol: of evaluation.
        reviews: by people; with reviews of which none holds any more, no proposal is committed.
        risks: the risk review.
        probes: that clauses name.

    Raises:
        SettingError: a clause is wrong in itself, or two contradict each other; see
            `nestling.judge.contract.contradictions.find_contradiction`.

    >>> contract = Contract(
    ...     "triage",
    ...     levels=[LevelRole("spine", role="spine")],
    ...     may_change=[MayChange("M1", "spine", "drift correction", trigger="proposal")],
    ... )
    >>> Contract.from_toml(contract.to_toml()).digest == contract.digest
    True
    """

    name: Name
    purpose: str = ""
    owner: str = ""
    levels: Annotated[Sequence[LevelRole], AsTuple] = ()
    may_change: Annotated[Sequence[MayChange], AsTuple] = ()
    must_stay_fixed: StaysFixed = StaysFixed()
    must_change_by: Annotated[Sequence[MustChange], AsTuple] = ()
    protocol: EvaluationProtocol = EvaluationProtocol()
    reviews: Annotated[Sequence[Review], AsTuple] = ()
    risks: Annotated[Sequence[Risk], AsTuple] = ()
    probes: Annotated[Sequence[ProbeSpec], AsTuple] = ()

    @model_validator(mode="after")
    def _check(self) -> "Contract":
        said = find_contradiction(
            levels=self.levels,
            may_change=self.may_change,
            fixed=self.must_stay_fixed,
            duties=self.must_change_by,
            protocol=self.protocol,
            risks=self.risks,
            probes=self.probes,
        )
        if said:
            raise ValueError(said)
        return self

    def list_clauses(self) -> list[Any]:
        """All clauses that have an id, in the order of the document."""
        fixed = self.must_stay_fixed
        return [*self.may_change, *fixed.behaviour, *self.must_change_by, *self.risks]

    def find_modification(self, id: str) -> MayChange:
        """The may-change clause of an id; SettingError with the nearest one if there is none."""
        known = {clause.id: clause for clause in self.may_change}
        if id not in known:
            raise SettingError(f"the contract has no modification {id!r}; {suggest(id, known)}")
        return known[id]

    def list_spine(self) -> list[str]:
        """Names of the levels whose role is "spine"."""
        return [level.name for level in self.levels if level.role == "spine"]

    @property
    def digest(self) -> str:
        """SHA-256 digest of the canonical form: JSON with sorted keys, defaults included."""
        data = _adapter().dump_python(self, mode="json")
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_data(self) -> dict[str, Any]:
        """The contract as JSON-ready data; defaults are left out."""
        data: dict[str, Any] = _adapter().dump_python(
            self, mode="json", exclude_defaults=True, exclude_none=True
        )
        return data

    def to_toml(self) -> str:
        """The contract as TOML."""
        return tomli_w.dumps(self.to_data())

    @classmethod
    def from_data(cls, data: object, where: str = "the contract") -> "Contract":
        """Read what `to_data` gave, or what a TOML file holds; SettingError if it is wrong."""
        try:
            return _adapter().validate_python(data)
        except ValidationError as error:
            raise SettingError(f"{where}: {describe(error)}") from None

    @classmethod
    def from_toml(cls, text: str, where: str = "the contract") -> "Contract":
        """Read a contract from TOML.

        Raises:
            SettingError: no TOML, or a clause that is wrong; says where.
        """
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingError(f"{where} is not TOML: {error}") from None
        return cls.from_data(data, where)

    @classmethod
    def of(cls, source: "Contract | Path | str") -> "Contract":
        """A contract, or the one in a file; SettingError if it cannot be read."""
        if isinstance(source, Contract):
            return source
        path = Path(source)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"cannot read contract '{path}': {error}") from None
        return cls.from_toml(text, f"'{path}'")


def _adapter() -> TypeAdapter[Contract]:
    return TypeAdapter(Contract)
