"""Streams of events by name: dicts of named values, one by one, in the order in which they came."""

from nestling.data.events.card_payments import Payment, find_schemes, make_payments
from nestling.data.events.event_stream import (
    Event,
    EventStream,
    HeldOut,
    Label,
    Value,
    list_event_streams,
    open_events,
)

__all__ = [
    "Event",
    "EventStream",
    "HeldOut",
    "Label",
    "Payment",
    "Value",
    "find_schemes",
    "list_event_streams",
    "make_payments",
    "open_events",
]
