"""Verdicts on a change contract: every clause passed, failed, or not judged, with figures."""
