"""Mixing what experts answer: by weights per zone, learned from every example."""
