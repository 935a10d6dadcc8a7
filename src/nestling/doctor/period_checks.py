"""Periods that a model declares itself, in attributes or options: does any code read them?"""

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nestling.doctor.check_results import Check, failed, list_names, passed, skipped
from nestling.doctor.examined_model import Examinable, ExaminedModel
from nestling.doctor.hidden_state import keep_values, list_changed, list_held, list_module_state
from nestling.doctor.level_run import NEVER, PERIOD
from nestling.doctor.practice import Practice

# Whole numbers of these names say how often something moves. `chunk` alone does not: it often is
# how many tokens are computed at once, which changes nothing.
_WORDS = frozenset(
    {"period", "periods", "frequency", "frequencies", "freq", "freqs", "every", "interval"}
    | {"intervals", "chunks", "clock_period"}
)
_SHOWING = frozenset({"log", "logging", "print", "save", "saving", "eval", "checkpoint", "report"})
# Of waves, of which a model makes features when it is made: `num_frequencies`, `max_period`.
_OF_WAVES = frozenset({"num", "n", "max", "min", "base", "rope"})
_MADE_ELSEWHERE = frozenset({"torch", "builtins", "numpy", "functools", "collections", "types"})
_DEPTH = 8
_ONCE_MADE = " once the model is made; give make= and options= if it is read before"
NUM_STEPS = 4
Path = tuple[str | int, ...]  # keys and attributes, from the model down
Make = Callable[..., Examinable]


def is_period(name: str) -> bool:
    """Whether a name says how often something moves; how often something is shown does not count.

    Nor do the frequencies of features that are waves, by their usual names.

    >>> is_period("update_every"), is_period("chunk"), is_period("log_every")
    (True, False, False)
    >>> is_period("num_frequencies"), is_period("max_period")
    (False, False)
    """
    words = set(name.lower().split("_"))
    return bool(_WORDS & words) and not (_SHOWING | _OF_WAVES) & words


def find_periods(module: nn.Module) -> dict[Path, int]:
    """Periods that a model holds in attributes, also within lists, dictionaries and settings.

    >>> net = nn.Linear(1, 1)
    >>> net.periods = (1, 8)
    >>> find_periods(net)
    {('periods', 0): 1, ('periods', 1): 8}
    """
    return dict(_walk(module, (), False, _DEPTH, set()))


def _walk(
    owner: object, path: Path, is_named: bool, depth: int, seen: set[int]
) -> Iterator[tuple[Path, int]]:
    """Places and values of the whole numbers under names of periods."""
    if depth == 0 or id(owner) in seen:
        return
    seen.add(id(owner))
    for key, value in _list_parts(owner):
        named = is_period(key) if isinstance(key, str) else False
        # The entries of `periods` are periods, whatever their own names.
        named = named or (is_named and isinstance(owner, Mapping | list | tuple))
        if _is_count(value):
            if named:
                yield (*path, key), value
        else:
            yield from _walk(value, (*path, key), named, depth - 1, seen)


def _list_parts(owner: object) -> Iterator[tuple[str | int, Any]]:
    """What lies in an object, by key; nothing in what torch or Python made."""
    if isinstance(owner, nn.Module):
        own = vars(owner)
        yield from ((key, own[key]) for key in own if not key.startswith("_") and key != "training")
        yield from owner._modules.items()
    elif isinstance(owner, Mapping):
        yield from ((key, one) for key, one in owner.items() if isinstance(key, str | int))
    elif isinstance(owner, list | tuple):
        yield from enumerate(owner)
    elif hasattr(owner, "__dict__") and type(owner).__module__.split(".")[0] not in _MADE_ELSEWHERE:
        yield from vars(owner).items()


def _put(owner: Any, path: Path, value: int) -> Any:
    """The owner with one period changed; it is changed itself unless it is a tuple."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(owner, tuple):
        parts = list(owner)
        place = int(key)
        parts[place] = _put(parts[place], rest, value)
        return type(owner)(*parts) if hasattr(owner, "_fields") else type(owner)(parts)
    if isinstance(owner, MutableMapping | list):
        held: Any = owner
        held[key] = _put(held[key], rest, value)
        return owner
    part = getattr(owner, str(key))
    new = _put(part, rest, value)
    if new is not part:
        object.__setattr__(owner, str(key), new)  # a frozen dataclass, too: it is a copy
    return owner


def _name(path: Path) -> str:
    """How a program would write a place.

    >>> _name(("blocks", "0", "periods", 1))
    'blocks.0.periods[1]'
    """
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in path).lstrip(".")


def _find_leaf(path: Path) -> Path:
    """The last name of a place and what follows it."""
    last = max(index for index, key in enumerate(path) if isinstance(key, str) and is_period(key))
    return path[last:]


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
    # A period that was handed on to submodules is one period: all are set together.
    groups: dict[tuple[Path, int], list[Path]] = {}
    for path, value in find_periods(subject.module).items():
        groups.setdefault((_find_leaf(path), value), []).append(path)
    leaves = {leaf[0] for leaf, _ in groups}
    seen = set()
    for name, held in (options or {}).items() if make is not None else ():
        for path in [path for path, _ in _walk({name: held}, (), False, _DEPTH, set())]:

            def remade(
                value: int, name: str = name, held: object = held, path: Path = path
            ) -> ExaminedModel:
                assert make is not None
                changed = _put({name: copy.deepcopy(held)}, path, value)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(subject.seed)
                    return replace(subject, source=make(**changed))

            check = _compare(_name(path), remade, practice)
            if check.outcome != "not examined":
                seen.add(name)  # it may be read when the model is made only
            elif name in leaves:
                continue  # the attribute shall say
            checks.append(check)
    for (leaf, _), paths in groups.items():
        if leaf[0] in seen:
            continue

        def changed(value: int, paths: list[Path] = paths) -> ExaminedModel:
            one = subject.copy()
            for path in paths:
                _put(one.module, path, value)
            return one

        name = list_names([_name(path) for path in paths], 3)
        checks.append(_compare(name, changed, practice, _ONCE_MADE))
    return checks


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _compare(
    name: str, make: Callable[[int], ExaminedModel], practice: Practice, hint: str = ""
) -> Check:
    runs = []
    for value in (1, NEVER):
        try:
            runs.append(_run(make(value), practice))
        except Exception as error:  # whatever a model makes of such a period
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
        f"no code reads it{hint}",
    )


def _run(subject: ExaminedModel, practice: Practice) -> dict[str, Tensor | float]:
    """Weights, answers and what is hidden after some steps; the periods themselves left out."""
    one = subject.copy()
    params = [param for param in one.module.parameters() if param.requires_grad]
    state: object = None
    after = y = torch.empty(0, device=one.x.device, dtype=torch.float32)
    for step in range(NUM_STEPS):
        y, state = one.call(one.x, None, write=True, salt=step)
        if subject.has_state:
            after, state = one.call(one.x, state, write=True, salt=step)
        loss = practice.loss(y)
        if loss.requires_grad and params:
            grads = torch.autograd.grad(loss, params, allow_unused=True)
            with torch.no_grad():
                for param, grad in zip(params, grads, strict=True):
                    if grad is not None:
                        param.add_(grad, alpha=-0.1)
    held = dict(one.module.named_parameters()) | list_module_state(one.module)
    held |= {"the answer": y, "the next answer": after} | list_held(copy.copy(state), "state")
    return {
        name: value
        for name, value in keep_values(held).items()
        if isinstance(value, Tensor) or not any(is_period(part) for part in name.split("."))
    }
