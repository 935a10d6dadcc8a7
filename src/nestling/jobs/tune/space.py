"""The knobs of a plan that a search may turn, by dotted names such as "spine.optimizer.lr"."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nestling.core.errors import SettingError, suggest
from nestling.levels import Copy, Level, Memory, Plan
from nestling.levels.spec import AnySpec
from nestling.optim import CustomOptimizer

Value = str | int | float | bool
Knobs = Mapping[str, Value]

PERIODS = (1, 2, 4, 8, 16)
HALF_LIVES = (300.0, 3000.0, math.inf)
RATE_FACTOR = 10.0  # a rate is searched from a tenth of the job's to ten times it


@dataclass(frozen=True)
class Knob:
    """Search range of one hyperparameter: a number between two bounds, or a list of choices.

    Args:
        name: "level.field" or "level.field.field".
        low: least number; None for a list.
        high: greatest number; None for a list.
        is_log: whether numbers are drawn by their logarithm.
        is_whole: whether only whole numbers are drawn.
        choices: the list; empty for numbers.
    """

    name: str
    low: float | None = None
    high: float | None = None
    is_log: bool = False
    is_whole: bool = False
    choices: tuple[Value, ...] = ()

    def list_ends(self) -> tuple[Value, ...]:
        """What a plan must be able to take: both bounds, or every choice."""
        if self.choices:
            return self.choices
        ends = (self.low, self.high)
        return tuple(int(v) if self.is_whole else v for v in ends if v is not None)


def read_space(data: object, plan: Plan) -> list[Knob]:
    """Check the `[tune.space]` table of a job against a plan.

    Args:
        data: name -> {low, high, log} or a list of values, as TOML gives it.
        plan: every end of every knob must give a plan that holds.

    Raises:
        SettingError: an unknown level or field (names the nearest), bounds that are none, or a
            value that no plan takes.

    >>> plan = Plan(Level("net", match=("*",)))
    >>> read_space({"net.period": [1, 4]}, plan)[0].choices
    (1, 4)
    """
    if not isinstance(data, Mapping) or not data:
        raise SettingError(
            f'tune.space is {data!r}; write e.g. "net.period" = [1, 4] or '
            '"net.optimizer.lr" = { low = 1e-3, high = 0.1, log = true }'
        )
    knobs = [_read_knob(str(name), raw) for name, raw in data.items()]
    check_space(knobs, plan)
    return knobs


def check_space(knobs: Sequence[Knob], plan: Plan) -> None:
    """Raise SettingError if an end of a knob gives no plan, or two knobs are the same."""
    names = [knob.name for knob in knobs]
    for knob in knobs:
        if names.count(knob.name) > 1:
            raise SettingError(f"knob {knob.name!r} stands twice in tune.space; keep one")
        for value in knob.list_ends():
            apply_knobs(plan, {knob.name: value})


def derive_space(plan: Plan) -> list[Knob]:
    """Default search space of a plan: rates, periods, decays and half-lives.

    Of every gradient level the learning rate (a tenth to ten times, by its logarithm; not of an
    optimizer of the user's own, which keeps it to itself) and the period; of every copy the share
    that is new at each update; of every memory of one half-life that half-life.

    >>> from nestling.optim import sgd
    >>> plan = Plan(Level("net", match=["*"], optimizer=sgd(lr=0.1)))
    >>> [knob.name for knob in derive_space(plan)]
    ['net.optimizer.lr', 'net.period']
    """
    found: list[Knob] = []
    for level in plan.levels:
        if isinstance(level, Level):
            if not isinstance(level.optimizer, CustomOptimizer):
                lr = level.optimizer.lr
                low, high = lr / RATE_FACTOR, lr * RATE_FACTOR
                found.append(Knob(f"{level.name}.optimizer.lr", low, high, is_log=True))
            periods = tuple(p for p in sorted({level.period, *PERIODS}) if p >= level.window)
            found.append(Knob(f"{level.name}.period", choices=periods))
        elif isinstance(level, Copy) and level.rule is None:
            found.append(Knob(f"{level.name}.decay", choices=(0.9, 0.95, 0.98, 0.99, 0.995, 0.999)))
        elif isinstance(level, Memory) and len(level.half_lives) == 1:
            lives = tuple(sorted({float(level.half_lives[0]), *HALF_LIVES}))
            found.append(Knob(f"{level.name}.half_lives", choices=lives))
    return found


def apply_knobs(plan: Plan, knobs: Knobs) -> Plan:
    """Apply hyperparameters to a plan; the given plan stays as it is.

    Args:
        plan: any.
        knobs: dotted name -> value. A single number for a field that holds several
            ("memory.half_lives") stands for a list of one.

    Raises:
        SettingError: an unknown level or field, names the nearest; or a value that is out of range.
        UnknownLevel: see `Plan`.

    >>> plan = Plan(Level("net", match=("*",)))
    >>> apply_knobs(plan, {"net.period": 4}).gradient_levels[0].period
    4
    """
    data: dict[str, Any] = copy.deepcopy(plan.to_data())
    for name, value in knobs.items():
        index, fields = _split_name(name, plan)
        _set(data["level"][index], plan.levels[index], fields, value)
    source = "the plan with " + ", ".join(f"{k} = {v}" for k, v in knobs.items())
    return Plan.from_data(data, source, like=plan)


def _split_name(name: str, plan: Plan) -> tuple[int, list[str]]:
    """Which level a knob is of, and its fields; a level's name may hold dots itself."""
    fitting = [
        (len(level.name), index)
        for index, level in enumerate(plan.levels)
        if name.startswith(f"{level.name}.")
    ]
    if not fitting:
        known = [level.name for level in plan.levels]
        raise SettingError(f"knob {name!r} is of no level; {suggest(name.split('.')[0], known)}")
    length, index = max(fitting)
    return index, name[length + 1 :].split(".")


def _set(table: dict[str, Any], spec: AnySpec, fields: list[str], value: Value) -> None:
    held: Any = spec
    for number, field in enumerate(fields):
        known = [one for one in vars(held) if one not in ("name", "kind")]
        if field not in known:
            whole = f"{spec.name}.{'.'.join(fields)}"
            raise SettingError(f"knob {whole!r}: no field {field!r}; {suggest(field, known)}")
        held = getattr(held, field)
        if number < len(fields) - 1:
            if isinstance(held, CustomOptimizer):
                raise SettingError(
                    f"knob {spec.name}.{'.'.join(fields)}: {held.name!r} keeps its settings to "
                    "itself; nl.sgd, nl.adam and nl.adamw have knobs"
                )
            if not hasattr(held, "__dict__"):
                raise SettingError(f"knob {spec.name}.{'.'.join(fields)}: {field!r} has no fields")
            inner = table.setdefault(field, {})
            if "name" in vars(held):  # which optimizer it is, if only by default
                inner.setdefault("name", held.name)
            table = inner
    is_several = isinstance(held, tuple | list)
    table[fields[-1]] = [value] if is_several else value


def _read_knob(name: str, raw: object) -> Knob:
    if isinstance(raw, list):
        if len(raw) < 2 or not all(isinstance(one, Value) for one in raw):
            raise SettingError(f"knob {name!r}: {raw!r}; give two values or more")
        return Knob(name, choices=tuple(raw))
    if not isinstance(raw, Mapping):
        raise SettingError(f"knob {name!r}: {raw!r}; give a list, or {{ low = ..., high = ... }}")
    if extra := sorted(raw.keys() - {"low", "high", "log"}):
        raise SettingError(f"knob {name!r}: {suggest(extra[0], ['low', 'high', 'log'])}")
    low, high, is_log = raw.get("low"), raw.get("high"), raw.get("log", False)
    is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (low, high))
    if not is_number or not isinstance(is_log, bool):
        raise SettingError(
            f"knob {name!r}: {dict(raw)!r}; low and high are numbers, log true or false"
        )
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if not -math.inf < low < high < math.inf or (is_log and low <= 0):
        raise SettingError(
            f"knob {name!r}: low {low}, high {high}; low < high works, above 0 for log"
        )
    return Knob(name, low, high, is_log, isinstance(low, int) and isinstance(high, int))
