"""The commands: one file per group; what is heavy is imported when a command runs."""
