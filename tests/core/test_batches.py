"""Every form of batch and output is read alike, and bad ones are refused in one line."""

import math
from collections import namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from nestling.core.batches import (
    Batch,
    check_batch,
    default_loss,
    per_sample_loss,
    read_batch,
    read_output,
)
from nestling.core.errors import DataError, NonFiniteInput, ShapeMismatch, UnknownLabel

X = torch.arange(6.0).reshape(3, 2)
Y = torch.tensor([0, 1, 2])
Pair = namedtuple("Pair", ["x", "y"])


def seeded(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(
    ("raw", "num_inputs", "keywords", "has_target"),
    [
        (X, 1, [], False),
        ((X,), 1, [], False),
        ((X, Y), 1, [], True),
        ([X, Y], 1, [], True),
        (Pair(X, Y), 1, [], True),
        ((X, X, X, Y), 3, [], True),
        (((X, X), Y), 2, [], True),
        (((X, X),), 2, [], False),
        ((X.numpy(), Y.numpy()), 1, [], True),
        (({"a": X, "b": X}, Y), 0, ["a", "b"], True),
        ({"input_ids": X, "attention_mask": X, "labels": Y}, 0, ["attention_mask", "input_ids"], 1),
        ({"x": X, "y": Y}, 0, ["x"], True),
        ({"x": X, "label": Y}, 0, ["x"], True),
        ({"x": X, "target": Y}, 0, ["x"], True),
        ({"x": X}, 0, ["x"], False),
        (({"x": X, "y": Y},), 0, ["x"], True),
        (Batch((X,), {}, Y), 1, [], True),
    ],
)
def test_every_form_of_batch(
    raw: object, num_inputs: int, keywords: list[str], has_target: bool
) -> None:
    batch = read_batch(raw)
    assert len(batch.inputs) == num_inputs
    assert sorted(batch.keywords) == keywords
    assert all(torch.equal(tensor, X) for tensor in batch.features.values())
    assert (batch.target is not None) == has_target
    assert batch.target is None or torch.equal(batch.target, Y)
    assert batch.size == 3


def test_hugging_face_encoding_and_loader_are_batches() -> None:
    transformers = pytest.importorskip("transformers")
    encoding = transformers.BatchEncoding({"input_ids": Y, "labels": Y})
    assert list(read_batch(encoding).keywords) == ["input_ids"]
    (raw,) = DataLoader(TensorDataset(X, Y), batch_size=3)
    assert torch.equal(read_batch(raw).inputs[0], X)


def test_call_passes_inputs_and_keywords() -> None:
    class Scale(nn.Module):
        def forward(self, x: Tensor, *, factor: Tensor) -> Tensor:
            return x * factor

    batch = Batch((X,), {"factor": torch.full((3, 1), 2.0)}).to("cpu")
    assert torch.equal(batch.call(Scale()), 2 * X)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ((), "empty sequence"),
        ("text", "is a str"),
        ({}, "no inputs"),
        ({"labels": Y}, "no inputs"),
        ({"text": ["a", "b"], "labels": Y}, "text of a batch is a list"),
        ((np.array(["a", "b"]), Y), "is a ndarray; give a tensor or a numeric"),
        ((X, [0, 1, 2]), "target of a batch is a list"),
    ],
)
def test_other_forms_are_refused(raw: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_batch(raw)


def test_every_form_of_output() -> None:
    transformers = pytest.importorskip("transformers")
    output = transformers.modeling_outputs.SequenceClassifierOutput(logits=X, hidden_states=(Y,))
    for form in (X, {"logits": X}, output, (X, Y), ["hidden", X]):
        assert read_output(form) is X
    bare = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=X)
    with pytest.raises(DataError, match=r"BaseModelOutput with keys \['last_hidden_state'\]"):
        read_output(bare)
    with pytest.raises(DataError, match="returned a NoneType;"):
        read_output(None)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_features_are_named(value: float) -> None:
    wrong = X.clone()
    wrong[1, 0] = value
    with pytest.raises(NonFiniteInput, match=rf"input 0 holds {value} at index \(1, 0\)"):
        check_batch(Batch((wrong,), {}, Y))
    with pytest.raises(NonFiniteInput, match=rf"mask holds {value} at index \(1, 0\)"):
        check_batch(Batch((), {"ids": Y, "mask": wrong}, Y))
    with pytest.raises(NonFiniteInput, match="target holds"):
        check_batch(Batch((X,), {}, wrong))


def test_opposite_infinities_and_large_values_are_told_apart() -> None:
    both = torch.tensor([[math.inf, -math.inf]])
    with pytest.raises(NonFiniteInput, match="2 non-finite"):
        check_batch(Batch((both,)))
    check_batch(Batch((torch.full((2, 2), 3e38),)))
    check_batch(Batch((torch.full((9, 9), 6e4, dtype=torch.float16),)))


@given(st.integers(0, 5), st.integers(0, 5))
def test_lengths_must_agree(left: int, right: int) -> None:
    batch = Batch((torch.zeros(left, 2),), {}, torch.zeros(right, dtype=torch.long))
    if left == right:
        check_batch(batch, 1)
    else:
        with pytest.raises(ShapeMismatch, match=f"its first dimension must be {left}"):
            check_batch(batch, 1)


def test_scalars_are_no_batch() -> None:
    with pytest.raises(ShapeMismatch, match=r"input 0 has shape \(\)"):
        check_batch(Batch((torch.tensor(1.0),)))


