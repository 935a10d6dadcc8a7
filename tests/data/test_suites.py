"""Suites: what each protocol promises about sizes, classes, seeds and the parts of the data."""

import functools
import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.errors import DataError, SettingError
from nestling.data import list_suite_sources, list_suites, make_suite
from nestling.data.experiences import list_classes
from nestling.data.sources import fetching, obtain
from nestling.data.suites import full_images, people, pictures, places, words
from nestling.data.suites import grey_images as digits
from nestling.data.suites.grey_images import pool_images, read_mnist, rotate_images
from nestling.data.suites.suite import (
    VALIDATION_SEEDS_FROM,
    Request,
    cut_by_class,
    cut_rows,
)
from nestling.data.suites.words import hash_texts

KINDS = {"class-incremental", "domain-incremental", "multi-task", "drift", "conflict"}
DIGITS = ["split-mnist", "permuted-mnist", "rotated-mnist", "drift", "conflict"]


@pytest.fixture(autouse=True, scope="module")
def _readers_read_once():
    """Readers are pure, so that what they found may be kept; tests/data/test_sources tests them."""
    patch = pytest.MonkeyPatch()
    for place, name in (
        (digits, "read_mnist_10k"),
        (digits, "load"),
        (pictures, "read_emoji"),
        (pictures, "read_cifar10"),
        (places, "read_census"),
        (people, "read_watch"),
        (words, "read_clinc150"),
    ):
        patch.setattr(place, name, functools.cache(getattr(place, name)))
    read_anew = pictures.read_omniglot
    read_omniglot = functools.cache(lambda *paths: read_anew(list(paths)))
    patch.setattr(pictures, "read_omniglot", lambda paths: read_omniglot(*paths))
    patch.setattr(fetching, "_measure_sha256", functools.cache(fetching._measure_sha256))
    yield
    patch.undo()
    _make_once.cache_clear()


@functools.cache
def _make_once(name):
    """The suite that most tests look at; none of them writes into it."""
    return make_suite(name, 0, offline=True)


def make(name, seed=0, split="test", *, anew=False):
    """A suite, or skip: tests never fetch. Seed 0 is made once unless it is asked for anew."""
    try:
        # Whole files of images are too large to be kept.
        if (seed, split, anew) == (0, "test", False) and name not in full_images.BUILDERS:
            return _make_once(name)
        return make_suite(name, seed, split=split, offline=True)
    except DataError as error:
        if "data not fetched" not in str(error):
            raise
        pytest.skip(str(error).split("; ")[0])


def hash_rows(pairs):
    """A sum per row, of its places and values other than zero: most rows are mostly zero."""
    sums = set()
    for x, _ in pairs:
        rows, columns = x.flatten(1).numpy().nonzero()
        values = x.flatten(1).numpy()[rows, columns]
        ends = np.searchsorted(rows, np.arange(len(x)), side="right").tolist()
        for start, end in zip([0, *ends], ends, strict=False):
            content = columns[start:end].tobytes() + values[start:end].tobytes()
            sums.add(hashlib.sha256(content).digest())
    return sums


# --- the same for all


def test_the_order_of_the_list():
    assert list_suites()[:4] == ["split-mnist", "permuted-mnist", "rotated-mnist", "split-fashion"]
    assert len(list_suites()) == len(set(list_suites())) == 18


def test_unknown_suites_splits_and_seeds():
    with pytest.raises(SettingError, match="did you mean 'split-mnist'"):
        make_suite("split-mnits", 0)
    with pytest.raises(SettingError, match="'validation'"):
        make_suite("split-mnist", 0, split="validaton")
    for seed in (-1, VALIDATION_SEEDS_FROM):
        with pytest.raises(SettingError, match=f"seed {seed}; give one from 0"):
            make_suite("split-mnist", seed)


@pytest.mark.parametrize("name", ["split-mnist", "clinc150", "split-cifar10", "multi-task"])
def test_absent_data_says_how_to_get_them(name, tmp_path):
    with pytest.raises(DataError, match=r"data not fetched.*nestling data fetch"):
        make_suite(name, 0, folder=tmp_path, offline=True)


