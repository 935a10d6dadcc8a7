"""Published figures again: the settings of their papers, and what nestling's methods give there."""
