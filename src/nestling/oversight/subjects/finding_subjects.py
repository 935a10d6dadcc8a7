"""The subject around whatever is to be governed."""

from typing import Any

from nestling.core.errors import SettingError
from nestling.learn import Learner
from nestling.levels import NestedOptimizer
from nestling.oversight.subjects.governed_learner import LearnerSubject
from nestling.oversight.subjects.governed_optimizer import OptimizerSubject
from nestling.oversight.subjects.governed_stream import StreamSubject
from nestling.oversight.subjects.subject import Subject
from nestling.streams import StreamClassifier, StreamRegressor


def find_subject(target: Any, *, classifies: bool = True) -> Subject:
    """The subject around a `Learner`, a `NestedOptimizer` or a stream learner.

    Args:
        target: what is to be governed.
        classifies: whether the outputs of an optimizer's model are logits of classes.

    Raises:
        SettingError: it is none of them.
    """
    if isinstance(target, Learner):
        return LearnerSubject(target)
    if isinstance(target, NestedOptimizer):
        return OptimizerSubject(target, classifies=classifies)
    if isinstance(target, StreamClassifier | StreamRegressor):
        return StreamSubject(target)
    raise SettingError(
        f"govern takes a learner, an optimizer over levels or a stream learner, got "
        f"{type(target).__name__}; nl.Learner, nl.NestedOptimizer, nl.StreamClassifier or "
        "nl.StreamRegressor work"
    )
