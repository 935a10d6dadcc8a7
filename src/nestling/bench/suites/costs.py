"""Seconds against plain fine-tuning: both in turns in one process, so that neither is favoured.

Cells run in parallel and disturb each other, so their seconds say little about a ratio.
"""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nestling.bench.rivals.competitors import Competitor, Pair
from nestling.bench.rivals.methods_by_name import find_method
from nestling.bench.rivals.tunable import Settings, make_setup
from nestling.bench.suites.measuring import Replayable
from nestling.bench.suites.parallel_cells import CellFolders, Progress, open_suite
from nestling.bench.timing import Side, time_rounds
from nestling.core.errors import JobError, NestlingError
from nestling.core.machine import fingerprint, use_threads
from nestling.data.suites import Suite
from nestling.store import write_whole

NUM_ROUNDS = 5
MAX_BATCHES = 60  # of the first experience, per round
BASE = "finetune"


def time_methods(
    suite_name: str,
    settings: Mapping[str, Settings],
    place: CellFolders,
    *,
    progress: Progress | None = None,
) -> dict[str, float | None]:
    """CPU seconds of each method over those of fine-tuning, median of NUM_ROUNDS ratios.

    A round is the start of the first experience, up to MAX_BATCHES batches, and its end; a
    round before those that count fills stores and lets penalties begin. Ratios are kept in
    costs.json with the machine, and measured again on another machine or with other settings.

    Args:
        suite_name: name, or "module:function".
        settings: method -> what the search chose; fine-tuning must be among them.
        place: where to read and write.
        progress: told the method and the share that is done.

    Returns: method -> ratio; None for a method that failed.

    Raises:
        JobError: costs.json is damaged, or there is no fine-tuning.
    """
    if BASE not in settings:
        raise JobError(f"costs are measured against {BASE!r}, which is not among the methods")
    path = place.folder / "costs.json"
    key = {"machine": _identify_machine(), "suite": suite_name}
    known = _read(path, key)
    suite = open_suite(suite_name, 0, "test", place.data, place.offline)
    found: dict[str, float | None] = {BASE: 1.0}
    for number, (method, chosen) in enumerate(settings.items()):
        if method == BASE:
            continue
        if progress is not None:
            progress(f"cost of {method}", number / len(settings))
        used = {"settings": dict(chosen), "base": dict(settings[BASE])}
        entry = known.get(method)
        if entry is None or entry["used"] != used:
            with use_threads(1):
                ratio = _time_one(suite, method, chosen, settings[BASE])
            known[method] = entry = {"used": used, "ratio": ratio}
            text = json.dumps({**key, "methods": known}, indent=1)
            write_whole(path, text + "\n")
        found[method] = entry["ratio"]
    return found


def _time_one(suite: Suite, method: str, chosen: Settings, base: Settings) -> float | None:
    setup = make_setup(suite, 0)
    try:
        ours = find_method(method).build(setup, chosen)
        plain = find_method(BASE).build(setup, base)
        sides = {"ours": _make_side(suite, ours), "plain": _make_side(suite, plain)}
        seconds = time_rounds(sides, NUM_ROUNDS)
    except NestlingError:
        return None
    pairs = zip(seconds["ours"], seconds["plain"], strict=True)
    return statistics.median(one / other for one, other in pairs)


def _make_side(suite: Suite, competitor: Competitor) -> Side:
    x, y = suite.experiences[0].train
    # Whole batches only, in their order: both sides see the same.
    size = suite.batch_size
    num_rows = min(MAX_BATCHES, max(1, len(x) // size)) * size
    loader = Replayable(x[:num_rows], y[:num_rows], size)
    batches: Sequence[Pair] = loader.pairs

    def side() -> float:
        started = time.process_time()
        for one, other in batches:
            competitor.learn(one, other, is_new=True)
        competitor.end_experience(loader)
        return time.process_time() - started

    return side


def _identify_machine() -> dict[str, str | int]:
    """The fingerprint without the number of threads, which is one here in any case."""
    return {name: value for name, value in fingerprint().items() if name != "num_threads"}


def _read(path: Path, key: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if any(data[name] != value for name, value in key.items()):
            return {}
        methods = data["methods"].items()
        return {name: {"used": one["used"], "ratio": one["ratio"]} for name, one in methods}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobError(
            f"'{path}' is damaged ({type(error).__name__}); delete it to measure it again"
        ) from None
