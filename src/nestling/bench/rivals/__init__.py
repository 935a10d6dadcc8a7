"""Methods of the benchmark by name, and what of each may be tuned."""
