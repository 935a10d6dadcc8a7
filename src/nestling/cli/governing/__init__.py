"""Commands of governed change: contracts, versions, audits."""
