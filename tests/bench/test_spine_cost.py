"""The spine-cost suite's own logic, on a small network."""

import pytest
import torch
from torch import nn

from nestling.bench import spine_cost
from nestling.bench.timing import ROUND


def make_small() -> nn.Module:
    """A network with a spine large enough that its gradients cost something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 16 * 16, 4),
            nn.ReLU(),
            nn.Linear(4, spine_cost.NUM_CLASSES),
        )


def test_both_sides_learn_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []

    def make_and_keep() -> nn.Module:
        made.append(make_small())
        return made[-1]

    learners = []
    learner_class = spine_cost.Learner

    def keep_learner(*args: object, **options: object) -> object:
        learners.append(learner_class(*args, **options))  # type: ignore[arg-type]
        return learners[-1]

    monkeypatch.setattr(spine_cost, "Learner", keep_learner)
    result = spine_cost.measure(make_and_keep, spine_cost.make_batches(ROUND), num_rounds=1)
    assert set(result.figures) == {"default_seconds_over_full_finetune"}
    assert result.figures["default_seconds_over_full_finetune"] > 0.0
    assert {row["side"] for row in result.rows} == {spine_cost.FULL, spine_cost.DEFAULT}
    # A round and a step to warm up, and a round that counts: the memory has seen each example,
    # the head has learned at every step, the spine once in each round.
    (learner,) = learners
    updates = {reading.level: reading.num_updates for reading in learner.read_levels()}
    assert updates.pop("concepts") == 1  # concept found
    num_steps = 2 * ROUND + 1
    num_examples = num_steps * spine_cost.BATCH_SIZE
    assert updates == {"memory": num_examples, "head": num_steps, "spine": 2, "origin": 0}
    first = make_small().state_dict()
    assert len(made) == 2
    for model in made:
        assert all(not value.equal(first[name]) for name, value in model.state_dict().items())


def test_batches_are_alike_each_time() -> None:
    (x, y), (x_again, y_again) = spine_cost.make_batches(1) + spine_cost.make_batches(1)
    assert x.equal(x_again)
    assert y.equal(y_again)
    assert x.shape == (16, 3, 64, 64)
