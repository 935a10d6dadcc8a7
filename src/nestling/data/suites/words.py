"""Suites of texts: intents and questions, as hashed character n-grams beside the strings.

Axis letters: N texts, D columns.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.core.seeds import make_generator
from nestling.data.experiences import Experience, list_classes
from nestling.data.scenarios import class_incremental
from nestling.data.sources.templates import Grammar, expand
from nestling.data.sources.texts import Labelled, read_banking77, read_clinc150, read_intents
from nestling.data.suites.suite import (
    Request,
    Suite,
    Texts,
    cut_by_class,
    cut_rows,
    shuffle_domains,
)

NUM_COLUMNS = 4_096
GRAM_SIZES = (2, 3, 4)
INTENTS_TRAIN, INTENTS_TEST = 200, 60
_HASHED = (
    "Features are 4,096 hashed character 2-4-grams, no encoder trained elsewhere: figures with "
    "a sentence encoder, which `texts` allows, are another matter."
)


def hash_texts(
    texts: Sequence[str], num_columns: int = NUM_COLUMNS, sizes: Sequence[int] = GRAM_SIZES
) -> Tensor:
    """Hashed character n-grams of lower-case texts, spaces at both ends.

    x_j = s sqrt|c_j| / |x|,  s = sign c_j,  c_j = sum over n-grams g with h(g) = j of sigma(g)
    [signed feature hashing, Weinberger 2009]

    Args:
        texts: N of them.
        num_columns: D.
        sizes: lengths of n-grams, in characters.

    Returns: (N, D) float32 of length 1; zero for a text shorter than every n-gram.

    >>> x = hash_texts(["Turn on the light", "turn on the lights", "what is the time"])
    >>> bool(x[0] @ x[1] > 0.8), bool(x[0] @ x[2] < 0.5)
    (True, True)
    """
    if num_columns < 1 or not sizes or min(sizes) < 1:
        raise SettingError(f"num_columns {num_columns}, sizes {tuple(sizes)}; give 1 or more")
    # All texts as one row of code points, so that n-grams are summed without a loop over them.
    padded = [f" {text.lower()} " for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in padded])
    counts = torch.zeros(len(texts) * num_columns, dtype=torch.float32, device="cpu")
    for size in sizes:
        num_grams = max(len(codes) - size + 1, 0)
        hashed = np.full(num_grams, size, np.uint64)
        for place in range(size):
            hashed = _mix(hashed ^ codes[place : place + num_grams])
        # An n-gram that begins in one text and ends in the next is none.
        is_whole = owner[:num_grams] == owner[size - 1 :]
        columns = (hashed % np.uint64(num_columns)).astype(np.int64)
        at = (owner[:num_grams] * num_columns + columns)[is_whole]
        signs = np.where(hashed[is_whole] >> np.uint64(63), 1.0, -1.0).astype(np.float32)
        counts.index_add_(0, torch.from_numpy(at), torch.from_numpy(signs))
    # In place, since the time goes into passes over memory: nearly all counts are zero.
    roots = counts.abs().sqrt_().copysign_(counts).reshape(len(texts), num_columns)
    return roots.div_(roots.norm(dim=1, keepdim=True).clamp_min_(1e-12))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit depends on every bit: the last steps of SplitMix64 [Steele 2014].

    Python's own hash differs between runs.
    """
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def make_clinc150(request: Request) -> Suite:
    """Requests to an assistant: fifteen intents after another."""
    parts = read_clinc150(*request.obtain("clinc150"))
    tested = parts["test" if request.split == "test" else "val"]
    return _make_split(
        "clinc150",
        parts["train"],
        tested,
        num_experiences=10,
        note=(
            "CLINC150 (Larson 2019), 150 intents in 10 groups of 15 drawn by the seed, single "
            "head; 100 requests of each to train, 20 to validate, 30 to test, its own parts; "
            "none out of scope; batch 10, one pass."
        ),
        request=request,
    )


def make_banking77(request: Request) -> Suite:
    """Questions to a bank: eleven intents after another."""
    train, test = (read_banking77(path) for path in request.obtain("banking77"))
    kept, held_out = cut_by_class(_number([label for _, label in train]), 0.1)
    tested = [train[row] for row in held_out.tolist()] if request.split == "validation" else test
    return _make_split(
        "banking77",
        [train[row] for row in kept.tolist()],
        tested,
        num_experiences=7,
        note=(
            "Banking77 (Casanueva 2020), 77 intents in 7 groups of 11 drawn by the seed, single "
            "head; of the training file a tenth of each intent to validate and the rest to "
            "train, the test file to test; batch 10, one pass."
        ),
        request=request,
    )


