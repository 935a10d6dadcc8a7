"""Who answers: what memories read, what each expert says, and how the answers are mixed."""
