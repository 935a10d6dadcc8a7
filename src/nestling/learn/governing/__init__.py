"""What a learner is held to: whose rows it learns, and how many of them."""
