"""Errors, batches, named-parameter maths, seeds and the machine's fingerprint."""