@pytest.fixture
def some_images(monkeypatch):
    """Every tenth image of the whole files, where rows are told apart one by one."""
    load = full_images.load
    monkeypatch.setattr(
        full_images, "load", lambda *args, **how: tuple(part[::10] for part in load(*args, **how))
    )
    monkeypatch.setattr(full_images, "NUM_VALIDATION", full_images.NUM_VALIDATION // 10)


@pytest.mark.usefixtures("some_images")
@pytest.mark.parametrize("name", list_suites())
def test_every_suite_keeps_its_word(name):
    suite = make(name)
    assert suite.name == name
    assert suite.kind in KINDS
    assert suite.features in ("pixels", "text", "vectors")
    assert min(suite.batch_size, suite.epochs) >= 1
    assert len(suite.experiences) >= 2
    assert len(suite.note) > 100
    labels = {label for one in suite.experiences for label in one.classes}
    assert labels == set(range(suite.num_classes))
    assert len({one.name for one in suite.experiences}) == len(suite.experiences)
    assert len({one.train[0].shape[1:] for one in suite.experiences}) == 1
    knows = suite.known_task_at_training, suite.known_task_at_test
    assert knows == (suite.kind == "multi-task",) * 2
    for one in suite.experiences:
        assert (one.task is not None) == suite.known_task_at_test
        for x, y in (one.train, one.test):
            assert x.dtype == torch.float32
            assert x.isfinite().all()
            assert set(list_classes(y)) <= set(one.classes)
            if suite.features == "pixels":
                assert 0.0 <= x.min() < x.max() <= 1.0 + 1e-6
    taken = [label for one in suite.experiences for label in one.classes]
    if suite.kind in ("class-incremental", "multi-task"):
        assert len(taken) == suite.num_classes


@pytest.fixture
def some_languages(monkeypatch):
    """Every fifth language: each is cut and drawn by itself, in the same way."""
    read_intents = words.read_intents

    def thin_intents(path):
        found = read_intents(path)
        return {language: found[language] for language in sorted(found)[::5]}

    monkeypatch.setattr(words, "read_intents", thin_intents)


@pytest.fixture
def thin(monkeypatch, some_languages, some_images):
    """The large suites with fewer rows: what a seed draws shows in some of them as in all."""
    read_census, read_clinc150 = places.read_census, words.read_clinc150
    read_banking77 = words.read_banking77

    def thin_census(path):
        found = read_census(path)
        return replace(found, train=found.train[::20], test=found.test[::20])

    monkeypatch.setattr(places, "read_census", thin_census)
    monkeypatch.setattr(places, "CENSUS_TRAIN", 1000)
    monkeypatch.setattr(places, "CENSUS_TEST", 500)
    monkeypatch.setattr(
        words,
        "read_clinc150",
        lambda path: {part: rows[::10] for part, rows in read_clinc150(path).items()},
    )
    monkeypatch.setattr(words, "read_banking77", lambda path: read_banking77(path)[::5])
    monkeypatch.setattr(words, "INTENTS_TRAIN", 20)
    monkeypatch.setattr(words, "INTENTS_TEST", 6)


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize("name", list_suites())
def test_the_same_seed_gives_the_same_bits_and_another_does_not(name):
    is_thin = name in ("census-94-95", *words.BUILDERS)
    one, again, other = make(name, anew=is_thin), make(name, anew=True), make(name, seed=1)
    assert one is not again
    pairs = zip(one.experiences, again.experiences, strict=True)
    assert all(
        torch.equal(a, b)
        for left, right in pairs
        for a, b in zip((*left.train, *left.test), (*right.train, *right.test), strict=True)
    )
    assert one.texts == again.texts
    assert any(
        left.name != right.name or not torch.equal(left.train[0], right.train[0])
        for left, right in zip(one.experiences, other.experiences, strict=True)
    )


@pytest.mark.usefixtures("some_images")
@pytest.mark.parametrize("name", list_suites())
def test_a_suite_obtains_the_sources_that_it_names(name, monkeypatch):
    make(name)
    asked = []

    class Enough(Exception):
        pass

    def note(request, source):
        asked.append(source)
        if {*asked, "digits"} == {*list_suite_sources(name), "digits"}:
            raise Enough
        return obtain(source, offline=True)

    monkeypatch.setattr(Request, "obtain", note)
    with pytest.raises(Enough):
        make_suite(name, 0, offline=True)
    assert set(asked) == set(list_suite_sources(name)) - {"digits"}
    assert ("digits" in list_suite_sources(name)) == (name == "multi-task")


# Parts are disjoint by row; where the data hold twins, this share of rows may look alike.
TWINS = {
    "census-94-95": 0.1,  # other people with the same answers
    "emoji-domains": 0.02,  # flags of dependencies, and families, drawn alike
    "intents-65-languages": 0.02,  # languages share sentences, and the parts of one may too
    "clinc150": 0.001,  # "where did you grow up" and two more stand in two of its own parts
}


@pytest.mark.usefixtures("some_languages", "some_images")
@pytest.mark.parametrize("name", list_suites())
def test_validation_tests_on_nothing_that_the_test_split_tests_on(name):
    test = make(name, anew=name == "intents-65-languages")
    validation = make(name, split="validation")
    assert test.num_classes == validation.num_classes
    tested, tuned = (
        hash_rows([one.test for one in suite.experiences]) for suite in (test, validation)
    )
    trained = hash_rows([one.train for one in [*test.experiences, *validation.experiences]])
    learned = hash_rows([one.train for one in validation.experiences])
    # What is left of a whole training file after tuning is too much to be thrown away.
    tuned_on = learned if name in full_images.BUILDERS else trained
    for left, right in ((tested, tuned), (tested, trained), (tuned, tuned_on)):
        assert len(left & right) <= TWINS.get(name, 0.0) * len(left)


@given(st.integers(0, VALIDATION_SEEDS_FROM - 1), st.integers(0, VALIDATION_SEEDS_FROM - 1))
def test_no_validation_seed_is_a_test_seed(seed, other):
    assert Request(seed, "test").stream_seed != Request(other, "validation").stream_seed


@given(st.integers(3, 200), st.data())
def test_cuts_are_disjoint_and_complete(num_rows, data):
    num_train = data.draw(st.integers(1, num_rows - 2))
    parts = cut_rows(num_rows, num_train, 1)
    assert [len(part) for part in parts] == [num_train, 1, num_rows - num_train - 1]
    assert sorted(torch.cat(parts).tolist()) == list(range(num_rows))


@given(st.lists(st.integers(0, 3), min_size=8, max_size=60), st.floats(0.05, 0.5))
def test_every_class_is_held_out(labels, share):
    y = torch.tensor(labels)
    kept, held_out = cut_by_class(y, share)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(len(y)))
    assert set(y[held_out].tolist()) == set(labels)


