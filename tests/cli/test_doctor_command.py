"""The command `nestling doctor`: what it examines, prints and returns."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]

BAD = """
import torch
from torch import nn

import nestling as nl

class AtChance(nn.Linear):
    def forward(self, x):
        return super().forward(0.0 * x)

class Raises(nn.Linear):
    def forward(self, x):
        raise KeyError("table")

def make_at_chance(update_every=4):
    return AtChance(2, 3)

def make_raising():
    return Raises(2, 3)

def make_nan():
    net = nn.Linear(2, 3)
    nn.init.constant_(net.weight, float("nan"))
    return net

def make_empty():
    return nn.ReLU()

def make_uncopied():
    net = nn.Linear(2, 3)
    net.stream = (index for index in range(3))
    return net

def make_lm():
    return nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))

def make_stacked():
    return nl.stack_levels(make_lm().eval(), {"1.*": 4}, rate=0.1)

def give_inputs():
    return torch.randn(8, 2), torch.arange(8) % 3

def give_nothing():
    return None

def make_sgd(params):
    return torch.optim.SGD(params, lr=0.1)

def make_ascent(params):
    return torch.optim.SGD(params, lr=0.1, maximize=True)
"""


@pytest.fixture(autouse=True)
def _bad_nets(desk: Path) -> None:
    (desk / "bad_nets.py").write_text(BAD)


def test_a_healthy_model_and_plan(nestling: Run, desk: Path) -> None:
    code, out, err = nestling(
        *("doctor", "desk_net:make_net", "--plan", "plan.toml", "--json", "out/doctor.json")
    )
    assert (code, err) == (0, "")
    assert "17 optimizer steps on a copy" in out
    assert "spine" in out
    assert "0 failed" in out
    data = json.loads((desk / "out" / "doctor.json").read_text())
    assert data["healthy"] is True
    head, spine, slow = data["levels"]
    assert (head["due"], spine["due"], slow["due"]) == (17, 2, 17)
    assert (spine["updates"], spine["state"]) == (2, "moves as due")
    assert {check["outcome"] for check in data["checks"]} == {"ok", "not examined"}


def test_the_plan_may_come_first(nestling: Run) -> None:
    code, out, _ = nestling("doctor", "plan.toml", "--model", "desk_net:make_net")
    assert code == 0
    assert "updates when due: spine: 2 of 2" in out
    assert nestling("doctor", "plan.toml") == (
        2,
        "",
        "nestling: Invalid value: whose plan is plan.toml? give --model as well "
        "(see nestling doctor --help)\n",
    )


def test_a_failed_check_is_exit_code_1(nestling: Run) -> None:
    code, out, err = nestling(
        "doctor", "bad_nets:make_at_chance", "--inputs", "bad_nets:give_inputs"
    )
    assert (code, err) == (1, "")
    assert "FAILED        learns above chance: model: accuracy" in out
    assert "FAILED        period has an effect: update_every" in out
    code, out, _ = nestling("doctor", "--optimizer", "bad_nets:make_ascent")
    assert code == 1
    assert "FAILED        optimizer descends" in out
    assert nestling("doctor", "--optimizer", "bad_nets:make_sgd")[0] == 0


def test_tokens_and_built_in_models(nestling: Run) -> None:
    code, out, _ = nestling("doctor", "bad_nets:make_lm", "--shape", "4,8", "--tokens", "9")
    assert code == 0
    assert "ok            causal" in out
    code, out, _ = nestling("doctor", "bad_nets:make_stacked", "--shape", "4,8", "--tokens", "9")
    assert code == 0
    assert "not examined  updates when due: model: the model learns by its own rule" in out
    assert "ok            causal" in out
    options = '{"num_tokens": 20, "num_classes": 3, "width": 8, "num_layers": 1}'
    code, out, _ = nestling("doctor", "transformer", "--options", options)
    assert code == 0
    assert "not examined  causal" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("bad_nets:make_raising", "--shape", "4,2"), "KeyError"),
        (("bad_nets:make_raising",), "inputs were guessed"),
        (("bad_nets:make_lm", "--shape", "4,8"), "for tokens make_inputs"),
        (("bad_nets:make_nan", "--shape", "4,2"), "NaN or infinity in 12 of 12"),
        (("desk_net:make_net", "--shape", "4,7"), "inputs of shape (4, 7)"),
        (("bad_nets:make_lm", "--shape", "4,8", "--tokens", "99"), "IndexError"),
        (("bad_nets:make_empty", "--shape", "4,2"), "has no parameters"),
        (("bad_nets:make_empty",), "has no parameters"),
        (("bad_nets:make_uncopied", "--shape", "4,2"), "cannot be copied"),
        (("bad_nets:make_uncopied",), "cannot be copied"),
        (("mlp", "--options", '{"sizes": [4, 3]}', "--plan", "plan.toml"), "'2.*'"),
        (("mlp", "--plan", "plan.toml"), "needs the option 'sizes'"),
        (("desk_net:make_net", "--plan", "none.toml"), "cannot read plan"),
        (("desk_net:make_net", "--shape", "4,x"), "4,64,32"),
        (("desk_net:make_net", "--tokens", "9"), "needs a --shape"),
        (("desk_net:make_net", "--inputs", "bad_nets:give_nothing"), "a tensor works"),
        (("desk_net:make_net", "--inputs", "bad_nets:give_inputs", "--shape", "4,2"), "leave out"),
        (("desk_net:make_net", "--model", "mlp"), "two models"),
        (("plan.toml", "--plan", "plan.toml", "--model", "mlp"), "two plans"),
        (("--optimizer", "bad_nets:make_nan"), "takes 0 positional arguments"),
        ((), "name a MODEL"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    nestling: Run, args: tuple[str, ...], words: str
) -> None:
    code, out, err = nestling("doctor", *args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
