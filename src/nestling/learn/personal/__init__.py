"""One person's own fast levels on the slow levels that a learner shares."""

from nestling.learn.personal.personal_learner import PersonalLearner

__all__ = ["PersonalLearner"]
