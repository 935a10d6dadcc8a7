"""Classifiers in closed form, learned online in one pass from sums."""

from nestling.memory.closed.class_means import NearestClassMean
from nestling.memory.closed.closed_form import ClosedForm
from nestling.memory.closed.lda import StreamingLDA
from nestling.memory.closed.ranpac import RandomProjectionRidge, choose_on_held
from nestling.memory.closed.recursive_ridge import RecursiveRidge

__all__ = [
    "ClosedForm",
    "NearestClassMean",
    "RandomProjectionRidge",
    "RecursiveRidge",
    "StreamingLDA",
    "choose_on_held",
]
