"""A memory level says what it costs."""

import copy

import nestling as nl
from learners import make_batch, make_mlp


def test_seconds_of_learning_and_solving_are_counted_and_kept() -> None:
    learner = nl.Learner(make_mlp())
    seen = [learner.levels["memory"].read().seconds]
    for seed in range(3):
        learner.learn(*make_batch(seed))
    seen.append(learner.levels["memory"].read().seconds)
    learner.predict(make_batch(9)[0])  # it solves when it is asked
    seen.append(learner.levels["memory"].read().seconds)
    assert seen[0] == 0.0
    assert seen[0] < seen[1] < seen[2] < learner.counts.seconds + 60.0
    other = nl.Learner(make_mlp())
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    assert other.levels["memory"].read().seconds == seen[2]
