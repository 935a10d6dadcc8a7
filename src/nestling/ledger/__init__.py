"""The record of what changed: versions of every level, and what happened under a contract."""
