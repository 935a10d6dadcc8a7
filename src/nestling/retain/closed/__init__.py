"""Classifiers in closed form: sums of what was seen, solved when asked; nothing is forgotten."""

from nestling.retain.closed.form import ClosedForm
from nestling.retain.closed.lda import StreamingLDA
from nestling.retain.closed.means import NearestClassMean

__all__ = ["ClosedForm", "NearestClassMean", "StreamingLDA"]
