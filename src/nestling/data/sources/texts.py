"""Readers of text archives."""

import csv
import io
import json
import zipfile
from pathlib import Path

from nestling.data.sources.templates import Grammar

Labelled = list[tuple[str, str]]  # (text, label)


def read_clinc150(path: Path) -> dict[str, Labelled]:
    """CLINC150: "train" (15,000), "val" (3,000) and "test" (4,500), 150 intents.

    What lies outside of every intent ("oos") is left out.
    """
    parts = json.loads(path.read_text(encoding="utf-8"))
    return {
        part: [(text, intent) for text, intent in parts[part]] for part in ("train", "val", "test")
    }


def read_banking77(path: Path) -> Labelled:
    """One file of Banking77: 10,003 training or 3,080 test questions, 77 intents."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def read_intents(path: Path) -> dict[str, Grammar]:
    """home-assistant-intents: language -> its templates, with what they refer to."""
    grammars = {}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            folder, _, file = name.rpartition("/")
            if folder != "home_assistant_intents/data" or not file.endswith(".json"):
                continue
            content = json.load(io.TextIOWrapper(archive.open(name), encoding="utf-8"))
            grammars[file.removesuffix(".json")] = Grammar(
                templates=tuple(
                    (sentence, intent)
                    for intent, about in sorted(content["intents"].items())
                    for block in about["data"]
                    for sentence in block["sentences"]
                ),
                rules=content["expansion_rules"],
                fillers={
                    slot: tuple(_read_value(value) for value in about["values"])
                    for slot, about in content["lists"].items()
                    if about.get("values")
                },
                ranges={
                    slot: (about["range"]["from"], about["range"]["to"])
                    for slot, about in content["lists"].items()
                    if "range" in about
                },
            )
    return grammars


def _read_value(value: str | dict[str, str]) -> str:
    return value if isinstance(value, str) else value["in"]
