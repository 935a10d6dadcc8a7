"""Answers of some levels of a stream learner only."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nestling.core.errors import NotFitted, SettingError, UnknownLevel, suggest

if TYPE_CHECKING:
    from nestling.streams.event_run import EventRun

Floats = NDArray[np.float64]


class RestrictedStream:
    """Answers of some levels of a stream learner only; several are mixed by their shares.

    `StreamClassifier.restricted_to` and `StreamRegressor.restricted_to` make it. Nothing that it
    answers changes the learner.

    Args:
        run: of the learner.
        names: of the levels that answer.
        lock: of the learner, held while it answers.

    Raises:
        UnknownLevel: a name that no level has.
        SettingError: no name.
    """

    def __init__(
        self, run: "EventRun", names: Collection[str], lock: AbstractContextManager[object]
    ) -> None:
        if isinstance(names, str) or not names:
            raise SettingError(f"levels {names!r}; a list of levels' names works, as ['spine']")
        for name in names:
            if name not in run.pool.names:
                raise UnknownLevel(f"no level {name!r}; {suggest(name, run.pool.names)}")
        self._run, self._lock = run, lock
        self.names: Sequence[str] = [name for name in run.pool.names if name in names]

    def answer_many(self, X: object) -> Floats:
        """Probabilities (N, K), classes in the order of `classes`, or values (N, 1).

        Args:
            X: pandas frame, 2-D array or tensor, or a list of events.

        Raises:
            NotFitted: nothing was learned yet.
        """
        with self._lock:
            if not self._run.pool.num_learned:
                raise NotFitted("the learner has learned nothing yet; call learn_one first")
            rows_NC = self._run.columns.encode_many(X, grow=False)
            return self._run.foresee_some(rows_NC, self.names)
