"""Probes: named measurements of a model's behaviour on data that has a digest."""
