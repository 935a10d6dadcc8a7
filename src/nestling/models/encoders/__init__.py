"""Pre-trained encoders whose weights come from a package registry."""
