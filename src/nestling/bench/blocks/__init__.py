"""Speed and abilities of the blocks that nested models are made of."""
