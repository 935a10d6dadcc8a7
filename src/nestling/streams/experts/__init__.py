"""The experts of a stream learner: their arrays, their levels, and the one call that moves them."""
