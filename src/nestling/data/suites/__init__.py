"""Named suites: fixed protocols over real data, with streams for tuning kept apart."""

from collections.abc import Callable
from pathlib import Path

from nestling.core.errors import DataError, suggest
from nestling.data.suites import digits, pictures, places, words
from nestling.data.suites.suite import Part, Request, Suite

__all__ = ["Suite", "list_suites", "make_suite"]

_BUILDERS: dict[str, Callable[[Request], Suite]] = {
    **digits.BUILDERS,
    **places.BUILDERS,
    **pictures.BUILDERS,
    **words.BUILDERS,
}


def list_suites() -> list[str]:
    """Names of all suites.

    >>> list_suites()[:3]
    ['split-mnist', 'permuted-mnist', 'rotated-mnist']
    """
    return list(_BUILDERS)


def make_suite(
    name: str,
    seed: int,
    *,
    split: Part = "test",
    folder: Path | None = None,
    offline: bool = False,
) -> Suite:
    """Make a suite by name, fetching its data first if need be.

    The same seed gives the same tensors, bit for bit.

    Args:
        name: see `list_suites`.
        seed: 0 to 999,999: order of classes or domains, and what else is drawn.
        split: "test"; or "validation" for tuning: streams drawn from seeds that no test stream
            has, tested on examples that no test stream tests on.
        folder: where archives lie or go; without it $NESTLING_DATA, then ~/.cache/nestling.
        offline: do not fetch.

    Raises:
        DataError: an unknown suite or split, a seed outside its range, or data that cannot
            be had.
        MissingExtra: a package is absent that the data need.
    """
    if name not in _BUILDERS:
        raise DataError(f"suite {name!r}; {suggest(name, _BUILDERS)}")
    return _BUILDERS[name](Request(seed, split, folder, offline))
