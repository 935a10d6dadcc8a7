"""What a learner answers, as it stood after some batch, for threads that only ask."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nestling.answer.experts import Experts
from nestling.answer.panel import Panel, answer_batch
from nestling.answer.readout import Readout
from nestling.answer.standing_memory import StandingMemory
from nestling.answer.standing_models import ModelKeeper
from nestling.core.batches import Batch, read_batch, read_output
from nestling.core.errors import DataError
from nestling.core.modes import in_own_modes
from nestling.levels import Levels
from nestling.levels.memory import MemoryLevel
from nestling.levels.taps import StandingTaps
from nestling.memory.ridge import Task


class Answerer:
    """What a learner answered at some moment: predict from any thread while it learns on.

    It shares nothing with the learner that may change, waits for nobody, and stays as it is.
    `Learner.answerer` makes it.

    Args:
        experts: that stand still.
        readout: that stands still; None before anything was learned.
        device: of the model.
        num_examples: that the learner had learned.

    >>> import nestling as nl
    >>> learner = nl.Learner(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)))
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 8)
    >>> _ = learner.learn(x, torch.tensor([0, 1] * 8))
    >>> answerer = learner.answerer()
    >>> _ = learner.learn(x, torch.tensor([1, 0] * 8))
    >>> answerer.predict(x[:2]), answerer.num_examples, learner.answerer().num_examples
    (tensor([0, 1]), 16, 32)
    """

    def __init__(
        self,
        experts: Experts,
        readout: Readout | None,
        device: torch.device,
        num_examples: int,
    ) -> None:
        self._experts, self._readout, self._device = experts, readout, device
        self.num_examples = num_examples

    def predict(self, x: Any, *, task: int | None = None) -> Tensor:
        """Predict labels or values, as `Learner.predict` did at that moment, errors included."""
        return choose_labels(*self._answer(x, task))

    def predict_proba(self, x: Any, *, task: int | None = None) -> Tensor:
        """Predict class probabilities, as `Learner.predict_proba` did at that moment."""
        return check_probabilities(*self._answer(x, task))

    def _answer(self, x: Any, task: int | None) -> tuple[Tensor, Task]:
        return answer_batch(
            self._readout, self._experts, read_inputs(x), task=task, kind=None, device=self._device
        )

    def __repr__(self) -> str:
        return f"Answerer(num_examples={self.num_examples})"


def read_inputs(x: Any) -> Batch:
    """Inputs in any form that `predict` takes; a tuple is several inputs, not inputs and target."""
    return read_batch(x if isinstance(x, Batch) else (x,))


def choose_labels(answer: Tensor, kind: Task) -> Tensor:
    """The most probable class of each row of probabilities (..., K); values stay."""
    return answer.argmax(dim=-1) if kind == "classification" else answer


def check_probabilities(answer: Tensor, kind: Task) -> Tensor:
    """The answer, if it is of probabilities; DataError if it is of values."""
    if kind == "regression":
        raise DataError("the targets are values, which have no probabilities; use predict")
    return answer


class Publisher:
    """Makes answerers of a learner, each from the one before where nothing changed.

    A copy of it, or what comes out of a pickle, is new.

    Attributes:
        latest: the last one published; None if it is out of date.
        is_asked: somebody asked for one since the last was published.
    """

    def __init__(self) -> None:
        self.latest: Answerer | None = None
        self.is_asked = False
        self._keepers: dict[str, ModelKeeper] = {}
        self._standing: dict[str, StandingTaps] = {}

    def __reduce__(self) -> tuple[type["Publisher"], tuple[()]]:
        return (Publisher, ())

    @in_own_modes
    def publish(self, panel: Panel, device: torch.device, num_examples: int) -> Answerer:
        """Make `latest` of what answers now.

        Args:
            panel: of experts and read-out; nobody else may use it meanwhile.
            device: of the model.
            num_examples: learned so far.
        """
        levels, experts, readout = panel.levels, panel.experts, panel.readout
        self.is_asked = False
        modules, memories = dict[str, nn.Module](), dict[str, StandingMemory]()
        updates = _count_updates(levels)
        if readout is not None:
            readout = readout.hold_still()
            for name in experts.list_read():
                memories[name] = self._stand_memory(levels.memories[name], updates)
        for name in _list_moving(experts, readout):
            if name == "live":
                modules[name] = self._find_keeper(name).hold(experts.find_live(), None, updates)
            else:
                values = levels.copies[name].read_values()
                modules[name] = self._find_keeper(name).hold(levels.model, values)
        twin = experts.hold_still(partial(_run, modules), memories)
        self.latest = Answerer(twin, readout, device, num_examples)
        return self.latest

    def _find_keeper(self, name: str, *, shares: bool = False) -> ModelKeeper:
        return self._keepers.setdefault(name, ModelKeeper(shares=shares))

    def _stand_memory(self, level: MemoryLevel, updates: Mapping[int, int]) -> StandingMemory:
        reader, name = level.reader, level.spec.name
        if reader.module is None:
            return StandingMemory(level, None)
        keeper = self._find_keeper(f"read by {name}", shares=reader.is_frozen)
        module, standing = keeper.hold(reader.module, None, updates), self._standing.get(name)
        if standing is None or standing.module is not module:
            standing = self._standing[name] = StandingTaps(module, reader.taps)
        return StandingMemory(level, standing)


def _run(modules: Mapping[str, nn.Module], batch: Batch, name: str) -> Tensor:
    return read_output(batch.call(modules[name]))


def _list_moving(experts: Experts, readout: Readout | None) -> list[str]:
    """Of "live" and the copies those that are asked."""
    outside = [] if experts.outside is None else [experts.outside]
    if readout is None:
        return outside
    moving = experts.list_moving()
    if not moving and experts.targets.layout != "row":
        moving = ["live"]  # its output says how many positions there are
    return moving + ([] if experts.is_lent else outside)


def _count_updates(levels: Levels) -> dict[int, int]:
    """Id of a parameter -> how often its level was updated."""
    return {
        id(param): level.clock.num_updates
        for level in levels.gradient.values()
        for param in level.params
    }
