"""Streams that River's generators draw, whose drifts are known because they are made."""

from collections.abc import Iterable, Iterator
from itertools import islice
from types import ModuleType
from typing import Any

from nestling.core.errors import MissingExtra

Rows = Iterator[tuple[dict[Any, Any], Any]]

NUM_PER_CONCEPT = 10_000
NUM_GRADUAL = 40_000  # events of a stream that drifts all the time
RECURRING = (0, 3, 0, 3)  # functions of SEA and Agrawal: A-B-A-B
LED_DRIFTING = (0, 3, 5, 7)  # attributes that trade places


def make_sea() -> Rows:
    """SEA concepts 0, 3, 0, 3 with a tenth of the labels turned, 10,000 events of each.

    Street and Kim 2001, by `river.datasets.synth.SEA`, seeds 10 to 13.
    """
    synth = _import_generators()
    for place, variant in enumerate(RECURRING):
        yield from _take(synth.SEA(variant=variant, noise=0.1, seed=10 + place))


def make_agrawal() -> Rows:
    """Agrawal's functions 0, 3, 0, 3 of a person who asks for a loan, 10,000 events of each.

    Agrawal et al. 1993, by `river.datasets.synth.Agrawal`, seeds 20 to 23.
    """
    synth = _import_generators()
    for place, function in enumerate(RECURRING):
        yield from _take(synth.Agrawal(classification_function=function, seed=20 + place))


def make_led() -> Rows:
    """Seven noisy lights and 17 idle ones; 0, 3, 5, 7 of them trade places, 10,000 events each.

    Breiman et al. 1984, by `river.datasets.synth.LEDDrift`, seed 30.
    """
    synth = _import_generators()
    for drifting in LED_DRIFTING:
        yield from _take(
            synth.LEDDrift(
                seed=30, noise_percentage=0.1, irrelevant_features=True, n_drift_features=drifting
            )
        )


def make_hyperplane() -> Rows:
    """A plane in ten dimensions that turns by .001 per event: 40,000 events.

    Hulten et al. 2001, by `river.datasets.synth.Hyperplane`, seed 1.
    """
    made = _import_generators().Hyperplane(
        seed=1, n_features=10, n_drift_features=10, mag_change=0.001, noise_percentage=0.05
    )
    return islice(iter(made), NUM_GRADUAL)


def make_rbf() -> Rows:
    """Five classes of 50 moving centres in ten dimensions: 40,000 events.

    By `river.datasets.synth.RandomRBFDrift`, seeds 1 and 1, every centre at a speed of .001.
    """
    made = _import_generators().RandomRBFDrift(
        seed_model=1,
        seed_sample=1,
        n_classes=5,
        n_features=10,
        n_centroids=50,
        change_speed=0.001,
        n_drift_centroids=50,
    )
    return islice(iter(made), NUM_GRADUAL)


def _take(made: Iterable[Any]) -> Rows:
    return islice(iter(made), NUM_PER_CONCEPT)


def _import_generators() -> ModuleType:
    try:
        from river.datasets import synth
    except ImportError:
        raise MissingExtra("generated streams need river: pip install 'nestling[compat]'") from None
    return synth