# --- digits, by the letter of the protocol


def test_the_cut_of_mnist_is_numpys():
    make("split-mnist")
    images, labels = digits.read_mnist_10k(*obtain("mnist-10k", offline=True))
    order = np.arange(10_000)
    np.random.RandomState(0).shuffle(order)
    x, y, x_test, y_test = read_mnist(Request(0, "test", offline=True))
    assert torch.equal(x, images[order[:7000]])
    assert torch.equal(y, labels[order[:7000]])
    assert torch.equal(x_test, images[order[8000:]])
    assert torch.equal(y_test, labels[order[8000:]])
    validation = read_mnist(Request(0, "validation", offline=True))
    assert torch.equal(validation[2], images[order[7000:8000]])


@pytest.mark.parametrize("name", ["split-mnist", "split-fashion"])
def test_split_suites(name):
    suite = make(name)
    assert [len(one.classes) for one in suite.experiences] == [2] * 5
    assert sum(len(one.train[1]) for one in suite.experiences) == 7000
    assert sum(len(one.test[1]) for one in suite.experiences) == 2000
    assert suite.experiences[0].train[0].shape[1:] == (196,)
    assert len({tuple(one.classes for one in make(name, s).experiences) for s in range(3)}) == 3


@pytest.mark.parametrize("name", list(full_images.BUILDERS))
def test_whole_files_of_images(name):
    suite = make(name)
    assert [len(one.classes) for one in suite.experiences] == [2] * 5
    learned, tested = (
        torch.cat([one.train[1] for one in suite.experiences]),
        torch.cat([one.test[1] for one in suite.experiences]),
    )
    assert (len(learned), tested.bincount().sum()) == (60_000, 10_000)
    assert suite.experiences[0].train[0].shape[1:] == (784,)
    assert (suite.batch_size, suite.epochs, suite.widths) == (32, 1, (400, 400))
    assert "batch 32, one pass" in suite.note
    # Test images are those of the file's own test part, all of them.
    (source,) = list_suite_sources(name)
    _, _, x_test, y_test = full_images.load(source, None, offline=True)
    assert torch.equal(tested.bincount(), y_test.bincount())
    shown = hash_rows([one.test for one in suite.experiences])
    assert shown == hash_rows([(x_test, None)])
    validation = make(name, split="validation")
    sizes = [(len(one.train[1]), len(one.test[1])) for one in validation.experiences]
    assert [sum(part) for part in zip(*sizes, strict=True)] == [50_000, 10_000]


