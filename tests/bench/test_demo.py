"""The demo's rivals do what they are called, and everybody gets the same batches."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from nestling.bench import demo
from nestling.bench.baselines import Batch, Finetune, FrozenSpine, Replay
from nestling.bench.result import LIMITS
from nestling.bench.trial import Trial, run_rival
from nestling.data import Experience
from nestling.levels import LevelReading
from nestling.models import mlp


def make_experiences() -> list[Experience]:
    """Two experiences of four points each, all different; the second has the classes 2 and 3."""
    made = []
    for index in range(2):
        y = torch.tensor([0, 0, 1, 1]).repeat(8) + 2 * index
        part = (torch.eye(8)[4 * index : 4 * index + 4].repeat(8, 1), y)
        made.append(
            Experience(
                name=f"part {index}",
                train=part,
                test=(part[0][:16], part[1][:16]),
                classes=(2 * index, 2 * index + 1),
                task=None,
            )
        )
    return made


class Recorder:
    """Learns nothing, prefers later classes; keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[int, ...]] = []

    def fit(self, batches: Sequence[Batch], epochs: int) -> None:
        for _ in range(epochs):
            self.given += [tuple(x.argmax(dim=1).tolist()) for x, _ in batches]

    def scores(self, x: Tensor) -> Tensor:
        assert len(x) == 16, "scored on the examples to test on"
        return torch.arange(4.0).expand(len(x), 4)

    def read_levels(self) -> Sequence[LevelReading]:
        return ()


def test_everybody_gets_the_same_batches_and_passes() -> None:
    rivals = [Recorder(), Recorder()]
    for rival in rivals:
        trial = run_rival(rival, "recorder", 3, make_experiences(), epochs=2, batch_size=5)  # type: ignore[arg-type]
    assert rivals[0].given == rivals[1].given
    assert trial.num_seen == sum(map(len, rivals[0].given)) == 2 * 2 * 32
    assert rivals[0].given[:7] != rivals[0].given[7:14], "each pass has an order of its own"


def test_every_experience_is_looked_at_during_and_after() -> None:
    trial = run_rival(Recorder(), "recorder", 0, make_experiences(), epochs=2, batch_size=4)  # type: ignore[arg-type]
    during = [(record["during"], record["after"]) for record in trial.evaluations]
    assert during.count((0, 0)) == during.count((1, 1)) == 1
    assert during.count((1, None)) > 5
    # Among the classes met by then: of 0 and 1 it says 1, of all four 3.
    assert (trial.read_accuracy(0), trial.read_accuracy(1)) == (0.5, 0.5)
    names = [list(record["accuracies"]) for record in trial.evaluations]  # type: ignore[call-overload]
    assert names == [["part 0", "part 1"][: during_one + 1] for during_one, _ in during]
    assert final(trial) == [0.0, 0.5]
    # The first look at the second experience comes before anything of it is learned.
    first = next(record for record in trial.evaluations if record["during"] == 1)
    assert (first["step"], trial.evaluations[-1]["step"]) == (64, 128)


def run(rival: Finetune) -> Trial:
    return run_rival(rival, "rival", 0, make_experiences(), epochs=30, batch_size=4)


def final(trial: Trial) -> list[float]:
    found = trial.evaluations[-1]["accuracies"]
    assert isinstance(found, dict)
    return list(found.values())


def test_finetuning_forgets_and_replay_does_not() -> None:
    old, new = final(run(Finetune(mlp([8, 32, 4]), 1e-2)))
    assert (old < 0.6, new) == (True, 1.0)
    rival = Replay(mlp([8, 32, 4]), 1e-2, 32, 0)
    kept, learned = final(run(rival))
    assert kept > old + 0.2
    assert learned > 0.8
    assert rival.kept.num_seen == 64, "each example is offered once, not at every pass"


def test_a_frozen_spine_stands_still_after_the_first_experience() -> None:
    model = mlp([4, 8, 4])
    rival = FrozenSpine(model, 1e-2)
    batch = (torch.eye(4), torch.tensor([0, 1, 2, 3]))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    rival.fit([batch], epochs=1)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    rival.fit([batch], epochs=3)
    second = model.state_dict()
    assert all(not torch.equal(start[name], first[name]) for name in first)
    assert torch.equal(first["trunk.0.weight"], second["trunk.0.weight"])
    assert not torch.equal(first["head.weight"], second["head.weight"])


@pytest.mark.slow
def test_the_default_keeps_its_promises_on_one_seed() -> None:
    pytest.importorskip("sklearn")
    result = demo.run(num_threads=1, seeds=(0,))
    assert set(LIMITS["demo"]) <= set(result.figures)
    assert {"acc_default", "acc_replay", "acc_finetune"} <= set(result.figures)
    assert [row["method"] for row in result.rows] == list(demo.METHODS)
    assert result.figures["forgetting_over_finetune"] <= 0.25
    assert result.figures["acc_default"] > result.figures["acc_replay"]
    assert result.figures["new_accuracy_gap"] <= 3.0
