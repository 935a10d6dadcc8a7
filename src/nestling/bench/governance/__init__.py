"""Bench of governed change: planted bias, poison, fairness figures, and what a contract costs."""
