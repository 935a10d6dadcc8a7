"""Learners for events that come one by one, with drift and with labels that come late or never."""

__all__: list[str] = []
