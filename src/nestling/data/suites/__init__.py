"""Benchmark suites by name: fixed protocols on real data, with streams kept for tuning."""

from collections.abc import Callable
from pathlib import Path

from nestling.core.errors import SettingError, suggest
from nestling.data.suites import full_images, people, pictures, places, words
from nestling.data.suites import grey_images as digits
from nestling.data.suites.suite import Part, Request, Suite

__all__ = ["Suite", "list_suite_sources", "list_suites", "make_suite"]

_BUILDERS: dict[str, Callable[[Request], Suite]] = {
    **digits.BUILDERS,
    **full_images.BUILDERS,
    **places.BUILDERS,
    **people.BUILDERS,
    **pictures.BUILDERS,
    **words.BUILDERS,
}
_SOURCES = {
    **digits.SOURCES,
    **full_images.SOURCES,
    **places.SOURCES,
    **people.SOURCES,
    **pictures.SOURCES,
    **words.SOURCES,
}


def list_suites() -> list[str]:
    """Names of all benchmark suites.

    >>> list_suites()[:3]
    ['split-mnist', 'permuted-mnist', 'rotated-mnist']
    """
    return list(_BUILDERS)


def list_suite_sources(name: str) -> tuple[str, ...]:
    """Names of the data sources that a suite is made from, for `fetch_source`.

    Args:
        name: see `list_suites`.

    Raises:
        SettingError: an unknown suite.

    >>> list_suite_sources("emoji-domains")
    ('emoji',)
    """
    _require(name)
    return _SOURCES[name]


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
        offline: do not fetch, neither what is absent nor what is damaged.

    Raises:
        SettingError: an unknown suite or split, or a seed outside its range.
        DataError: data that cannot be had.
        MissingExtra: a package is absent that the data need.
    """
    _require(name)
    return _BUILDERS[name](Request(seed, split, folder, offline))


def _require(name: str) -> None:
    if name not in _BUILDERS:
        raise SettingError(f"suite {name!r}; {suggest(name, _BUILDERS)}")
