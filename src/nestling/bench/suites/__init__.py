"""Continual-learning suites: every method on the same footing, paired over seeds."""
