"""The figures of sleep, on small data: a network far above fine-tuning, and below its memory."""

import math
from dataclasses import replace

import pytest
import torch

import nestling as nl
from nestling.bench.promises import sleep_accuracy
from nestling.bench.promises.sleep_accuracy import FRESH, measure_parts, measure_sleep
from nestling.data import load


def test_a_row_has_memory_fine_tuning_and_sleep() -> None:
    brief = replace(FRESH, num_inputs=10_000)
    row = measure_parts("digits", load("digits"), 0, sleep=brief)
    memory, tuned, asleep = (float(str(row[name])) for name in ("memory", "fine-tuned", "asleep"))
    assert row["status"] == "committed"
    assert tuned < 40.0
    assert memory - 8.0 < asleep
    assert float(str(row["dreams of their class"])) > 90.0
    # 10 classes: 64 histograms of 128 codes, 64 * 65 / 2 products, and a count.
    assert row["bytes of class sums"] == 10 * (64 * 128 + 64 * 65 // 2 + 1) * 8


def test_figures_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load("digits")
    few = (digits[0][:300], digits[1][:300], digits[2], digits[3])
    monkeypatch.setattr(sleep_accuracy, "load", lambda *_, **__: few)
    monkeypatch.setattr(sleep_accuracy, "measure_parts", _measure_briefly)
    before = torch.get_num_threads()
    small = nl.Memory("small", on="input", half_lives=(math.inf,), num_features=50)
    found = measure_sleep(None, True, memory=small)
    assert torch.get_num_threads() == before
    assert sorted(found["figures"]) == ["sleep_fashion", "sleep_mnist"]
    assert [row["data"] for row in found["rows"]] == ["mnist", "fashion-mnist"]
    assert found["figures"]["sleep_mnist"] == found["rows"][0]["asleep"]


def _measure_briefly(name: str, *given: object, **settings: object) -> dict[str, object]:
    return measure_parts(name, *given, **settings, sleep=replace(FRESH, num_inputs=300))  # type: ignore[arg-type]
