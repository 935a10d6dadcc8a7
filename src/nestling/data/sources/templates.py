"""Sentences from templates such as "turn (on|off) [the] {name}", drawn at random.

(a|b) is one of several, [a] may be left out, (a;b) stands in any order, <rule> is another
template, {slot} a word from a list  [the language of hassil, home-assistant-intents].
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from nestling.core.errors import DataError

# Names of things stand in no list, since every home has its own.
_FILLERS = {
    "name": ("lamp", "fan"),
    "area": ("kitchen", "bedroom"),
    "floor": ("upstairs", "cellar"),
    "item": ("milk", "bread"),
    "message": ("dinner is ready", "come down"),
    "zone": ("home", "work"),
}
_OTHER_FILLERS = ("thing", "two")
_TOKENS = re.compile(r"[\[\]()|;]|<[^>]*>|\{[^}]*\}|[^\[\]()|;<{]+")
_CLOSING = {"(": ")", "[": "]"}
_MAX_DEPTH = 40


@dataclass(frozen=True)
class Grammar:
    """Templates of one language.

    Attributes:
        templates: (template, intent).
        rules: name -> template.
        fillers: slot -> templates of its words.
        ranges: slot -> least and greatest number.
    """

    templates: tuple[tuple[str, str], ...]
    rules: Mapping[str, str]
    fillers: Mapping[str, tuple[str, ...]]
    ranges: Mapping[str, tuple[int, int]]


def expand(template: str, grammar: Grammar, generator: torch.Generator) -> str:
    """One sentence that the template stands for.

    Args:
        template: see the head of this file.
        grammar: what its rules and slots mean.
        generator: draws among alternatives; an optional part stands in half of the sentences.

    Raises:
        DataError: brackets that do not match, an unknown rule, or rules without an end.

    >>> grammar = Grammar((), {"on": "(on|off)"}, {"name": ("lamp",)}, {})
    >>> expand("turn  <on> {name}", grammar, torch.Generator()) in ("turn on lamp", "turn off lamp")
    True
    """
    return " ".join(_expand(template, grammar, generator, 0).split())


def _expand(template: str, grammar: Grammar, generator: torch.Generator, depth: int) -> str:
    if depth > _MAX_DEPTH:
        raise DataError(f"template {template!r}: its rules refer to each other without an end")
    tokens = _TOKENS.findall(template)
    text, end = _expand_group(tokens, 0, "", grammar, generator, depth)
    if end != len(tokens):
        raise DataError(f"template {template!r}: a bracket closes that was not opened")
    return text


def _expand_group(
    tokens: list[str],
    start: int,
    closing: str,
    grammar: Grammar,
    generator: torch.Generator,
    depth: int,
) -> tuple[str, int]:
    """The text of tokens up to the closing bracket, and the place of that bracket."""
    parts = [""]
    separator = ""
    place = start
    while place < len(tokens) and tokens[place] not in (")", "]"):
        token = tokens[place]
        if token in ("|", ";"):
            separator = token
            parts.append("")
        elif token in _CLOSING:
            inside, place = _expand_group(
                tokens, place + 1, _CLOSING[token], grammar, generator, depth
            )
            if token == "(" or _draw(2, generator):
                parts[-1] += inside
        elif token.startswith("<"):
            if token[1:-1] not in grammar.rules:
                raise DataError(f"template refers to {token}, which is no rule")
            parts[-1] += _expand(grammar.rules[token[1:-1]], grammar, generator, depth + 1)
        elif token.startswith("{"):
            parts[-1] += _fill(token[1:-1].split(":")[0], grammar, generator, depth)
        else:
            parts[-1] += token
        place += 1
    if closing and (place == len(tokens) or tokens[place] != closing):
        raise DataError(f"template {''.join(tokens)!r}: a bracket stays open")
    if separator == ";":
        order = torch.randperm(len(parts), generator=generator, device="cpu").tolist()
        return " ".join(parts[index] for index in order), place
    return parts[_draw(len(parts), generator)], place


def _fill(slot: str, grammar: Grammar, generator: torch.Generator, depth: int) -> str:
    if slot in grammar.ranges:
        low, high = grammar.ranges[slot]
        return str(low + _draw(high - low + 1, generator))
    if slot in grammar.fillers:
        words = grammar.fillers[slot]
        return _expand(words[_draw(len(words), generator)], grammar, generator, depth + 1)
    words = _FILLERS.get(slot, _OTHER_FILLERS)
    return words[_draw(len(words), generator)]


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator, device="cpu"))