@pytest.mark.parametrize("name", ["permuted-mnist", "rotated-mnist"])
def test_ten_tasks_of_700(name):
    suite = make(name)
    sizes = [(len(one.train[1]), len(one.test[1])) for one in suite.experiences]
    assert sizes == [(700, 500)] * 10
    # Disjoint parts: labels of all tasks together are those of the training part.
    y = read_mnist(Request(0, "test", offline=True))[1]
    together = torch.cat([one.train[1] for one in suite.experiences])
    assert torch.equal(together.bincount(), y.bincount())
    # The first task is neither permuted nor turned.
    assert hash_rows([suite.experiences[0].train]) <= hash_rows(
        [(pool_images(read_mnist(Request(0, "test", offline=True))[0]), None)]
    )


def test_permutations_keep_the_multiset_of_pixels():
    suite = make("permuted-mnist")
    x = read_mnist(Request(0, "test", offline=True))[0]
    known = hash_rows([(pool_images(x).sort(dim=1).values, None)])
    for one in suite.experiences:
        assert hash_rows([(one.train[0].sort(dim=1).values, None)]) <= known


def test_rotation_is_at_full_resolution_and_turns_back():
    image = torch.zeros(1, 28, 28)
    image[0, 6:10, 12:16] = 1.0
    assert torch.equal(rotate_images(image, 0.0), image)
    assert torch.allclose(rotate_images(image, 180.0), image.flip(1, 2), atol=1e-4)
    turned = rotate_images(rotate_images(image, 20.0), -20.0)
    assert (turned - image).abs().mean() < 0.01
    # Little is lost: ink near the middle stays in the picture.
    assert rotate_images(image, 60.0).sum() == pytest.approx(16.0, rel=0.02)
    assert pool_images(image).reshape(14, 14)[3:5, 6:8].eq(1.0).all()


@pytest.mark.parametrize("name", ["drift", "conflict"])
def test_streams_of_twelve_segments(name):
    suite = make(name)
    assert suite.is_ordered
    assert len(suite.experiences) == 12
    assert all(50 <= len(one.train[1]) / 10 <= 79 for one in suite.experiences)
    assert all(len(one.train[1]) % 10 == 0 for one in suite.experiences)
    contexts = [one.name.split(": ")[1] for one in suite.experiences]
    numbers = [list(dict.fromkeys(contexts)).index(context) for context in contexts]
    wanted = {"drift": [0, 1, 2, 3, 0, 2, 1, 3, 2, 0, 3, 1], "conflict": [0, 1, 0, 2, 1, 0] * 2}
    if name == "conflict":
        wanted[name] = [0, 1, 0, 2, 1, 0, 2, 1, 0, 2, 1, 2]
    else:
        assert {len(one.test[1]) for one in suite.experiences} == {500}
    assert numbers == wanted[name]
    # The same context is tested by the same images.
    first, again = (suite.experiences[i] for i in (0, contexts.index(contexts[0], 1)))
    assert torch.equal(first.test[0], again.test[0])
    assert torch.equal(first.test[1], again.test[1])


# --- places, pictures and words


def test_heart_hospitals():
    suite = make("heart-4-hospitals")
    sizes = {one.name: len(one.train[1]) + len(one.test[1]) for one in suite.experiences}
    assert sizes == {"Cleveland": 258, "Hungary": 248, "VA Long Beach": 169, "Switzerland": 105}


def test_census_years_come_in_their_order():
    suite = make("census-94-95")
    assert [one.name for one in suite.experiences] == ["1994", "1995"]
    assert [len(one.train[1]) for one in suite.experiences] == [20_000] * 2
    assert [len(one.test[1]) for one in suite.experiences] == [10_000] * 2
    assert all(0.05 < one.train[1].double().mean() < 0.08 for one in suite.experiences)


