"""Learners for events that come one by one, with drift and with labels that come late or never."""

from nestling.streams.classifier import StreamClassifier
from nestling.streams.events.event_columns import EventColumns
from nestling.streams.late_labels import WaitingEvents
from nestling.streams.live.follow import Arrival, follow
from nestling.streams.regressor import StreamRegressor
from nestling.streams.warm_up import compile_kernels

__all__ = [
    "Arrival",
    "EventColumns",
    "StreamClassifier",
    "StreamRegressor",
    "WaitingEvents",
    "follow",
    "compile_kernels",
]
