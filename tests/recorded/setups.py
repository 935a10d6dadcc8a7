"""Learners of every kind, and what is recorded of each after 300 steps.

What stands in `recorded.json` was computed by the code as it was; a change of the house must give
the same bits. `cd tests; python -W ignore -m recorded.setups` records anew, which is right only
where a change is meant to move them, and says which.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import nestling as nl
from learners import read_answer
from nestling import protect
from nestling.core.machine import fingerprint, use_threads

FILE = Path(__file__).with_name("recorded.json")
NUM_STEPS, BATCH_SIZE, NUM_EXPERIENCES = 300, 8, 3
# What the bits depend on besides the code; threads are set to one.
MACHINE = ("torch", "cpu", "cpu_capability", "system", "mkl_cbwr")


class Net(nn.Sequential):
    """With all that keeps a state or draws: batch norm, dropout."""

    def __init__(self, num_outputs: int = 3) -> None:
        super().__init__(
            *(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2)),
            *(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, num_outputs)),
        )


class Tagger(nn.Module):
    """An answer per position."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, 4) -> (N, T, 3)."""
        return self.head(torch.relu(self.body(x)))  # type: ignore[no-any-return]


INF = float("inf")
HEAD, TRUNK = ("6.*",), ("4.*",)


def plan(
    rule: Any = None,
    gate: Any = (),
    memory: nl.Memory | None = None,
    copies: tuple[nl.Copy, ...] = (),
    **settings: Any,
) -> nl.Plan:
    """Head, trunk and spine on their clocks, with a memory and copies if they are given."""
    rule = rule or nl.adamw(lr=1e-2)
    names = [one.name for one in (memory, *copies) if one is not None]
    return nl.Plan(
        *(() if memory is None else (memory,)),
        nl.Level("head", match=HEAD, optimizer=rule),
        nl.Level("trunk", match=TRUNK, period=2, optimizer=rule, gate=gate, **settings),
        nl.Level("spine", match=("*",), period=4, optimizer=rule, between="skip"),
        *copies,
        readout=nl.mix("live", *names) if names else "live",
    )


def memory(**settings: Any) -> nl.Memory:
    return nl.Memory("m", **({"on": "input", "num_features": 12, "block": 16} | settings))


def adapt() -> nl.Learner:
    """Low-rank fast weights over a slow spine."""
    net = Net()
    generator = torch.Generator().manual_seed(0)
    made = nl.adapters(net, ["4.weight", "6.weight"], 2, generator=generator)
    return nl.Learner(net, made)


def learner(model: nn.Module | None = None, made: nl.Plan | None = None, **settings: Any) -> Any:
    return nl.Learner(model or Net(), made, **settings)


AVERAGE = nl.Copy("average", of=("head", "trunk"), decay=0.95, probability=0.7)
SLOW = nl.Copy("slow", of=("head", "trunk", "spine"), decay=0.99, period=3, warmup=False)
GIVEN = nl.Copy("given", of=("head", "trunk", "spine"), decay=1.0)

SETUPS: dict[str, Callable[[], nl.Learner]] = {
    "default": lambda: learner(),
    "default with replay": lambda: learner(replay=40),
    "pretrained": lambda: learner(pretrained=True),
    "pretrained with replay": lambda: learner(pretrained=True, replay=40),
    "adamw": lambda: learner(made=plan()),
    "adam": lambda: learner(made=plan(nl.adam(lr=1e-2))),
    "sgd": lambda: learner(made=plan(nl.sgd(lr=0.05))),
    "momentum": lambda: learner(made=plan(nl.sgd(lr=0.05, momentum=0.9, nesterov=True))),
    "schedule gate": lambda: learner(
        made=plan(gate=(nl.ScheduleGate(start=10, stop=200, low=0.1),))
    ),
    "surprise gate": lambda: learner(made=plan(gate=(nl.SurpriseGate(half_life=20.0),))),
    "importance gate": lambda: learner(made=plan(gate=(nl.ImportanceGate(half_life=20.0),))),
    "agreement gate": lambda: learner(made=plan(gate=(nl.AgreementGate(half_life=5.0),))),
    "parent gate": lambda: learner(made=plan(gate=(nl.ParentGate(of="head"),))),
    "freeze, trust and sums": lambda: learner(
        made=plan(reduce="sum", trust=0.1, freeze=nl.Freeze(windows=((20, 60),)))
    ),
    "averages": lambda: learner(made=plan(copies=(AVERAGE, SLOW))),
    "slow memory": lambda: learner(made=plan(memory=memory(half_lives=(INF,)))),
    "bank of memories": lambda: learner(made=plan(memory=memory(half_lives=(20.0, 200.0, INF)))),
    "class prior": lambda: learner(made=plan(memory=memory(prior_half_life=10.0))),
    "fourier of a layer": lambda: learner(
        made=plan(memory=memory(on="1", features="fourier", half_lives=(50.0,)))
    ),
    "products of two layers": lambda: learner(
        made=plan(memory=memory(on=("input of 0", "input of 6"), features="product"))
    ),
    "live features, fixed ridge": lambda: learner(
        made=plan(memory=memory(on=None, frozen=False, num_features=0, ridge=0.1)), replay=20
    ),
    "outside a memory": lambda: learner(
        made=nl.Plan(
            *plan(memory=memory(half_lives=(INF,)), copies=(GIVEN,)).levels,
            readout=nl.mix("live", "m", "given", outside="given"),
        )
    ),
    "low rank": adapt,
    "growing head": lambda: learner(Net(2)),
    "declared classes": lambda: learner(num_classes=3),
    "bf16": lambda: learner(precision="bf16", made=plan()),
    "values": lambda: learner(Net(1)),
    "values with an output transform": lambda: learner(
        Net(1), output_transform=torch.tanh, pretrained=True
    ),
    "positions": lambda: learner(Tagger(), pretrained=True),
    "EWC": lambda: learner(made=plan(), retain=[protect.EWC(5.0)]),
    "online EWC and SI": lambda: learner(
        made=plan(), retain=[protect.OnlineEWC(5.0, 0.9), protect.SI(0.5)]
    ),
    "MAS and L2-SP": lambda: learner(
        made=plan(), retain=[protect.MAS(0.3), protect.L2SP(0.01, 0.01)]
    ),
    "LwF": lambda: learner(made=plan(), retain=[protect.LwF(1.0)]),
    "ER and masked logits": lambda: learner(
        made=plan(), retain=[protect.MaskAbsent(), protect.ER(30)]
    ),
    "DER++": lambda: learner(made=plan(), retain=[protect.DERpp(30, 0.3, 0.5)]),
    "A-GEM": lambda: learner(made=plan(), retain=[protect.AGEM(30)]),
    "CLS-ER": lambda: learner(made=plan(), retain=[protect.CLSER(30)]),
}


