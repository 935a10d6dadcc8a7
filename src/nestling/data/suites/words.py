"""Suites of texts: intents and questions, as hashed character n-grams beside the strings.

Axis letters: N texts, D columns.
"""

import zlib
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor

from nestling.core.errors import DataError
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
    "a sentence encoder, which `texts` allows, are another matter. Batch 10, one pass."
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
        raise DataError(f"num_columns {num_columns}, sizes {tuple(sizes)}; give 1 or more")
    places: dict[str, tuple[int, float]] = {}
    rows, columns, signs = [], [], []
    for row, text in enumerate(texts):
        padded = f" {text.lower()} "
        for size in sizes:
            for start in range(len(padded) - size + 1):
                gram = padded[start : start + size]
                if gram not in places:
                    # Python's own hash differs between runs. The sign comes from a second sum,
                    # since the bits of one sum that choose the column are not free.
                    code = gram.encode()
                    sign = 1.0 if zlib.adler32(code) % 2 else -1.0
                    places[gram] = (zlib.crc32(code) % num_columns, sign)
                column, sign = places[gram]
                rows.append(row)
                columns.append(column)
                signs.append(sign)
    counts = torch.zeros(len(texts), num_columns)
    at = (torch.tensor(rows, dtype=torch.long), torch.tensor(columns, dtype=torch.long))
    counts.index_put_(at, torch.tensor(signs), accumulate=True)
    return torch.nn.functional.normalize(counts.sign() * counts.abs().sqrt(), dim=1)


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
            "none out of scope. "
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
            "train, the test file to test. "
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
            "its training lacks. " + _HASHED
        ),
        texts=texts,
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
        for row in rows[torch.randperm(len(rows), generator=generator)].tolist():
            template, intent = grammar.templates[row]
            text = expand(template, grammar, generator)
            if text and text not in known:
                found[text, intent] = None
            if len(found) == count:
                return list(found)
    return list(found)


def _number(labels: Sequence[str], names: Sequence[str] | None = None) -> Tensor:
    places = {name: place for place, name in enumerate(names or sorted(set(labels)))}
    return torch.tensor([places[label] for label in labels])


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
        torch.arange(len(train)),
        _number([label for _, label in train], names),
        torch.arange(len(test)),
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
        note=note + _HASHED,
        texts=texts,
    )


BUILDERS: dict[str, Callable[[Request], Suite]] = {
    "clinc150": make_clinc150,
    "banking77": make_banking77,
    "intents-65-languages": make_intents,
}
