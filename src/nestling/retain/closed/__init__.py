"""Classifiers in closed form: sums of what was seen, solved when asked; nothing is forgotten."""

from nestling.retain.closed.form import ClosedForm
from nestling.retain.closed.lda import StreamingLDA
from nestling.retain.closed.means import NearestClassMean
from nestling.retain.closed.ranpac import RandomProjectionRidge, choose_on_held
from nestling.retain.closed.recursive import RecursiveRidge

__all__ = [
    "ClosedForm",
    "NearestClassMean",
    "RandomProjectionRidge",
    "RecursiveRidge",
    "StreamingLDA",
    "choose_on_held",
]
