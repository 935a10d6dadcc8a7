"""The example of an assistant, on a handful of made-up requests."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

FOLDER = Path(__file__).parents[2] / "examples" / "assistant"
LOOKS = (0, 4, 60)


@pytest.fixture
def assistant(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module("assistant")


def make_requests(assistant: Any) -> Any:
    """Every intent is a cloud of its own."""
    generator = torch.Generator().manual_seed(0)
    said = {*assistant.USUAL, *assistant.HABITS, *assistant.HABITS.values(), *assistant.BENS}
    intents, bank_intents = sorted({*said, "goodbye"}), sorted({*assistant.OWN, "refund"})
    centers = 3.0 * torch.randn(len(intents) + len(bank_intents), 24, generator=generator)

    def draw(centers: Tensor, num_each: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(len(centers)).repeat(num_each)
        return centers[y] + 0.5 * torch.randn(len(y), 24, generator=generator), y

    common, bank = centers[: len(intents)], centers[len(intents) :]
    return assistant.Data(
        intents=intents,
        train=draw(common, 20),
        stream=draw(common, 4),
        test=draw(common, 3),
        bank_intents=bank_intents,
        bank_stream=draw(bank, 5),
        bank_test=draw(bank, 5),
    )


def test_a_person_has_her_own_meanings(assistant: Any) -> None:
    data = make_requests(assistant)
    generator = torch.Generator().manual_seed(0)
    person = assistant.make_person(
        data, ("recipe",), {"order": "recipe"}, ("top_up_limits",), generator
    )
    recipe = data.intents.index("recipe")
    counts = torch.bincount(person.stream[1], minlength=len(data.intents) + 1)
    assert (int(counts[recipe]), int(counts[len(data.intents)])) == (8, 4)
    assert int(counts.sum()) == 12
    asked, meant = person.further
    said_order = data.test[0][data.test[1] == data.intents.index("order")]
    her_meaning = asked[person.kinds == 1]
    assert sorted(her_meaning[:, 0].tolist()) == sorted(said_order[:, 0].tolist())
    assert set(meant[person.kinds == 1].tolist()) == {recipe}
    others, labels = assistant.find_others(data, {"order": "recipe"})
    assert len(others) == len(data.test[1]) - 3
    assert data.intents.index("order") not in labels.tolist()


def test_all_that_is_shown(assistant: Any) -> None:
    found = assistant.run(make_requests(assistant), looks=LOOKS, num_epochs=4)
    assert len(found["same_bits"]) == 5
    assert all(found["same_bits"].values()), found["same_bits"]
    assert [row["requests"] for row in found["person"]] == list(LOOKS)
    first, last = found["person"][0], found["person"][-1]
    assert last["person"] > first["person"] + 0.2
    assert last["her intents"] > 0.8
    assert (first["her intents"], found["num_waiting"], found["num_merged"]) == (0.0, 60, 60)
    assert 0 < found["bytes"] <= 1_000_000
    for mine, theirs in zip(found["person"], found["fine_tuning"], strict=True):
        assert theirs["requests"] == mine["requests"]
    assert found["fine_tuning"][0]["person"] == pytest.approx(first["person"])
    json.dumps(found)
    console = Console(width=120, record=True)
    assistant.show(found, console)
    shown = console.export_text()
    assert "DIFFERENT" not in shown
    assert shown.count("the same bits") == 5


def test_the_best_rate_is_taken_at_each_look(assistant: Any, monkeypatch: Any) -> None:
    def fine_tune(_model: Any, rule: str, rate: float, *_: Any) -> list[dict[str, float]]:
        return [{"person": rate}, {"person": -rate}] if rule == "SGD" else [{"person": 0.0}] * 2

    monkeypatch.setattr(assistant, "fine_tune", fine_tune)
    monkeypatch.setattr(assistant, "RATES", {"SGD": (0.1, 0.3), "AdamW": (1e-3,)})
    found = assistant.search_rates(None, None, None, (0, 1))
    assert [row["rate"] for row in found] == ["SGD 0.3", "AdamW 0.001"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "{folder}", "--offline"], "nestling data fetch clinc150"),
        (["--json", "{folder}/missing/figures.json"], "no folder"),
        (["--json", "{folder}"], "is a folder"),
        (["--seed", "x"], "invalid int value"),
        (["--seed", "-1"], "0 or more"),
        (["--sed"], "unrecognized arguments"),
    ],
)
def test_bad_input_is_one_line(
    assistant: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    with pytest.raises(SystemExit) as caught:
        assistant.main([one.format(folder=tmp_path) for one in arguments])
    assert caught.value.code in (1, 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


def test_the_command_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "assistant.py"), "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--json" in done.stdout
