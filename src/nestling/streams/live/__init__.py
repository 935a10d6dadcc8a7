"""Streams as they arrive: lines and late labels read, and a learner that follows them."""
