"""Periods that a model declares itself, in attributes or options: does any code read them?"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from nestling.core.errors import NestlingError
from nestling.doctor.check_results import Check, failed, passed, skipped
from nestling.doctor.examined_model import ExaminedModel
from nestling.doctor.hidden_state import keep_values, list_changed, list_held, list_module_state
from nestling.doctor.level_run import NEVER, PERIOD
from nestling.doctor.practice import Practice

# Whole numbers of these names say how often something moves. `chunk` alone does not: it often is
# how many tokens are computed at once, which changes nothing.
_WORDS = frozenset(
    {"period", "periods", "frequency", "frequencies", "freq", "freqs", "every", "interval"}
    | {"intervals", "chunks", "clock_period"}
)
NUM_STEPS = 6
Make = Callable[..., nn.Module]


def is_period(name: str) -> bool:
    """Whether a name says how often something moves.

    >>> is_period("update_every"), is_period("chunk"), is_period("slow_period")
    (True, False, True)
    """
    return bool(_WORDS & set(name.lower().split("_")))


def find_periods(module: nn.Module) -> dict[str, int | tuple[int, ...]]:
    """Attributes of a model that are periods, by where they lie.

    >>> net = nn.Linear(1, 1)
    >>> net.periods = (1, 8)
    >>> find_periods(net)
    {'periods': (1, 8)}
    """
    found: dict[str, int | tuple[int, ...]] = {}
    for prefix, one in module.named_modules():
        for key, value in vars(one).items():
            if key.startswith("_") or not is_period(key):
                continue
            name = f"{prefix}.{key}" if prefix else key
            if _is_count(value):
                found[name] = value
            elif isinstance(value, list | tuple) and value and all(map(_is_count, value)):
                found[name] = tuple(value)
    return found


def check_declared_periods(
    subject: ExaminedModel,
    practice: Practice,
    *,
    make: Make | None = None,
    options: Mapping[str, object] | None = None,
) -> list[Check]:
    """Whether each period that a model declares changes what it answers or becomes.

    Each is set to 1 and to 1,000,000, entry by entry; the model is run for some steps of plain
    gradient descent. Weights and answers that are the same bits mean that no code reads it.

    Args:
        subject: whose copies are run.
        practice: what is learned.
        make: makes the model with options given by name; attributes are set where it is None.
        options: periods among the options, with the value in force: a whole number or several.
    """
    checks: list[Check] = []
    attributes = find_periods(subject.module)
    leaves = {place.split(".")[-1] for place in attributes}
    seen = set()
    for name, held in (options or {}).items() if make is not None else ():
        for entry in _list_entries(held):

            def remade(
                value: int, name: str = name, held: object = held, entry: int | None = entry
            ) -> ExaminedModel:
                assert make is not None
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(subject.seed)
                    model = make(**{name: _put(held, entry, value)})
                return replace(subject, source=model)

            check = _compare(_name_entry(name, entry), remade, practice)
            if check.outcome != "not examined":
                seen.add(name)  # it may be read when the model is made only
            elif name in leaves:
                continue  # the attribute shall say
            checks.append(check)
    for place, value_now in attributes.items():
        if place.split(".")[-1] in seen:
            continue
        for entry in _list_entries(value_now):

            def changed(value: int, place: str = place, entry: int | None = entry) -> ExaminedModel:
                one = subject.copy()
                _set_period(one.module, place, entry, value)
                return one

            checks.append(_compare(_name_entry(place, entry), changed, practice))
    return checks


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _list_entries(held: object) -> list[int | None]:
    """Places of a value that are periods: None for the whole of it."""
    if _is_count(held):
        return [None]
    if isinstance(held, list | tuple) and all(map(_is_count, held)):
        return list(range(len(held)))
    return []


def _put(held: object, entry: int | None, value: int) -> object:
    """A period, or several, with one of them changed."""
    if entry is None or not isinstance(held, list | tuple):
        return value
    return type(held)([*held[:entry], value, *held[entry + 1 :]])


def _name_entry(name: str, entry: int | None) -> str:
    return name if entry is None else f"{name}[{entry}]"


def _set_period(module: nn.Module, place: str, entry: int | None, value: int) -> None:
    prefix, _, key = place.rpartition(".")
    owner = module.get_submodule(prefix)
    setattr(owner, key, _put(vars(owner)[key], entry, value))


def _compare(name: str, make: Callable[[int], ExaminedModel], practice: Practice) -> Check:
    runs = []
    for value in (1, NEVER):
        try:
            runs.append(_run(make(value), practice))
        except (RuntimeError, ValueError, TypeError, IndexError, NestlingError) as error:
            told = " ".join(str(error).split())[:120]
            return skipped(
                PERIOD, name, f"{name} = {value:,} raises {type(error).__name__}: {told}"
            )
    moved = list_changed(*runs)
    if moved:
        return passed(PERIOD, name, f"1 and {NEVER:,} differ in {len(moved)} tensors and numbers")
    return failed(
        PERIOD,
        name,
        f"1 and {NEVER:,} give the same bits in all weights and answers after {NUM_STEPS} steps: "
        "no code reads it",
    )


def _run(subject: ExaminedModel, practice: Practice) -> dict[str, Tensor | float]:
    """Weights, answers and what is hidden after some steps; the periods themselves left out."""
    one = subject.copy()
    params = [param for param in one.module.parameters() if param.requires_grad]
    state: object = None
    y = torch.empty(0, device=one.x.device, dtype=torch.float32)
    for step in range(NUM_STEPS):
        y, state = one.call(one.x, None, write=True, salt=step)
        loss = practice.loss(y)
        if loss.requires_grad and params:
            grads = torch.autograd.grad(loss, params, allow_unused=True)
            with torch.no_grad():
                for param, grad in zip(params, grads, strict=True):
                    if grad is not None:
                        param.add_(grad, alpha=-0.1)
    held = dict(one.module.named_parameters()) | list_module_state(one.module)
    held |= {"the answer": y} | list_held(copy.copy(state), "state")
    return {
        name: value
        for name, value in keep_values(held).items()
        if isinstance(value, Tensor) or not any(is_period(part) for part in name.split("."))
    }
