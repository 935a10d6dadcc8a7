"""Optimizers as data: what a plan may say, as a table or by a name."""

from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from nestling.optim.custom import CustomOptimizer
from nestling.optim.deep.dgd import DGD
from nestling.optim.deep.dmgd import DMGD
from nestling.optim.deep.m3 import M3
from nestling.optim.deep.memory_momentum import MemoryMomentum
from nestling.optim.deep.muon import Muon
from nestling.optim.plain_specs import SGD, Adam, AdamW

_KINDS = AdamW | Adam | SGD | Muon | M3 | DGD | DMGD | MemoryMomentum
_Ours = Annotated[_KINDS, Field(discriminator="name")]


class _AnyOptimizer:
    """How pydantic reads and writes an optimizer: ours as a table, another by its name.

    Checking imports nothing, so that a snapshot cannot: a name is no optimizer here. A plan that
    is read from a file looks its names up before.
    """

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            _read_optimizer,
            handler.generate_schema(_Ours),
            serialization=core_schema.wrap_serializer_function_ser_schema(_write_optimizer),
        )


# Optimizer of a level as data: built in, or any function to a torch optimizer.
OptimizerSpec = Annotated[
    AdamW | Adam | SGD | Muon | M3 | DGD | DMGD | MemoryMomentum | CustomOptimizer, _AnyOptimizer()
]


def _read_optimizer(value: Any, check: core_schema.ValidatorFunctionWrapHandler) -> object:
    if isinstance(value, CustomOptimizer):
        return value
    if callable(value):
        return CustomOptimizer.wrap(value)
    if isinstance(value, _KINDS | dict):
        return check(value)
    raise PydanticCustomError(
        "optimizer",
        "no optimizer; nl.adamw(lr=1e-3) works, or a function from parameters to a "
        "torch.optim.Optimizer such as torch.optim.RMSprop",
    )


def _write_optimizer(value: Any, write: core_schema.SerializerFunctionWrapHandler) -> object:
    return value.name if isinstance(value, CustomOptimizer) else write(value)


def name_rules(spec: OptimizerSpec, data: object) -> object:
    """Write out what tells optimizers apart, though it is a default of its own class.

    Args:
        spec: the optimizer.
        data: what pydantic wrote of it, defaults left out.

    >>> name_rules(AdamW(), {})
    {'name': 'adamw'}
    """
    if isinstance(spec, CustomOptimizer):
        return spec.name
    table = {"name": spec.name, **(data if isinstance(data, dict) else {})}
    other = getattr(spec, "other", None)  # the rule of what is no matrix
    if other is not None and "other" in table:
        table["other"] = {"name": other.name, **table["other"]}
    return table
