"""Batches and scores that jobs and the demo share."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from nestling.jobs.scoring import accuracy_among, list_batches, summarize


@given(
    num_examples=st.integers(1, 50),
    batch_size=st.integers(1, 12),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_every_pass_shows_every_example_once(
    num_examples: int, batch_size: int, epochs: int, seed: int
) -> None:
    def draw(index: int, further: int = 0) -> list[list[int]]:
        batches = list_batches(
            num_examples, epochs=epochs, batch_size=batch_size, seed=seed + further, index=index
        )
        return [rows.tolist() for rows in batches]

    drawn = draw(0)
    per_pass = -(-num_examples // batch_size)
    for epoch in range(epochs):
        batches = drawn[epoch * per_pass : (epoch + 1) * per_pass]
        assert sorted(row for rows in batches for row in rows) == list(range(num_examples))
    assert draw(0) == drawn
    if num_examples > 12:
        assert draw(1) != drawn, "another experience has another order"
        passes = [drawn[epoch * per_pass : (epoch + 1) * per_pass] for epoch in range(epochs)]
        assert all(one != other for one, other in itertools.combinations(passes, 2))
        assert drawn not in (draw(0, 1), draw(1, -1)), "another seed has another order"


def test_only_the_classes_that_were_met_may_be_answered() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.2, 0.5]])
    y = torch.tensor([1, 0])
    assert accuracy_among(scores, y, [0, 1, 2]) == 0.0
    assert accuracy_among(scores, y, [0, 1]) == 1.0
    assert accuracy_among(scores, y, [0, 1, 7]) == 1.0
    assert accuracy_among(scores, y, [7]) == 0.0


def test_a_summary_by_hand() -> None:
    def look(during: int, step: int, after: int | None, *found: float) -> dict[str, object]:
        accuracies = dict(zip(("a", "b", "c"), found, strict=False))
        return {"during": during, "step": step, "after": after, "accuracies": accuracies}

    records = [
        look(0, 100, 0, 0.9),
        look(1, 100, None, 0.9, 0.0),
        look(1, 110, None, 0.6, 0.5),
        look(1, 120, None, 0.6, 0.75),
        look(1, 130, 1, 0.5, 0.8),
    ]
    found = summarize(records, ["a", "b"])
    # 90 % of 0.8 is 0.72, reached 20 examples into the experience; 0.9 - 0.5 is forgotten.
    assert found["steps_to_adapt"] == 20
    assert abs(float(str(found["acc"])) - 0.65) < 1e-12
    assert abs(float(str(found["forgetting"])) - 0.4) < 1e-12
    # A third, in which the second gets better yet: that is no adaptation to it.
    records += [
        look(2, 130, None, 0.5, 0.8, 0.0),
        look(2, 170, None, 0.3, 1.0, 0.4),
        look(2, 190, 2, 0.3, 1.0, 0.3),
    ]
    found = summarize(records, ["a", "b", "c"])
    assert found["steps_to_adapt"] == (20 + 40) / 2
    assert abs(float(str(found["forgetting"])) - ((0.9 - 0.3) + (0.8 - 1.0)) / 2) < 1e-12
