"""Scenarios: what each does with examples and classes, whatever the labelled set."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import DataError, SettingError, ShapeMismatch, UnknownLabel
from nestling.data import (
    blurred,
    class_incremental,
    drifting,
    iterate_stream,
    multi_task,
    relabelled,
    repeating,
    split_by_class,
    task_free,
)


def make_set(num_classes, per_class):
    """Every row carries its own number, so that examples can be followed."""
    y = torch.arange(num_classes * per_class) % num_classes
    return torch.arange(len(y)).double().reshape(-1, 1), y, *_make_test(num_classes)


def _make_test(num_classes):
    y = torch.arange(2 * num_classes) % num_classes
    return -torch.arange(len(y)).double().reshape(-1, 1) - 1, y


def read_rows(experiences):
    return [int(row) for one in experiences for row in one.train[0].flatten()]


def label_of(one, num_classes):
    return [int(row) % num_classes for row in one.train[0].flatten()]


seeds = st.integers(0, 1000)


@given(st.integers(2, 9), st.integers(1, 9), seeds)
def test_class_incremental_groups(num_classes, num_experiences, seed):
    labelled = make_set(num_classes, 3)
    if num_experiences > num_classes:
        with pytest.raises(SettingError, match=f"at most {num_classes}"):
            class_incremental(*labelled, num_experiences=num_experiences, seed=seed)
        return
    made = class_incremental(*labelled, num_experiences=num_experiences, seed=seed)
    sizes = [len(one.classes) for one in made]
    assert max(sizes) - min(sizes) <= 1
    assert sorted(label for one in made for label in one.classes) == list(range(num_classes))
    assert sorted(read_rows(made)) == list(range(3 * num_classes))
    assert all(one.task is None and set(one.test[1].tolist()) == set(one.classes) for one in made)
    again = class_incremental(*labelled, num_experiences=num_experiences, seed=seed)
    assert [one.classes for one in made] == [one.classes for one in again]


def test_class_orders_differ_between_seeds():
    orders = {
        tuple(one.classes for one in class_incremental(*make_set(8, 1), num_experiences=4, seed=s))
        for s in range(5)
    }
    assert len(orders) == 5


@given(st.integers(2, 5), st.integers(2, 12), st.floats(0, 1), seeds)
def test_blurred_exchanges_exactly_the_share(num_experiences, per_class, share, seed):
    # Equal sizes: what one gives, the others can always take.
    made = class_incremental(
        *make_set(num_experiences, per_class), num_experiences=num_experiences, seed=seed
    )
    after = blurred(made, share=share, seed=seed)
    assert sorted(read_rows(after)) == sorted(read_rows(made))
    for one, other in zip(made, after, strict=True):
        foreign = ~torch.isin(other.train[1], torch.tensor(one.classes))
        assert int(foreign.sum()) == round(share * per_class)
        assert len(other.train[1]) == per_class
        assert label_of(other, num_experiences) == other.train[1].tolist()
        assert torch.equal(one.test[0], other.test[0])
    again = blurred(made, share=share, seed=seed)
    assert read_rows(after) == read_rows(again)


def test_blurred_says_what_cannot_be():
    x, y, x_test, y_test = make_set(4, 5)
    uneven = split_by_class(x, y, x_test, y_test, [[0, 1, 2], [3]])
    with pytest.raises(SettingError, match="smaller share"):
        blurred(uneven, share=1.0, seed=0)
    with pytest.raises(DataError, match="2 experiences"):
        blurred(uneven[:1], share=0.1, seed=0)
    with pytest.raises(SettingError, match=r"share 1\.5"):
        blurred(uneven, share=1.5, seed=0)


@given(st.integers(2, 4), seeds)
def test_task_free_wanders_without_a_seam(num_experiences, seed):
    made = class_incremental(
        *make_set(num_experiences, 4), num_experiences=num_experiences, seed=seed
    )
    order = [one.classes[0] for one in made]
    batches = list(task_free(made, num_batches=40, batch_size=50, width=0.3, seed=seed))
    assert len(batches) == 40
    share = torch.stack([(y[:, None] == torch.tensor(order)).double().mean(0) for _, y in batches])
    # Each experience leads in its own stretch, and its weight has no jump.
    assert share[0].argmax() == 0
    assert share[-1].argmax() == num_experiences - 1
    assert ((share[1:] - share[:-1]).abs() < 0.75).all()
    for x, y in batches:
        assert (x.flatten().long() % num_experiences == y).all()


def test_task_free_checks_at_the_call():
    made = class_incremental(*make_set(2, 2), num_experiences=2, seed=0)
    for wrong in ({"num_batches": 0}, {"batch_size": 0}, {"width": 0.0}, {"width": float("nan")}):
        with pytest.raises(SettingError):
            task_free(made, seed=0, **{"num_batches": 2, "batch_size": 2, **wrong})


@given(st.integers(2, 6), st.integers(1, 6), st.integers(2, 8), seeds)
def test_repeating_brings_classes_back_with_new_examples(num_classes, width, length, seed):
    labelled = make_set(num_classes, 8)
    if width > num_classes or width * length <= num_classes:
        with pytest.raises(SettingError):
            repeating(*labelled, num_experiences=length, classes_per_experience=width, seed=seed)
        return
    made = repeating(*labelled, num_experiences=length, classes_per_experience=width, seed=seed)
    assert sorted(read_rows(made)) == list(range(8 * num_classes))
    counts = [sum(label in one.classes for one in made) for label in range(num_classes)]
    assert max(counts) - min(counts) <= 1
    assert max(counts) > 1
    for one in made:
        assert len(one.classes) == width
        assert set(one.train[1].tolist()) == set(one.test[1].tolist()) == set(one.classes)


def test_repeating_needs_an_example_for_each_return():
    with pytest.raises(SettingError, match="occurs 3 times but has 2"):
        repeating(*make_set(2, 2), num_experiences=3, classes_per_experience=2, seed=0)


@given(st.lists(st.integers(2, 5), min_size=2, max_size=4))
def test_multi_task_columns_are_disjoint(sizes):
    sets = {f"set {i}": make_set(size, 2) for i, size in enumerate(sizes)}
    made = multi_task(sets)
    assert [label for one in made for label in one.classes] == list(range(sum(sizes)))
    for task, (one, size) in enumerate(zip(made, sizes, strict=True)):
        assert one.task == task
        assert (one.train[1] - one.classes[0]).tolist() == label_of(one, size)


def test_multi_task_refuses():
    x, y, x_test, y_test = make_set(3, 2)
    with pytest.raises(DataError, match="2 labelled sets"):
        multi_task({"a": (x, y, x_test, y_test)})
    with pytest.raises(ShapeMismatch, match="bring them to one"):
        multi_task({"a": (x, y, x_test, y_test), "b": (x.repeat(1, 2), y, x_test, y_test)})
    with pytest.raises(UnknownLabel, match="test label 2"):
        multi_task({"a": (x, y, x_test, y_test), "b": (x, y.clamp(max=1), x_test, y_test)})
    with pytest.raises(DataError, match="'b' has 1 classes"):
        multi_task({"a": (x, y, x_test, y_test), "b": (x, y * 0, x_test, y_test * 0)})


@given(st.integers(1, 4), st.integers(0, 5), seeds)
def test_drifting_blends_only_the_start_of_a_segment(batch_size, num_blended, seed):
    x, y, x_test, y_test = make_set(3, 4)
    contexts = {
        "low": (x, y, x_test, y_test),
        "high": (x + 100, y, x_test + 100, y_test),
    }
    made = drifting(
        contexts,
        ["low", "high", "low"],
        batch_size=batch_size,
        num_batches=(4, 7),
        num_blended=num_blended,
        seed=seed,
    )
    assert (made[0].train[0] < 100).all()
    for one, is_high in zip(made[1:], (True, False), strict=True):
        settled = one.train[0][num_blended * batch_size :]
        assert ((settled >= 100) == is_high).all()
    for one in made:
        assert 4 * batch_size <= len(one.train[1]) <= 7 * batch_size
        assert len(one.train[1]) % batch_size == 0
        assert ((one.train[0].flatten().long() % 100) % 3 == one.train[1]).all()
    batches = list(iterate_stream(made, batch_size))
    assert all(len(labels) == batch_size for _, labels in batches)
    assert torch.cat([inputs for inputs, _ in batches]).flatten().tolist() == [
        float(row) for row in read_rows(made)
    ]


def test_a_blend_is_of_a_context_and_the_one_before_it():
    x, y = torch.zeros(2, 1), torch.tensor([0, 1])
    contexts = {name: (x + k, y + 2 * k, x + k, y + 2 * k) for k, name in enumerate("abc")}
    made = drifting(contexts, "abcac", batch_size=50, num_batches=(6, 6), num_blended=4, seed=0)
    for one, own in zip(made, ({0}, {0, 1}, {1, 2}, {2, 0}, {0, 2}), strict=True):
        assert set(one.train[0].flatten().tolist()) == own
        assert (one.train[1] // 2 == one.train[0][:, 0]).all()  # labels of the same context
    assert [one.test[0].unique().tolist() for one in made] == [[0], [1], [2], [0], [2]]
    assert made[2].classes == (2, 3, 4, 5)


def test_a_blend_is_linear():
    x, y = torch.zeros(2, 1), torch.tensor([0, 1])
    contexts = {"a": (x, y, x, y), "b": (x + 1, y, x + 1, y)}
    made = drifting(
        contexts, ["a", "b"], batch_size=2000, num_batches=(30, 30), num_blended=20, seed=0
    )
    share = made[1].train[0].reshape(30, 2000).mean(1)
    wanted = torch.cat([torch.arange(1, 21) / 21, torch.ones(10)])
    assert (share - wanted).abs().max() < 0.05


def test_drifting_refuses():
    x, y, x_test, y_test = make_set(2, 3)
    one = {"upright": (x, y, x_test, y_test)}
    with pytest.raises(SettingError, match="did you mean 'upright'"):
        drifting(one, ["uprigth"], batch_size=2, seed=0)
    with pytest.raises(SettingError, match="no segment"):
        drifting(one, [], batch_size=2, seed=0)
    with pytest.raises(SettingError, match="num_batches"):
        drifting(one, ["upright"], batch_size=2, num_batches=(3, 2), seed=0)
    with pytest.raises(ShapeMismatch, match="differ"):
        drifting({**one, "b": (x[:3], y[:3], x_test, y_test)}, ["upright"], batch_size=2, seed=0)


@given(st.integers(2, 6), seeds)
def test_relabelled_keeps_inputs_and_permutes_labels(num_classes, seed):
    made = relabelled(*make_set(num_classes, 3), batch_size=20, order=[0, 1, 0], seed=seed)
    maps = []
    for one in made:
        pairs = set(zip(label_of(one, num_classes), one.train[1].tolist(), strict=True))
        assert len(pairs) == num_classes  # one new label for each old one
        assert {
            (old, new)
            for old, new in zip(
                make_set(num_classes, 3)[3].tolist(), one.test[1].tolist(), strict=True
            )
        } == pairs
        maps.append(pairs)
    assert maps[0] == maps[2] == {(label, label) for label in range(num_classes)}
    assert maps[1] != maps[0]


def test_there_are_only_so_many_labellings():
    with pytest.raises(SettingError, match="3 labellings of 2 classes"):
        relabelled(*make_set(2, 3), batch_size=2, order=[0, 1, 2], seed=0)


def test_one_class_is_no_scenario():
    x, y = torch.zeros(3, 1), torch.zeros(3, dtype=torch.long)
    with pytest.raises(DataError, match="at least 2"):
        class_incremental(x, y, x, y, num_experiences=1, seed=0)
    with pytest.raises(DataError, match="at least 2"):
        repeating(x, y, x, y, num_experiences=2, classes_per_experience=1, seed=0)
    with pytest.raises(DataError, match="at least 2"):
        relabelled(x, y, x, y, batch_size=1, seed=0)


def test_an_empty_experience_is_none():
    x, y, x_test, y_test = make_set(2, 2)
    with pytest.raises(DataError, match="no test example"):
        class_incremental(x, y, x_test[:1], y_test[:1], num_experiences=2, seed=0)
