"""Jobs: learn your data from a TOML file; plans suggested and tuned."""
