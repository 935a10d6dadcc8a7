"""Which cells are measured: mechanisms in both families, rivals at equal compute, equal search.

Names of methods: "plain" and "er" are the bases, "periods16" is a mechanism alone,
"er+periods16" with replay, "plain-x0.64" and "er-x1.56" bases with so many steps per batch.
"""

import functools
from collections.abc import Sequence

from nestling.bench.rivals.competitors import Competitor
from nestling.bench.rivals.tunable import Kind, Method, Settings, Setup
from nestling.bench.suites.cell_files import Cell, Outcome
from nestling.bench.suites.parallel_cells import CellFolders, Progress, run_cell, run_cells
from nestling.bench.suites.search import Choice, choose
from nestling.bench.timescales.mechanisms import MECHANISMS, PLAIN, Mechanism, make_replay
from nestling.bench.timescales.nested_loop import Budgeted
from nestling.core.errors import SettingError, suggest

REPLAY = "er"
BASES = (PLAIN, REPLAY)
NUM_TRIALS = 7
TUNING_SEEDS = (100, 101, 102)  # of validation streams; no result uses them


def join_name(base: str, mechanism: str) -> str:
    """The method's name of a mechanism in a family.

    >>> join_name("plain", "copy"), join_name("er", "copy"), join_name("er", "plain")
    ('copy', 'er+copy', 'er')
    """
    if mechanism == PLAIN:
        return base
    return mechanism if base == PLAIN else f"{base}+{mechanism}"


def name_rival(base: str, ratio: float) -> str:
    """The base's name at so many steps per batch; its own name at 1.

    >>> name_rival("er", 1.25**2), name_rival("plain", 1.0)
    ('er-x1.56', 'plain')
    """
    return base if ratio == 1.0 else f"{base}-x{ratio:.2f}"


def find_timescale_method(name: str) -> Method:
    """A method of this benchmark by its name.

    Raises:
        SettingError: no such method; says the nearest.

    >>> find_timescale_method("er+copy").kind
    'replay200'
    """
    base, ratio, inner = _split_name(name)
    found = MECHANISMS.get(inner)
    if found is None or ratio <= 0.0 or (found.needs_replay and base == PLAIN):
        known = [join_name(one, other) for one in BASES for other in list_mechanisms(one)]
        raise SettingError(f"method {name!r}; {suggest(name, known)}")
    kind: Kind = "no_replay" if base == PLAIN else "replay200"
    build = functools.partial(_build, found, base == REPLAY, ratio)
    return Method(name, kind, build, found.space)


def list_mechanisms(base: str, names: Sequence[str] = ()) -> list[str]:
    """Mechanisms of a family, with their controls, in the order of the table.

    Args:
        base: "plain" or "er".
        names: of mechanisms; none for all. The base and all controls come with them.

    Raises:
        SettingError: no such mechanism; says the nearest.

    >>> list_mechanisms("plain", ["periods16"])
    ['plain', 'rates16', 'periods16']
    """
    asked = {PLAIN}
    for name in names:
        if name not in MECHANISMS:
            raise SettingError(f"mechanism {name!r}; {suggest(name, MECHANISMS)}")
        following: str | None = name
        while following is not None:
            asked.add(following)
            following = MECHANISMS[following].control
    return [
        name
        for name, one in MECHANISMS.items()
        if (not names or name in asked) and (base == REPLAY or not one.needs_replay)
    ]


def draw_evenly(mechanism: Mechanism, trial: int) -> dict[str, float]:
    """The settings of one trial: the same learning rates for all mechanisms of one range.

    Trial t takes the point t + 1 of van der Corput's sequence, to base 2 for the first setting
    of the space, 3 and 5 for the next, log-uniform between the bounds: seven trials are seven
    even steps of the rate.

    >>> from nestling.bench.timescales.mechanisms import MECHANISMS
    >>> [draw_evenly(MECHANISMS["periods4"], trial)["lr"] for trial in range(3)]
    [0.0949, 0.0169, 0.533]
    """
    drawn = {}
    for (name, one), prime in zip(mechanism.space.items(), (2, 3, 5), strict=False):
        share, digit, left = 0.0, 1.0, trial + 1
        while left:
            digit /= prime
            share += digit * (left % prime)
            left //= prime
        drawn[name] = float(f"{one.low * (one.high / one.low) ** share:.3g}")
    return drawn


def tune(
    suite: str,
    methods: Sequence[str],
    num_trials: int,
    place: CellFolders,
    *,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Choice]:
    """Tune every method by mean ACC with the same trials on validation streams; resumable.

    Args:
        suite: name, or "module:function".
        methods: names.
        num_trials: per method, at least 1.
        place: where to read and write.
        num_workers, progress: see `run_cells`.

    Returns: method -> what was chosen.

    Raises:
        JobError: a method that failed in every trial.
    """
    cells = [
        Cell(suite, "validation", method, seed, _draw(method, trial), trial)
        for method in methods
        for trial in range(num_trials)
        for seed in TUNING_SEEDS
    ]
    outcomes = measure_cells(cells, place, num_workers=num_workers, progress=progress)
    return {
        method: choose(method, [one for one in outcomes if one.cell.method == method])
        for method in methods
    }


def measure_cells(
    cells: Sequence[Cell],
    place: CellFolders,
    *,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """`run_cells` with the methods of this benchmark."""
    return run_cells(
        cells, place, num_workers=num_workers, progress=progress, task=_run_timescale_cell
    )


def build_at_middle(name: str, setup: Setup) -> Competitor:
    """A method with the settings of its first trial, for what does not depend on settings."""
    return find_timescale_method(name).build(setup, _draw(name, 0))


def _draw(name: str, trial: int) -> dict[str, float]:
    return draw_evenly(MECHANISMS[_split_name(name)[2]], trial)


def _run_timescale_cell(cell: Cell, place: CellFolders) -> None:
    run_cell(cell, place, find_timescale_method)


def _split_name(name: str) -> tuple[str, float, str]:
    """Base, steps per batch and mechanism."""
    base, separator, number = name.rpartition("-x")
    if separator and base in BASES:
        try:
            return base, float(number), PLAIN
        except ValueError:
            return base, 1.0, name
    if name in BASES:
        return name, 1.0, PLAIN
    family, separator, inner = name.partition("+")
    if separator and family == REPLAY and inner != PLAIN:
        return family, 1.0, inner
    return PLAIN, 1.0, name


def _build(
    mechanism: Mechanism, has_replay: bool, ratio: float, setup: Setup, settings: Settings
) -> Competitor:
    methods = make_replay(setup, settings) if has_replay else []
    inner = mechanism.build(setup, settings, methods)
    return inner if ratio == 1.0 else Budgeted(inner, ratio)
