"""Closed forms equal direct solutions, do not depend on order, and refuse bad input whole."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from torch import Tensor

from nestling.core.errors import (
    DataError,
    ForeignSnapshot,
    NonFiniteInput,
    NotFitted,
    SettingError,
    ShapeMismatch,
    UnknownLabel,
)
from nestling.memory import RandomFeatures
from nestling.memory.closed import (
    ClosedForm,
    NearestClassMean,
    RandomProjectionRidge,
    RecursiveRidge,
    StreamingLDA,
    choose_on_held,
)

MAKERS: dict[str, Callable[[int], ClosedForm]] = {
    "cosine": lambda width: NearestClassMean(width),
    "euclid": lambda width: NearestClassMean(width, metric="euclid"),
    "lda": lambda width: StreamingLDA(width),
    "ranpac": lambda width: RandomProjectionRidge(width, 300),
    "recursive": lambda width: RecursiveRidge(
        width, features=RandomFeatures(width, 300), strength=0.1
    ),
}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def draw(seed: int, num: int = 60, width: int = 5, num_classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(num_classes, (num,), generator=generator)
    x = torch.randn(num, width, generator=generator, dtype=torch.float64)
    return x + y[:, None] * torch.linspace(-1, 1, width, dtype=torch.float64), y


def read_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    digits = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(digits.data)[order] / 16, torch.tensor(digits.target)[order]
    return x[:1200], y[:1200], x[1200:], y[1200:]


# Measured on this split: 0.901, 0.894, 0.943, about 0.97 and 0.97.
@pytest.mark.parametrize(
    ("name", "least"),
    [("cosine", 0.89), ("euclid", 0.88), ("lda", 0.93), ("ranpac", 0.95), ("recursive", 0.95)],
)
def test_digits_class_by_class_are_not_forgotten(name: str, least: float) -> None:
    x, y, x_test, y_test = read_digits()
    classifier = MAKERS[name](64)
    num_bytes = []
    for label in range(10):  # one class after the other, never seen again
        classifier.add(x[y == label], y[y == label])
        assert classifier.num_classes == label + 1
        num_bytes.append(classifier.count_bytes())
    accuracy = float((classifier.predict(x_test).argmax(1) == y_test).double().mean())
    assert accuracy > least
    classifier.add(x, y)
    assert classifier.count_bytes() == num_bytes[-1] > num_bytes[0]


@every
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), size=st.integers(1, 70))
def test_order_and_blocks_do_not_matter(
    make: Callable[[int], ClosedForm], seed: int, size: int
) -> None:
    x, y = draw(seed)
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    whole, pieces = make(5), make(5)
    whole.add(x, y)
    for rows in shuffled.split(size):
        pieces.add(x[rows], y[rows])
    query = draw(seed + 1)[0]
    torch.testing.assert_close(pieces.predict(query), whole.predict(query), atol=1e-8, rtol=1e-8)


@every
def test_gaps_single_examples_and_late_classes(make: Callable[[int], ClosedForm]) -> None:
    x, y = draw(0)
    classifier = make(5)
    with pytest.raises(NotFitted, match="add"):
        classifier.predict(x)
    classifier.add(x[:0], y[:0])
    with pytest.raises(NotFitted):
        classifier.predict(x)
    classifier.add(x[:1].float(), torch.tensor([2]))
    scores = classifier.predict(x)
    assert scores.shape == (60, 3)
    assert scores.dtype == torch.float64
    assert bool((scores.argmax(1) == 2).all())
    assert bool(scores[:, :2].isneginf().all())
    assert classifier.predict(x[:0]).shape == (0, 3)
    classifier.add(-x[:1], torch.tensor([4]))
    assert classifier.predict(torch.cat((x[:1], -x[:1]))).argmax(1).tolist() == [2, 4]
    unseen = classifier.predict(x).softmax(1)[:, [0, 1, 3]]
    assert float(unseen.max()) == 0.0


@every
def test_bad_input_changes_nothing(make: Callable[[int], ClosedForm]) -> None:
    x, y = draw(0)
    classifier = make(5)
    classifier.add(x, y)
    before = classifier.predict(x)
    bad: list[tuple[Tensor, Tensor, type[DataError]]] = [
        (x[:, :4], y, ShapeMismatch),
        (x, y[:-1], ShapeMismatch),
        (x.long(), y, ShapeMismatch),
        (x, y.double(), ShapeMismatch),
        (x, y - 9, UnknownLabel),
        (x.index_fill(0, torch.tensor([7]), torch.nan), y, NonFiniteInput),
        (x * 1e200, y + 3, DataError),
    ]
    for wrong_x, wrong_y, error in bad:
        with pytest.raises(error):
            classifier.add(wrong_x, wrong_y)
        assert torch.equal(classifier.predict(x), before)
    with pytest.raises(ShapeMismatch):
        classifier.predict(x[:, :4])


@every
def test_saved_and_loaded_goes_on_the_same(make: Callable[[int], ClosedForm]) -> None:
    x, y = draw(0)
    first, second = make(5), make(5)
    first.add(x[:30], y[:30])
    state = first.state_dict()
    second.load_state_dict(state)
    for classifier in (first, second):  # neither shares the saved tensors
        classifier.add(x[30:], y[30:])
    assert torch.equal(first.predict(x), second.predict(x))
    third = make(5)
    third.load_state_dict(state)
    assert not torch.equal(third.predict(x), first.predict(x))
    with pytest.raises(ForeignSnapshot):
        make(6).load_state_dict(state)


def test_euclid_equals_scikit_learn_and_is_exact_far_from_zero() -> None:
    x, y = draw(3)
    query = draw(4)[0]
    expected = NearestCentroid().fit(x.numpy(), y.numpy()).predict(query.numpy())
    for offset in (0.0, 1e7):  # scikit-learn itself errs at 1e7
        means = NearestClassMean(5, metric="euclid")
        means.add(x + offset, y)
        assert means.predict(query + offset).argmax(1).tolist() == expected.tolist()


def test_cosine_ignores_the_length_of_inputs() -> None:
    x, y = draw(3)
    means = NearestClassMean(5)
    means.add(x, y)
    torch.testing.assert_close(means.predict(x), means.predict(7 * x))
    assert float(means.predict(x).abs().max()) <= 1 + 1e-12


@pytest.mark.parametrize("shrinkage", [1e-4, 0.3])
def test_lda_equals_scikit_learn(shrinkage: float) -> None:
    x, y = draw(5)
    lda = StreamingLDA(5, shrinkage=shrinkage)
    for rows in torch.arange(60).split(7):
        lda.add(x[rows], y[rows])
    # Its `priors` also weigh the covariance, so those of the data are given and taken out.
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x, y)
    centre, weights, _ = lda.solve()
    torch.testing.assert_close(centre, x.mean(0))
    log_prior = torch.tensor(theirs.priors_).log()
    # Theirs are about zero, ours about the mean: both tell the same classes apart.
    between = torch.tensor(theirs.coef_ - theirs.coef_[:1])
    torch.testing.assert_close((weights - weights[:, :1]).T, between, rtol=1e-8, atol=1e-8)
    scores = torch.tensor(theirs.decision_function(x.numpy())) - log_prior
    found = lda.predict(x)
    torch.testing.assert_close(found - found[:, :1], scores - scores[:, :1])


def test_lda_posterior_is_that_of_its_gaussians_in_any_unit() -> None:
    x, y = draw(6)
    lda, scaled = StreamingLDA(5), StreamingLDA(5)
    lda.add(x, y)
    scaled.add(1000 * x, y)
    shrunk = lda.covariance * (1 - 1e-4)
    shrunk.diagonal().add_(1e-4 * float(lda.covariance.diagonal().mean()))
    logits = torch.stack(
        [
            torch.distributions.MultivariateNormal(x[y == label].mean(0), shrunk).log_prob(x)
            for label in range(4)
        ],
        dim=1,
    )
    torch.testing.assert_close(lda.predict(x).softmax(1), logits.softmax(1))
    torch.testing.assert_close(scaled.predict(1000 * x).softmax(1), logits.softmax(1))


def test_recursive_ridge_equals_the_batch_solution() -> None:
    x, y = draw(7, num=700)
    recursive = RecursiveRidge(5, strength=0.5)
    for label in (2, 0, 3, 1):  # classes one after the other; the block is cut at 256 rows
        recursive.add(x[y == label], y[y == label])
    targets = torch.nn.functional.one_hot(y).double()
    direct = torch.linalg.solve(x.T @ x + 0.5 * torch.eye(5), x.T @ targets)
    theirs = Ridge(alpha=0.5, fit_intercept=False, solver="cholesky").fit(x, targets)
    torch.testing.assert_close(recursive.weights, direct, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(recursive.weights, torch.tensor(theirs.coef_.T))


def test_recursive_ridge_stays_exact_over_a_long_stream_of_single_examples() -> None:
    x, y = draw(8, num=2000)
    features = RandomFeatures(5, 40, seed=3)
    recursive = RecursiveRidge(5, features=features, strength=1e-4)
    for row in range(len(x)):
        recursive.add(x[row : row + 1], y[row : row + 1])
    phi, targets = features(x), torch.nn.functional.one_hot(y).double()
    direct = torch.linalg.solve(phi.T @ phi + 1e-4 * torch.eye(40), phi.T @ targets)
    torch.testing.assert_close(features(x) @ recursive.weights, phi @ direct, atol=1e-5, rtol=1e-5)


def test_ranpac_chooses_the_strength_that_a_direct_search_chooses() -> None:
    generator = torch.Generator().manual_seed(9)
    h, held = torch.randn(2, 30, 20, generator=generator, dtype=torch.float64)
    y, y_held = torch.randint(3, (2, 30), generator=generator)
    one_hot, held_hot = (torch.nn.functional.one_hot(labels, 3).double() for labels in (y, y_held))
    strengths = [10.0**power for power in range(-4, 5)]
    errors = []
    for strength in strengths:
        weights = Ridge(alpha=strength, fit_intercept=False).fit(h, one_hot).coef_.T
        errors.append(float((held @ torch.tensor(weights) - held_hot).square().sum()))
    best = strengths[errors.index(min(errors))]
    assert strengths[0] < best < strengths[-1] or best == strengths[-1]
    chosen = choose_on_held(
        h.T @ h, one_hot.T @ h, held.T @ held, held_hot.T @ held, held_hot.sum(0), strengths
    )
    assert chosen == best


def test_ranpac_equals_ridge_on_its_features_and_holds_out_a_fifth() -> None:
    x, y = draw(10, num=2000)
    ridge = RandomProjectionRidge(5, 30, seed=2)
    ridge.add(x, y)
    assert 330 < ridge.num_held < 470
    weights, strength = ridge.solve()
    theirs = Ridge(alpha=strength, fit_intercept=False, solver="cholesky")
    theirs.fit(ridge.features(x), torch.nn.functional.one_hot(y).double())
    torch.testing.assert_close(weights, torch.tensor(theirs.coef_.T), atol=1e-7, rtol=1e-6)
    ridge.add(x, y)  # copies stay on their side
    assert ridge.num_held % 2 == 0
    single = RandomProjectionRidge(5, 30, seed=2, strengths=[strength], held_share=0.0)
    single.add(x, y)
    assert single.num_held == 0
    torch.testing.assert_close(single.solve()[0], weights, atol=1e-7, rtol=1e-6)


def test_ranpac_survives_a_gram_matrix_that_rounding_made_indefinite() -> None:
    x = torch.ones(50, 5) * 1e5  # every feature is a multiple of every other
    ridge = RandomProjectionRidge(5, 60, strengths=[1e-8], held_share=0.0)
    ridge.add(x, torch.zeros(50, dtype=torch.int64))
    torch.testing.assert_close(ridge.predict(x[:1]), torch.ones(1, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    "build",
    [
        lambda: NearestClassMean(0),
        lambda: NearestClassMean(2, metric="cosin"),  # type: ignore[arg-type]
        lambda: StreamingLDA(2, shrinkage=0.0),
        lambda: RandomProjectionRidge(2, 0),
        lambda: RandomProjectionRidge(2, strengths=[]),
        lambda: RandomProjectionRidge(2, strengths=[0.0]),
        lambda: RandomProjectionRidge(2, held_share=0.0),
        lambda: RecursiveRidge(2, strength=float("inf")),
        lambda: RecursiveRidge(2, features=RandomFeatures(3, 4)),
    ],
)
def test_impossible_settings_are_refused(build: Callable[[], Any]) -> None:
    with pytest.raises(SettingError):
        build()


@every
@pytest.mark.parametrize("offset", [1e8, 1.7e9])  # the latter are Unix times
def test_a_common_offset_costs_no_accuracy(
    make: Callable[[int], ClosedForm], offset: float
) -> None:
    x = draw(11, num=400, num_classes=1)[0]
    y = (x[:, 0] > 0).long()
    plain = make(5)
    plain.add(x, y)
    least = float((plain.predict(x).argmax(1) == y).double().mean()) - 0.03
    assert least > 0.85
    for far in ([1.0] * 5, [0.0, 1.0, 0.0, -1.0, 0.0]):
        moved = x + offset * torch.tensor(far, dtype=torch.float64)
        for first in (400, 30, 1):
            classifier, again = make(5), make(5)
            classifier.add(moved[:first], y[:first])
            again.load_state_dict(classifier.state_dict())
            for one in (classifier, again):
                one.add(moved[first:], y[first:])
            scores = classifier.predict(moved)
            assert torch.equal(scores, again.predict(moved))
            assert float((scores.argmax(1) == y).double().mean()) >= least


@every
def test_a_label_far_beyond_all_others_is_refused(make: Callable[[int], ClosedForm]) -> None:
    x, y = draw(12)
    classifier = make(5)
    for known in (0, 4):
        with pytest.raises(UnknownLabel, match=r"label 250000 where .* number the classes 0, 1, 2"):
            classifier.add(x[:2], torch.tensor([0, 250_000]))
        assert classifier.num_classes == known
        classifier.add(x, y)
    classifier.add(x[:1], torch.tensor([103]))
    assert classifier.num_classes == 104


@every
def test_inputs_whose_squares_overflow_are_refused(make: Callable[[int], ClosedForm]) -> None:
    x, y = draw(13)
    classifier = make(5)
    classifier.add(x, y)
    for factor in (1e100, 1e160, 1e300):
        with pytest.raises(DataError, match=r"squares overflow; scale them down"):
            classifier.add(x * factor, y)
        with pytest.raises(DataError, match=r"squares overflow; scale them down"):
            classifier.predict(x * factor)
    classifier.add(x * 1e30, y)
    assert not bool(classifier.predict(x).isnan().any())
