"""A learner behind the interfaces of other libraries."""
