"""The change contract: what may change, what must stay fixed, what must change by when."""
