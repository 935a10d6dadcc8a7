"""Compile the kernels of stream learners before the first event needs them."""

import time

from nestling.streams.classifier import StreamClassifier
from nestling.streams.regressor import StreamRegressor


def compile_kernels() -> float:
    """Compile all kernels of stream learners now, or read them from numba's cache.

    The first event of a process waits for them: about a minute after an installation, half a second
    later on. A service calls this before it says that it is ready.

    Returns:
        seconds that it took.

    Raises:
        MissingExtra: numba is not installed.
    """
    start = time.perf_counter()
    for learner, targets in ((StreamClassifier(), ("a", "b")), (StreamRegressor(), (0.0, 1.0))):
        for n, target in enumerate(targets):
            learner.predict_one({"x": n})
            learner.learn_one({"x": n}, target)
    return time.perf_counter() - start
