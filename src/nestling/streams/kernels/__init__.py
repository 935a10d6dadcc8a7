"""Loops over arrays that numba compiles; imported where a stream learner is made."""
