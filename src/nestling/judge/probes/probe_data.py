"""`ProbeData`: the rows on which a probe measures, with a digest, and text columns for groups."""

import hashlib
import json
import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nestling.core.arguments import name_kind
from nestling.core.errors import DataError, NestlingError, NonFiniteInput, SettingError, suggest
from nestling.core.imports import import_function
from nestling.judge.contract.probe_spec import ProbeSpec

# A tensor, several of them, or events as a stream learner takes them.
Inputs = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor] | Sequence[Mapping[str, Any]]
_PLAIN = (str, numbers.Number, type(None), date, datetime, time, timedelta)


@dataclass(frozen=True, eq=False)
class ProbeData:
    """Data of a probe: inputs, targets, and what is known of each row in words.

    The tensors are held as they are, not copied: whoever changes them afterwards changes what
    the digest vouches for.

    Args:
        x: inputs of N rows: a tensor (N, ...), a tuple or a dict of such, or a list of N events.
        y: (N,) classes, whole numbers of which those below 0 do not count, or values (N,) or
            (N, M); None for no targets.
        columns: name -> N texts, for groups and slices.
        x_changed: the same rows, altered in a way that the answer should bear (invariance) or
            follow (monotonicity); in the form of `x`.

    Raises:
        DataError: no rows, parts of different lengths, or something that is none of these.
        NonFiniteInput: a target that is NaN or infinite.

    >>> import torch
    >>> data = ProbeData(torch.rand(3, 2), torch.tensor([0, 1, 1]), {"sex": ["f", "m", "f"]})
    >>> data.num_rows, data.select([0, 2]).columns["sex"]
    (3, ('f', 'f'))
    """

    x: Inputs
    y: Tensor | None = None
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    x_changed: Inputs | None = None

    def __post_init__(self) -> None:
        count = _count_rows(self.x, "x")
        if count == 0:
            raise DataError("probe data of no rows; give one row or more")
        if self.x_changed is not None:
            changed = _count_rows(self.x_changed, "x_changed")
            if changed != count:
                raise DataError(f"{changed} changed rows for {count}; change each row once")
        if self.y is not None:
            object.__setattr__(self, "y", _check_targets(self.y, count))
        columns = {str(name): _check_column(name, of, count) for name, of in self.columns.items()}
        object.__setattr__(self, "columns", columns)

    @property
    def num_rows(self) -> int:
        """N."""
        return _count_rows(self.x, "x")

    @property
    def has_classes(self) -> bool:
        """Whether there are targets that are classes, not values."""
        return self.y is not None and not self.y.is_floating_point()

    @cached_property
    def digest(self) -> str:
        """SHA-256 digest of names, dtypes, shapes, bytes and texts, computed once."""
        digest = hashlib.sha256()
        for part, inputs in (("x", self.x), ("x_changed", self.x_changed), ("y", self.y)):
            for piece in () if inputs is None else _read_bytes(part, inputs):
                # Lengths keep two pieces from being read as two others.
                digest.update(f"{len(piece)}:".encode())
                digest.update(piece)
        digest.update(json.dumps(self.columns, sort_keys=True).encode())
        return digest.hexdigest()

    def select(self, rows: Sequence[int] | Tensor) -> "ProbeData":
        """Some of the rows, in the order given.

        Args:
            rows: (n,) numbers of rows, from 0.

        Raises:
            DataError: no rows, or one that is not there.
        """
        chosen: list[int] = rows.tolist() if isinstance(rows, Tensor) else list(rows)
        if wrong := [row for row in chosen if not 0 <= row < self.num_rows]:
            raise DataError(f"no row {wrong[0]}; rows 0 to {self.num_rows - 1} are there")
        return ProbeData(
            _select(self.x, chosen),
            None if self.y is None else self.y[chosen],
            {name: [texts[row] for row in chosen] for name, texts in self.columns.items()},
            None if self.x_changed is None else _select(self.x_changed, chosen),
        )

    def read_column(self, name: str) -> Sequence[str]:
        """Texts of a column, one per row; DataError with the nearest name if there is none."""
        if name not in self.columns:
            known = suggest(name, self.columns) if self.columns else "the data have no columns"
            raise DataError(f"no column {name!r}; {known}")
        return self.columns[name]

    def find_slice(self, name: str, having: Mapping[str, str]) -> list[int]:
        """Numbers of the rows of a slice: those that have a text in each of its columns.

        Args:
            name: of the slice, for the error.
            having: column -> text.

        Raises:
            DataError: no such column, or no such row; says which texts there are.
        """
        texts = {column: self.read_column(column) for column in having}
        rows = [
            row
            for row in range(self.num_rows)
            if all(texts[column][row] == text for column, text in having.items())
        ]
        if not rows:
            wanted = " and ".join(f"{column} = {text!r}" for column, text in having.items())
            known = ", ".join(f"{column}: {_show(texts[column])}" for column in having)
            raise DataError(f"slice {name!r} has no rows: none with {wanted}; there are {known}")
        return rows


