"""Jobs: what is learned from which data, run and scored; plans suggested and tuned."""
