"""What holds for every test: threads, examples of Hypothesis, and torch's determinism."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# matplotlib must not look for a screen, whichever test imports it first.
os.environ.setdefault("MPLBACKEND", "Agg")

# The same examples on every machine and no deadline: a busy machine must not fail a test.
settings.register_profile(
    "stable",
    deadline=None,
    max_examples=30,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("stable")


@pytest.fixture(autouse=True)
def _stable_torch() -> Iterator[None]:
    """One thread and a fixed global seed per test: the same bits in any order of tests.

    Sums split over threads round differently, so the number of threads is part of a result.
    """
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(num_threads)
