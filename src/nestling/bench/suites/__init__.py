"""Continual-learning suites: every method on equal terms, paired over seeds."""