def load_probe_data(spec: ProbeSpec) -> ProbeData:
    """Data of a probe, from the function that its specification names.

    Args:
        spec: with `data` as "module:function"; the function takes no arguments.

    Raises:
        SettingError: no function is named, it cannot be imported, or it gives something else.
        DataError: it fails.
    """
    if ":" not in spec.data:
        named = f"{spec.data!r}" if spec.data else "nothing"
        raise SettingError(
            f"probe {spec.name!r}: its data name {named}, no function; write "
            "data = 'module:function', or give ProbeData in Python"
        )
    function = import_function(spec.data)
    try:
        given = function()
    except NestlingError as error:
        raise DataError(f"probe {spec.name!r}: data from {spec.data!r}: {error}") from error
    except Exception as error:
        raise DataError(
            f"probe {spec.name!r}: data from {spec.data!r} failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(given, ProbeData):
        raise SettingError(
            f"probe {spec.name!r}: {spec.data!r} gave {name_kind(given)}; return "
            "ProbeData(x, y, columns)"
        )
    return given


def _count_rows(inputs: object, part: str) -> int:
    if isinstance(inputs, Tensor):
        if inputs.ndim == 0:
            raise DataError(f"{part} is a single number; give a tensor (N, ...)")
        return len(inputs)
    if isinstance(inputs, tuple | Mapping) and inputs:
        named = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs)
        counts = {}
        for name, tensor in named:
            if not isinstance(tensor, Tensor):
                raise DataError(f"{part}[{name!r}] is {name_kind(tensor)}; give a tensor (N, ...)")
            counts[name] = _count_rows(tensor, f"{part}[{name!r}]")
        if len(set(counts.values())) > 1:
            raise DataError(f"the tensors of {part} have {counts} rows; give as many of each")
        return next(iter(counts.values()))
    if isinstance(inputs, list):
        if wrong := [event for event in inputs if not isinstance(event, Mapping)]:
            raise DataError(f"an event of {part} is {name_kind(wrong[0])}; give a dict")
        return len(inputs)
    raise DataError(
        f"{part} is {name_kind(inputs)}; give a tensor, a tuple or dict of tensors, or a list of "
        "events"
    )


def _check_targets(y: object, count: int) -> Tensor:
    if not isinstance(y, Tensor):
        raise DataError(f"y is {name_kind(y)}; give a tensor (N,) of classes or values")
    if y.ndim == 0 or len(y) != count:
        raise DataError(f"targets of shape {tuple(y.shape)} for {count} rows; give one per row")
    if y.is_complex() or (not y.is_floating_point() and y.ndim != 1):
        raise DataError(f"targets {y.dtype} of shape {tuple(y.shape)}; classes are (N,) integers")
    if y.is_floating_point():
        if not bool(y.isfinite().all()):
            raise NonFiniteInput("a target is not finite; leave such rows out")
        return y.detach()
    return y.detach().long()


def _check_column(name: str, texts: object, count: int) -> tuple[str, ...]:
    if isinstance(texts, str) or not hasattr(texts, "__iter__"):
        raise DataError(f"column {name!r} is {name_kind(texts)}; give a list of texts")
    column = tuple(texts)
    if len(column) != count:
        raise DataError(f"column {name!r} has {len(column)} texts for {count} rows; one per row")
    if wrong := [text for text in column if not isinstance(text, str)]:
        raise DataError(
            f"column {name!r} holds {name_kind(wrong[0])}; texts work, such as {str(wrong[0])!r}"
        )
    return column


def _select(inputs: Inputs, rows: list[int]) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs[rows]
    if isinstance(inputs, tuple):
        return tuple(tensor[rows] for tensor in inputs)
    if isinstance(inputs, Mapping):
        return {name: tensor[rows] for name, tensor in inputs.items()}
    return [inputs[row] for row in rows]


def _read_bytes(name: str, inputs: Inputs) -> Iterator[bytes | memoryview]:
    """Name, dtype and shape of each tensor, then its bytes; of events the texts of their items."""
    if isinstance(inputs, Tensor):
        yield f"{name} {inputs.dtype} {tuple(inputs.shape)}".encode()
        content = inputs.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        yield content.numpy().tobytes()
    elif isinstance(inputs, tuple):
        for place, tensor in enumerate(inputs):
            yield from _read_bytes(f"{name}[{place}]", tensor)
    elif isinstance(inputs, Mapping):
        for key in sorted(inputs):
            yield from _read_bytes(f"{name}[{key!r}]", inputs[key])
    else:
        for place, event in enumerate(inputs):
            items = [(repr(key), _write_value(value)) for key, value in event.items()]
            yield f"{name}[{place}] {sorted(items)!r}".encode()


def _write_value(value: object) -> str:
    # Two numbers that are equal are the same number, whichever library made them.
    plain = value.item() if isinstance(value, np.generic) else value
    if not isinstance(plain, _PLAIN):
        raise DataError(f"an event holds {name_kind(value)}; numbers, texts and dates work")
    return repr(plain)


def _show(texts: Sequence[str]) -> str:
    known = sorted(set(texts))
    return str(known if len(known) <= 12 else [*known[:12], f"... and {len(known) - 12} more"])
