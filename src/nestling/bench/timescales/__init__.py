"""Mechanisms of several timescales over plain training and over replay, at equal compute."""
