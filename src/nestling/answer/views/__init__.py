"""Answers of some levels only: what the slow ones say without the fast, and the other way round."""
