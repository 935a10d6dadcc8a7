"""The methods by name. nestling's defaults have nothing to tune; all others have.

What a method imports is imported when it is built.
"""

from collections.abc import Iterable, Mapping

from nestling.bench.rivals.competitors import (
    ClosedFormCompetitor,
    Competitor,
    DefaultLearner,
    JointLoop,
    PlainLoop,
)
from nestling.bench.rivals.tunable import CAPACITY, Kind, Method, Range, Settings, Setup
from nestling.core.errors import SettingError, suggest
from nestling.core.imports import import_function
from nestling.core.seeds import make_generator
from nestling.learn import Learner

_LR = Range(0.003, 0.3, 0.03)
_EWC = Range(1.0, 1e3, 20.0)
_MAS = Range(0.01, 10.0, 0.3)
_LWF = Range(0.1, 10.0, 1.0)
_ALPHA = Range(0.05, 2.0, 0.3)
_BETA = Range(0.1, 2.0, 0.5)
_DECAY = Range(0.9, 0.999, 0.99)


def find_method(name: str) -> Method:
    """A method by its name, or the `Method` that the user's "module:function" returns.

    Raises:
        SettingError: no such method, names the nearest; no such module or function; or the
            user's function fails.
    """
    if ":" in name:
        function = import_function(name)
        try:
            method = function()
        except Exception as error:
            raise SettingError(f"'{name}' failed with {type(error).__name__}: {error}") from error
        if not isinstance(method, Method):
            raise SettingError(f"'{name}' returned {type(method).__name__}; return a bench Method")
        return method
    if name not in METHODS:
        raise SettingError(f"method {name!r}; {suggest(name, METHODS)}")
    return METHODS[name]


def list_methods() -> list[str]:
    """Names of all methods that come with nestling."""
    return list(METHODS)


def choose_methods(names: Iterable[str], budget: str | int) -> list[str]:
    """Which methods run.

    Args:
        names: those that were asked for, checked; none for what the budget holds.
        budget: "small" for the named subset, anything else for all.

    >>> choose_methods(["ewc", "ewc"], "small")
    ['ewc']
    """
    asked = list(dict.fromkeys(names))
    for name in asked:
        find_method(name)
    return asked or [name for name, one in METHODS.items() if budget != "small" or one.is_small]


def _loop(
    name: str,
    kind: Kind,
    parts: tuple[str, ...] = (),
    space: Mapping[str, Range] | None = None,
    is_small: bool = False,
    is_told: bool = False,
) -> Method:
    """SGD, whose rate is tuned, with protecting methods by name; see `parts`."""

    def build(setup: Setup, settings: Settings) -> Competitor:
        from nestling.bench.rivals.protections_by_name import PARTS

        methods = [PARTS[part](setup, settings) for part in parts]
        return PlainLoop(setup.make_model(), settings["lr"], methods)

    return Method(name, kind, build, {"lr": _LR, **(space or {})}, False, is_small, is_told)


def _solve(name: str, space: Mapping[str, Range] | None = None, is_small: bool = False) -> Method:
    """A closed form by name; see `parts`."""

    def build(setup: Setup, settings: Settings) -> Competitor:
        from nestling.bench.rivals.protections_by_name import SOLVERS

        return ClosedFormCompetitor(SOLVERS[name](setup, settings))

    return Method(name, "closed_form", build, space or {}, is_small=is_small)


def _build_joint(setup: Setup, settings: Settings) -> Competitor:
    return JointLoop(
        setup.make_model,
        settings["lr"],
        epochs=setup.epochs,
        batch_size=setup.batch_size,
        generator=make_generator(setup.seed, "joint"),
    )


def _build_default(setup: Setup, _: Settings) -> Competitor:
    return _make_default(setup, replay=0)


def _build_default_replay(setup: Setup, _: Settings) -> Competitor:
    return _make_default(setup, replay=CAPACITY)


def _make_default(setup: Setup, *, replay: int) -> Competitor:
    model = setup.make_pretrained() if setup.is_encoded else setup.make_model()
    return DefaultLearner(
        Learner(model, pretrained=setup.is_encoded, replay=replay, seed=setup.seed)
    )


_NO_REPLAY = (
    Method("default", "no_replay", _build_default, is_default=True, is_small=True),
    _loop("finetune", "no_replay", is_small=True),
    _loop("l2sp", "no_replay", ("l2sp",), {"strength": Range(1e-4, 1.0, 1e-2)}),
    _loop("ewc", "no_replay", ("ewc",), {"strength": _EWC}, is_told=True),
    _loop("ewc-masked", "no_replay", ("mask", "ewc"), {"strength": _EWC}, True, True),
    _loop(
        "online-ewc",
        "no_replay",
        ("online-ewc",),
        {"strength": _EWC, "decay": Range(0.5, 1.0, 0.9)},
        is_told=True,
    ),
    _loop("si", "no_replay", ("si",), {"strength": Range(0.01, 10.0, 0.5)}, is_told=True),
    _loop("mas", "no_replay", ("mas",), {"strength": _MAS}, is_told=True),
    _loop("mas-masked", "no_replay", ("mask", "mas"), {"strength": _MAS}, is_told=True),
    _loop("lwf", "no_replay", ("lwf",), {"strength": _LWF}, True, True),
    _loop("lwf-masked", "no_replay", ("mask", "lwf"), {"strength": _LWF}, is_told=True),
    _loop("ema", "no_replay", ("ema",), {"decay": _DECAY}),
)
_REPLAY = (
    Method("default-replay200", "replay200", _build_default_replay, is_default=True, is_small=True),
    _loop("er", "replay200", ("er",), is_small=True),
    _loop("er-ace", "replay200", ("er-ace",), is_small=True),
    _loop("der", "replay200", ("der",), {"alpha": _ALPHA}),
    _loop("derpp", "replay200", ("derpp",), {"alpha": _ALPHA, "beta": _BETA}, True),
    _loop("a-gem", "replay200", ("a-gem",), is_told=True),
    _loop("gem", "replay200", ("gem",), {"margin": Range(0.05, 1.0, 0.5)}, is_told=True),
    _loop("gdumb", "replay200", ("gdumb",), {"rate": Range(0.01, 0.2, 0.05)}),
    _loop("mean-er", "replay200", ("mean-er",), {"decay": _DECAY}),
    _loop(
        "cls-er",
        "replay200",
        ("cls-er",),
        {"weight": Range(0.03, 3.0, 0.15), "stable_decay": _DECAY},
        is_small=True,
    ),
)
_CLOSED = (
    _solve("ncm", is_small=True),
    _solve("slda", {"shrinkage": Range(1e-4, 0.5, 0.01)}, is_small=True),
    _solve("ranpac", is_small=True),
    _solve("ridge", {"strength": Range(0.1, 1e3, 10.0)}),
)
_OTHERS = (
    _loop("derpp500", "reference", ("derpp500",), {"alpha": _ALPHA, "beta": _BETA}),
    Method("joint", "reference", _build_joint, {"lr": _LR}, needs_boundary=True),
)

METHODS: dict[str, Method] = {one.name: one for one in (*_NO_REPLAY, *_CLOSED, *_REPLAY, *_OTHERS)}
