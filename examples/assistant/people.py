"""Requests to an assistant, and persons who mean some of them in their own way.

Letters: N requests, D = 384 features of a sentence, K intents.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nestling as nl

Pair = tuple[Tensor, Tensor]  # features (N, D), intents (N,)
KINDS = ("usual words", "her meaning", "her intents")


@dataclass(frozen=True)
class Data:
    """Requests to an assistant (CLINC150) and questions to a bank (Banking77).

    Attributes:
        intents: names of the assistant's, as its labels number them.
        train: the common model's.
        stream: requests that persons' streams are taken from.
        test: further requests.
        bank_intents: names of the bank's.
        bank_stream, bank_test: as above.
    """

    intents: list[str]
    train: Pair
    stream: Pair
    test: Pair
    bank_intents: list[str]
    bank_stream: Pair
    bank_test: Pair


@dataclass(frozen=True)
class Person:
    """One person's requests.

    Attributes:
        stream: in the order in which they come.
        further: those that are only tested.
        kinds: (N,) of `further`, places in KINDS.
    """

    stream: Pair
    further: Pair
    kinds: Tensor


def load(folder: Path | None, *, offline: bool) -> Data:
    """Both sets as features of all-MiniLM-L6-v2, from the cache or by encoding them once."""

    def read(suite: str, split: Any) -> tuple[Pair, Pair]:
        raw = nl.data.make_suite(suite, seed=0, split=split, folder=folder, offline=offline)
        parts = nl.bench.encode_suite(raw, folder, offline=offline).experiences
        train, test = ([one.train for one in parts], [one.test for one in parts])
        return _join(train), _join(test)

    train, stream = read("clinc150", "validation")
    bank_stream, bank_test = read("banking77", "test")
    files = nl.data.find_folder(folder)
    requests = json.loads((files / "clinc150_data_full.json").read_text(encoding="utf-8"))
    with (files / "banking77_test.csv").open(encoding="utf-8", newline="") as file:
        bank_intents = sorted({row["category"] for row in csv.DictReader(file)})
    return Data(
        intents=sorted({intent for _, intent in requests["train"]}),
        train=train,
        stream=stream,
        test=read("clinc150", "test")[1],
        bank_intents=bank_intents,
        bank_stream=bank_stream,
        bank_test=bank_test,
    )


def _join(pairs: Sequence[Pair]) -> Pair:
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def make_person(
    data: Data,
    usual: Sequence[str],
    habits: Mapping[str, str],
    own: Sequence[str],
    generator: torch.Generator,
) -> Person:
    """A person who uses few intents, means some otherwise, and has some of her own.

    Args:
        data: that her requests are taken from; each of her intents comes equally often.
        usual: intents with their usual meaning.
        habits: what is said -> what is meant.
        own: the bank's intents that are hers; they get the labels K, K + 1, ...
        generator: of the order.
    """
    number = {name: place for place, name in enumerate(data.intents)}
    meant = {number[name]: (number[name], 0) for name in usual}
    meant |= {number[said]: (number[other], 1) for said, other in habits.items()}
    named = {data.bank_intents.index(name): (len(number) + i, 2) for i, name in enumerate(own)}

    def collect(asked: Pair, bank: Pair) -> tuple[Pair, Tensor]:
        rows = [(asked, _find(asked, said), *whole) for said, whole in meant.items()]
        num = min(len(found) for _, found, _, _ in rows)
        rows += [(bank, _find(bank, said)[:num], *whole) for said, whole in named.items()]
        x = torch.cat([pair[0][found] for pair, found, _, _ in rows])
        y = torch.cat([torch.full((len(found),), label) for _, found, label, _ in rows])
        kinds = torch.cat([torch.full((len(found),), kind) for _, found, _, kind in rows])
        order = torch.randperm(len(y), generator=generator)
        return (x[order], y[order]), kinds[order]

    stream, _ = collect(data.stream, data.bank_stream)
    further, kinds = collect(data.test, data.bank_test)
    return Person(stream, further, kinds)


def _find(pair: Pair, label: int) -> Tensor:
    return (pair[1] == label).nonzero()[:, 0]


def find_others(data: Data, habits: Mapping[str, str]) -> Pair:
    """Everybody's further requests, but for the words that have another meaning to her."""
    said = torch.tensor([data.intents.index(name) for name in habits])
    x, y = data.test
    kept = ~torch.isin(y, said)
    return x[kept], y[kept]
