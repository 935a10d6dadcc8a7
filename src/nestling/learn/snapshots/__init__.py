"""A learner on disk: its state as a tree, the tree as a folder that is written atomically."""
