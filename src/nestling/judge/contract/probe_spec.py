"""A probe as a contract names it: metric, data, slices and groups, as data."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from nestling.core.checked import checked
from nestling.judge.contract.clauses import CONFIG, AsTuple, Name, OneOrMore, Text


@checked
@dataclass(frozen=True, config=CONFIG)
class ProbeSpec:
    """Specification of a probe: its metric, its data, its slices and groups.

    Args:
        name: by which clauses name it.
        metric: a built-in metric, or "module:function" of the user's own.
        data: "module:function" that gives `ProbeData`, or the path of a CSV file that has the
            columns of a run; empty if the data are given in Python under the probe's name.
        digest: sha256 that the data must have; empty for whatever they are.
        groups: columns whose values are compared, e.g. ["sex"].
        slices: slice name -> what a row must have, column -> value.
        least_examples: rows that a figure needs; None for the protocol's.
        settings: of the metric, e.g. {"positive": 1}.
    """

    name: Name
    metric: Text
    data: str = ""
    digest: str = ""
    groups: Annotated[Sequence[Text], OneOrMore, AsTuple] = ()
    slices: Mapping[str, Mapping[str, str]] = Field(default_factory=dict)
    least_examples: Annotated[int, Field(ge=1)] | None = None
    settings: Mapping[str, str | float | int | bool] = Field(default_factory=dict)
