"""Commands of governed change: versions, contracts."""
