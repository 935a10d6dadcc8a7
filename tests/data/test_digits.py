"""The demo's experiences: real digits, each used once, and a style that is really another."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from nestling.data import demo_experiences, load_digits, restyle_digits


@pytest.mark.parametrize("seed", [0, 1])
def test_every_image_is_used_once(seed):
    x, _ = load_digits()
    made = demo_experiences(seed)
    assert sum(len(part[0]) for one in made for part in (one.train, one.test)) == len(x)
    plain = [one for one in made if one.name != "new style"]
    rows = torch.cat([part[0] for one in plain for part in (one.train, one.test)])
    known = {tuple(row.tolist()) for row in x}
    assert all(tuple(row.tolist()) in known for row in rows)


def test_test_sets_hold_every_class():
    for one in demo_experiences(0):
        assert tuple(one.test[1].unique().tolist()) == one.classes
        assert one.train[0].min() >= 0.0
        assert one.train[0].max() <= 1.0


def test_a_seed_gives_the_same_bits_and_another_seed_others():
    first, again, other = (demo_experiences(seed)[0].train[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_style_costs_a_model_of_plain_digits_much_and_can_be_learned():
    x, y = load_digits()
    styled = restyle_digits(x)
    plain = LogisticRegression(max_iter=500).fit(x[:1200], y[:1200])
    learned = LogisticRegression(max_iter=500).fit(styled[:1200], y[:1200])
    before, shifted = plain.score(x[1200:], y[1200:]), plain.score(styled[1200:], y[1200:])
    assert before - shifted > 0.15
    assert learned.score(styled[1200:], y[1200:]) > 0.85
