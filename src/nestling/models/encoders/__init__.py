"""Pre-trained spines: networks whose weights lie in a package of a registry."""
