"""What a contract sees of a plan: who learns, what is held, what no level trains."""

from torch import nn

import nestling as nl
from nestling.oversight.subjects.plan_reading import read_plan_facts


def make_model() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    return model


def test_levels_and_what_no_level_trains() -> None:
    plan = nl.Plan(
        nl.Level("head", match=["3.*"]),
        nl.Level("spine", match=["*"], period=8, protect=True),
        nl.Memory("memory", on="input"),
        nl.Copy("slow", of=["head"], decay=0.9),
        nl.Copy("origin", of=["head"], decay=1.0),
        readout="slow",
    )
    facts = read_plan_facts(plan, make_model())
    assert facts.levels["head"] == ("3.weight", "3.bias")
    assert facts.levels["spine"] == ("2.weight", "2.bias")
    assert facts.levels["memory"] == facts.levels["slow"] == ()
    assert facts.kinds["memory"] == "memory"
    assert facts.trained == {"head", "spine", "memory", "slow"}
    assert facts.held == {"spine"}
    assert facts.periods == {"head": 1, "spine": 8}
    still = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert facts.frozen == {"0.weight", "0.bias", "1.weight", "1.bias"} | still
    assert facts.frozen < facts.tensors
    alone = read_plan_facts(plan)
    assert alone.trained == facts.trained
    assert not alone.tensors | alone.frozen
    assert alone.levels["head"] == ()


def test_what_is_frozen_for_good_does_not_learn() -> None:
    def learns(freeze: nl.Freeze, *others: nl.DriftWatch) -> bool:
        plan = nl.Plan(nl.Level("a", match=["*"], freeze=freeze), *others)
        return "a" in read_plan_facts(plan).trained

    assert learns(nl.Freeze(windows=((1, 100),)))
    assert not learns(nl.Freeze(windows=((1, 10**9),)))
    assert learns(nl.Freeze(windows=((2, 10**9),)))
    assert not learns(nl.Freeze(until="approved"))
    assert learns(nl.Freeze(until="drift"), nl.DriftWatch("watch", event="drift"))