def test_watch_people_are_tuned_on_or_tested_on():
    tested, tuned = make("watch-users"), make("watch-users", split="validation")
    people = {one.name for one in tested.experiences}
    assert len(people) == 7
    assert not people & {one.name for one in tuned.experiences}
    assert all(one.classes == tuple(range(7)) for one in tested.experiences)


def test_omniglot_alphabets():
    suite = make("omniglot")
    assert sum(len(one.classes) for one in suite.experiences) == 242
    for one in suite.experiences:
        assert one.train[1].bincount()[list(one.classes)].unique().tolist() == [14]
        assert one.test[1].bincount()[list(one.classes)].unique().tolist() == [4]


def test_emoji_are_the_same_things_twice():
    first, second = make("emoji-domains").experiences
    assert {first.name, second.name} == {"google", "twitter"}
    assert torch.equal(first.train[1], second.train[1])
    assert torch.equal(first.test[1], second.test[1])
    assert not torch.equal(first.train[0], second.train[0])


def test_cifar10_and_multi_task_sizes():
    cifar = make("split-cifar10")
    assert {(len(one.train[1]), len(one.test[1])) for one in cifar.experiences} == {(900, 200)}
    several = make("multi-task")
    assert {(len(one.train[1]), len(one.test[1])) for one in several.experiences} == {(1200, 400)}
    assert [one.task for one in several.experiences] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "num_train", "num_test", "groups"),
    [("clinc150", 15_000, 4_500, [15] * 10), ("banking77", 9_002, 3_080, [11] * 7)],
)
def test_text_suites(name, num_train, num_test, groups):
    suite = make(name)
    assert [len(one.classes) for one in suite.experiences] == groups
    assert sum(len(one.test[1]) for one in suite.experiences) == num_test
    assert sum(len(one.train[1]) for one in suite.experiences) == pytest.approx(num_train, abs=20)
    for one, (learned, tested) in zip(suite.experiences, suite.texts, strict=True):
        assert (len(learned), len(tested)) == (len(one.train[1]), len(one.test[1]))
    one, (learned, _) = suite.experiences[0], suite.texts[0]
    assert torch.equal(hash_texts(learned[:9]), one.train[0][:9])


def test_intents_in_65_languages():
    suite = make("intents-65-languages")
    assert len(suite.experiences) == 65
    assert all(len(one.train[1]) <= 200 and len(one.test[1]) <= 60 for one in suite.experiences)
    for learned, tested in suite.texts:
        assert not set(learned) & set(tested)


# --- hashed n-grams


@given(st.lists(st.text(max_size=20), max_size=6))
def test_hashed_texts_have_length_one_whatever_their_neighbours(texts):
    x = hash_texts(texts, num_columns=64)
    assert x.shape == (len(texts), 64)
    norms = x.norm(dim=1)
    assert (((norms - 1.0).abs() < 1e-5) | (norms == 0.0)).all()
    for row, text in zip(x, texts, strict=True):
        assert torch.equal(row, hash_texts([text], num_columns=64)[0])


def test_hashing_is_the_same_in_every_run_and_signs_are_even():
    x = hash_texts(["what is my balance"])
    assert hashlib.sha256(x.sign().char().numpy().tobytes()).hexdigest()[:12] == "4ee75c157f24"
    many = hash_texts([" ".join(str(number) for number in range(3000))])
    assert abs(float(many.sign().sum() / many.ne(0).sum())) < 0.1


def test_columns_are_used_evenly():
    # 26^3 different 3-grams, one each: counts per column as if thrown at random.
    letters = "abcdefghijklmnopqrstuvwxyz"
    grams = [a + b + c for a in letters for b in letters for c in letters]
    used = hash_texts(grams, num_columns=256, sizes=(5,)).ne(0).sum(0).double()
    assert used.sum() == len(grams)
    expected = len(grams) / 256
    chi_squared = float(((used - expected) ** 2 / expected).sum())
    assert 170 < chi_squared < 350  # 255 degrees of freedom; 4 standard deviations


def test_square_roots_damp_repetition():
    once, often = hash_texts(["ab", "ab" * 30], sizes=(2,))
    assert float(often.abs().max() / often[often != 0].abs().min()) == pytest.approx(30**0.5)
    assert once.ne(0).sum() == 3


def test_no_sizes():
    with pytest.raises(SettingError, match="sizes"):
        hash_texts(["a"], sizes=())