def make_intents(request: Request) -> Suite:
    """Commands to a home: one of 65 languages after another."""
    grammars = read_intents(*request.obtain("home-assistant-intents"))
    intents = sorted({intent for grammar in grammars.values() for _, intent in grammar.templates})
    languages = sorted(grammars)
    made: list[Experience] = []
    texts: Texts = []
    for place in shuffle_domains(len(languages), request, "intents"):
        language = languages[place]
        grammar = grammars[language]
        count = len(grammar.templates)
        # By template: sentences of one template are too alike to train on some and test on others.
        num_test, num_validation = max(1, round(0.2 * count)), max(1, round(0.1 * count))
        train, validation, test = cut_rows(count, count - num_test - num_validation, num_validation)
        generator = make_generator(request.stream_seed, "intents", language)
        learned = _say(grammar, train, INTENTS_TRAIN, generator)
        rows = request.choose(validation, test)
        tested = _say(grammar, rows, INTENTS_TEST, generator, {text for text, _ in learned})
        pairs = [
            (hash_texts([text for text, _ in part]), _number([name for _, name in part], intents))
            for part in (learned, tested)
        ]
        classes = list_classes(torch.cat([pairs[0][1], pairs[1][1]]))
        made.append(Experience(language, pairs[0], pairs[1], classes))
        texts.append(([text for text, _ in learned], [text for text, _ in tested]))
    return Suite(
        name="intents-65-languages",
        kind="domain-incremental",
        experiences=made,
        num_classes=len(intents),
        batch_size=10,
        epochs=1,
        known_task_at_training=False,
        known_task_at_test=False,
        features="text",
        note=(
            "Commands to Home Assistant (home-assistant-intents 2026.10.27) in 65 languages, one "
            "after another in an order drawn by the seed. Templates are cut 70 : 10 : 20 to "
            "train, validate and test; from each part up to 200 or 60 different sentences are "
            "drawn, none of which is in both. Names of things and places are English; some "
            "languages have few templates and two intents, and a test may hold an intent that "
            "its training lacks. Batch 10, one pass."
        ),
        texts=texts,
        about_features=(f"{_HASHED} The encoder of the other suites of texts knows English only."),
    )


def _say(
    grammar: Grammar,
    rows: Tensor,
    count: int,
    generator: torch.Generator,
    known: AbstractSet[str] = frozenset(),
) -> list[tuple[str, str]]:
    """Up to `count` different sentences, none of the known, as (sentence, intent)."""
    found: dict[tuple[str, str], None] = {}
    # A template without choices says one thing only: a few rounds, then what there is.
    for _ in range(max(4, 4 * count // len(rows))):
        for row in rows[torch.randperm(len(rows), generator=generator, device="cpu")].tolist():
            template, intent = grammar.templates[row]
            text = expand(template, grammar, generator)
            if text and text not in known:
                found[text, intent] = None
            if len(found) == count:
                return list(found)
    return list(found)


def _number(labels: Sequence[str], names: Sequence[str] | None = None) -> Tensor:
    places = {name: place for place, name in enumerate(names or sorted(set(labels)))}
    return torch.tensor([places[label] for label in labels], dtype=torch.int64, device="cpu")


def _make_split(
    name: str,
    train: Labelled,
    test: Labelled,
    *,
    num_experiences: int,
    note: str,
    request: Request,
) -> Suite:
    names = sorted({label for _, label in train})
    # Rows stand in for their texts, which no tensor can hold.
    made = class_incremental(
        torch.arange(len(train), device="cpu"),
        _number([label for _, label in train], names),
        torch.arange(len(test), device="cpu"),
        _number([label for _, label in test], names),
        num_experiences=num_experiences,
        seed=request.stream_seed,
    )
    texts = [
        (
            [train[row][0] for row in one.train[0].tolist()],
            [test[row][0] for row in one.test[0].tolist()],
        )
        for one in made
    ]
    return Suite(
        name=name,
        kind="class-incremental",
        experiences=[
            Experience(
                # Fifteen numbers are no name.
                f"group {index}: {names[one.classes[0]]} ...",
                (hash_texts(learned), one.train[1]),
                (hash_texts(tested), one.test[1]),
                one.classes,
            )
            for index, (one, (learned, tested)) in enumerate(zip(made, texts, strict=True))
        ],
        num_classes=len(names),
        batch_size=10,
        epochs=1,
        known_task_at_training=False,
        known_task_at_test=False,
        features="text",
        note=note,
        texts=texts,
        about_features=_HASHED,
    )


BUILDERS: dict[str, Callable[[Request], Suite]] = {
    "clinc150": make_clinc150,
    "banking77": make_banking77,
    "intents-65-languages": make_intents,
}

# What each builder obtains.
SOURCES: dict[str, tuple[str, ...]] = {
    "clinc150": ("clinc150",),
    "banking77": ("banking77",),
    "intents-65-languages": ("home-assistant-intents",),
}
