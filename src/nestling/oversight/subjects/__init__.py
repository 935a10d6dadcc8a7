"""What can be governed: learners, plain optimizers with their models, stream learners."""
