"""The stream learner beside River's and plain online networks, on streams of events."""
