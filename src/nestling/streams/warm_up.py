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
    classifier, regressor = StreamClassifier(), StreamRegressor()
    for n in range(2):
        classifier.learn_one({"x": n}, str(n))
        classifier.predict_one({"x": n})
        regressor.learn_one({"x": n}, float(n))
        regressor.predict_one({"x": n})
    return time.perf_counter() - start
