"""Formal languages: what is asked, and that the delta rule to eta = 2 goes beyond its training."""

import pytest
import torch

from nestling.bench.blocks.formal_languages import (
    MODELS,
    TASKS,
    LetterReader,
    draw_abab,
    draw_even,
    draw_parity,
    run_formal_languages,
    train_and_ask,
)


def test_labels_are_those_of_the_language() -> None:
    generator = torch.Generator().manual_seed(0)
    bits, parity = draw_parity(3, 30, generator)
    assert parity[1, 17] == bits[1, :18].sum() % 2
    letters, even = draw_even(2, 4, generator)
    assert letters.tolist() == [[0] * 4] * 2
    assert even[0].tolist() == [0, 1, 0, 1]
    letters, labels = draw_abab(2, 8, generator)
    assert letters[0].tolist() == [0, 1] * 4
    assert labels[0].tolist() == [0, 0, 0, 1] * 2


@pytest.mark.parametrize("name", MODELS)
def test_no_model_sees_the_future(name: str) -> None:
    torch.manual_seed(0)
    model = LetterReader(MODELS[name]())
    letters = torch.randint(0, 2, (4, 20), generator=torch.Generator().manual_seed(0))
    before = model(letters)
    letters[:, 12:] = 1 - letters[:, 12:]
    torch.testing.assert_close(model(letters)[:, :12], before[:, :12])


@pytest.mark.parametrize("language", ["parity", "(aa)*"])
def test_only_a_rate_up_to_2_goes_beyond_its_training(language: str) -> None:
    run = train_and_ask(TASKS[language], MODELS["delta rule, eta to 2"], 0, 250)
    assert run["beyond"] > 0.99
    run = train_and_ask(TASKS[language], MODELS["delta rule, beta to 1"], 0, 150)
    assert run["beyond"] < 0.8


def test_the_bench_gives_a_row_for_each_run() -> None:
    lines: list[str] = []
    result = run_formal_languages(seeds=(0,), num_steps=1, progress=lines.append)
    assert len(result.rows) == len(lines) == len(TASKS) * len(MODELS)
    assert all(0 <= figure <= 1 for figure in result.figures.values())