def make_stream(name: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets of all steps; each experience asks for something else."""
    generator = torch.Generator().manual_seed(7)
    shape = (NUM_STEPS, BATCH_SIZE, *((5,) if name == "positions" else ()), 4)
    x = torch.randn(shape, generator=generator)
    turns = torch.arange(NUM_STEPS) * NUM_EXPERIENCES // NUM_STEPS
    turned = torch.stack(
        [torch.roll(one, int(turn), -1) for one, turn in zip(x, turns, strict=True)]
    )
    if name.startswith("values"):
        return x, torch.tanh(turned[..., :1] - turned[..., 1:2])
    y = turned[..., :3].argmax(dim=-1)
    # Most of the third class comes late, where a head has two outputs at first.
    y[: NUM_STEPS // 3] = y[: NUM_STEPS // 3].clamp_max(1)
    return x, y


def run(name: str) -> dict[str, str]:
    """Digests of a set-up after all steps: of its weights, its answers, and who is believed."""
    with use_threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = SETUPS[name]()
        x, y = make_stream(name)
        per_experience = NUM_STEPS // NUM_EXPERIENCES
        for step in range(NUM_STEPS):
            made.learn(x[step], y[step], task=step // per_experience)
            if step % per_experience == per_experience - 1:
                rows = range(step - per_experience + 1, step + 1)
                made.end_experience([(x[i], y[i]) for i in rows])
        answers = {
            "answers": read_answer(made, x[-20:].flatten(0, 1)),
            "first": read_answer(made, x[0]),
        }
        return {
            "weights": digest(made.model.state_dict()),
            "answers": digest(answers),
            "gate": digest(read_gates(made)),
        }


def read_gates(made: nl.Learner) -> dict[str, Tensor]:
    """Whom the read-out believes, and every memory's own gate."""
    readout = made.readout
    banks = {name: level.bank for name, level in made.levels.memories.items()}
    assert readout is not None
    gates = {"readout": torch.tensor(list(readout.weights.values()), dtype=torch.float64)}
    if readout.outside is not None:
        gates["outside"] = readout.outside.gate.shares
    return gates | {name: bank.gate.shares for name, bank in banks.items() if bank}


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 of names, dtypes, shapes and bytes."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        plain = value.detach().cpu().contiguous()
        assert bool(plain.double().isfinite().all()), f"{name} is not finite"
        found.update(f"{name} {plain.dtype} {tuple(plain.shape)} ".encode())
        found.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def read_machine() -> dict[str, object]:
    """What of this machine must be the same for the same bits."""
    here = fingerprint()
    return {name: here[name] for name in MACHINE}


def main() -> None:
    """Record anew and say what moved."""
    before = json.loads(FILE.read_text())["setups"] if FILE.exists() else {}
    found = {name: run(name) for name in SETUPS}
    for name, values in found.items():
        moved = [key for key, value in values.items() if before.get(name, {}).get(key) != value]
        sys.stdout.write(f"{name}: {', '.join(moved) or 'as before'}\n")
    content = {"machine": read_machine(), "setups": found}
    FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