@given(st.lists(st.integers(-3, 6), min_size=1, max_size=6), st.integers(1, 6))
def test_labels_must_be_declared(labels: list[int], num_classes: int) -> None:
    batch = Batch((torch.zeros(len(labels), 2),), {}, torch.tensor(labels))
    if min(labels) < 0:
        with pytest.raises(UnknownLabel, match=f"label {min(labels)} is negative"):
            check_batch(batch, num_classes)
    elif max(labels) >= num_classes:
        with pytest.raises(UnknownLabel, match=rf"label {max(labels)} is outside .* 0\.\."):
            check_batch(batch, num_classes)
    else:
        check_batch(batch, num_classes)
        check_batch(batch)


def test_ignored_positions_pass_in_dense_targets_only() -> None:
    dense = torch.tensor([[0, -100], [1, 2]])
    check_batch(Batch((torch.zeros(2, 2),), {}, dense), 3)
    with pytest.raises(UnknownLabel, match="label -7"):
        check_batch(Batch((torch.zeros(2, 2),), {}, dense.where(dense != 1, -7)), 3)
    with pytest.raises(UnknownLabel, match="label -100"):
        check_batch(Batch((torch.zeros(2, 2),), {}, dense[0]), 3)
    with pytest.raises(DataError, match="every position"):
        check_batch(Batch((torch.zeros(2, 2),), {}, torch.full((2, 2), -100)))


def test_dtypes_that_do_not_fit_name_the_remedy() -> None:
    with pytest.raises(ShapeMismatch, match=r"model is torch.float32.*input 0 with .*float32"):
        Batch((X.double(),), {}, Y).call(nn.Linear(X.shape[1], 2))
    with pytest.raises(ShapeMismatch, match=r"float32 where one of 3 classes .*\.long\(\)"):
        check_batch(Batch((X,), {}, Y.float()), 3)
    check_batch(Batch((X,), {}, Y.double()))
    check_batch(Batch((Y,), {}, Y), 3)


@pytest.mark.parametrize(
    ("output", "target", "expected"),
    [
        ((4, 3), (4,), lambda o, t: cross_entropy(o, t)),
        ((4, 5, 3), (4, 5), lambda o, t: cross_entropy(o.flatten(0, 1), t.flatten())),
        ((4, 3, 5), (4, 5), lambda o, t: cross_entropy(o, t)),
        ((4, 3, 3), (4, 3), lambda o, t: cross_entropy(o.flatten(0, 1), t.flatten())),
        ((2, 3, 4, 5), (2, 4, 5), lambda o, t: cross_entropy(o, t)),
        ((2, 3, 3, 3), (2, 3, 3), lambda o, t: cross_entropy(o, t)),
        ((2, 4, 5, 3), (2, 4, 5), lambda o, t: cross_entropy(o.movedim(-1, 1), t)),
    ],
)
def test_cross_entropy_finds_the_classes(output: tuple, target: tuple, expected) -> None:
    logits = seeded(*output)
    classes = torch.randint(0, 3, target, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(default_loss(logits, classes), expected(logits, classes))
    torch.testing.assert_close(
        per_sample_loss(logits, classes).mean(), default_loss(logits, classes)
    )
    if classes.ndim > 1:
        classes[0, 0] = -100
        torch.testing.assert_close(default_loss(logits, classes), expected(logits, classes))
        alone = torch.stack(
            [default_loss(logits[i : i + 1], classes[i : i + 1]) for i in range(len(logits))]
        )
        if not alone.isnan().any():
            torch.testing.assert_close(per_sample_loss(logits, classes), alone)


def test_small_integers_are_classes() -> None:
    for dtype in (torch.int32, torch.uint8):
        assert default_loss(X, Y.clamp(max=1).to(dtype)).isfinite()
    assert default_loss(X, Y > 0).isfinite()


def test_a_fully_ignored_example_costs_nothing() -> None:
    losses = per_sample_loss(torch.zeros(2, 3, 4), torch.tensor([[-100] * 3, [0, -100, 1]]))
    torch.testing.assert_close(losses, torch.tensor([0.0, math.log(4)]))


def test_columns_and_vectors_are_never_broadcast() -> None:
    """The classic silent mistake: (N, 1) against (N,) makes an N x N loss."""
    values, row = torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 2.0])
    assert default_loss(values, row) == default_loss(row, values) == 0
    assert default_loss(values, row.double()).dtype == torch.float32
    torch.testing.assert_close(per_sample_loss(values, row + 2), torch.tensor([4.0, 4.0]))


@pytest.mark.parametrize(
    ("output", "target", "message"),
    [
        ((4, 3), torch.zeros(4, 1, dtype=torch.long), r"y\.squeeze\(1\)"),
        ((4,), torch.zeros(4, dtype=torch.long), "need logits of 2 dimensions"),
        ((4, 3), torch.zeros(5, dtype=torch.long), r"\(4, 3\) do not fit classes of shape \(5,\)"),
        ((4, 3), torch.zeros(4), r"\(4, 3\) do not fit targets of shape \(4,\)"),
        ((4, 4), torch.zeros(4), "do not fit"),
    ],
)
def test_shapes_that_do_not_fit(output: tuple, target: Tensor, message: str) -> None:
    with pytest.raises(ShapeMismatch, match=message):
        default_loss(seeded(*output), target)
    with pytest.raises(ShapeMismatch, match=message):
        per_sample_loss(seeded(*output), target)


def test_empty_batch_passes_the_check() -> None:
    batch = Batch((torch.zeros(0, 4),), {}, torch.zeros(0, dtype=torch.long))
    check_batch(batch, 3)
    assert batch.size == 0
