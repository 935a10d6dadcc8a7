"""Hoeffding trees of classes and of values as loops over arrays."""
