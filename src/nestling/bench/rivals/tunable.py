"""What a method of the benchmark is: how it is built, and what of it may be tuned.

Every method of a suite gets the same network, first weights, batches and order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from nestling.bench.rivals.competitors import Competitor
from nestling.core.seeds import make_generator
from nestling.data.suites import Suite
from nestling.data.suites.suite import USUAL_WIDTHS
from nestling.models import build_model

Kind = Literal["no_replay", "replay200", "closed_form", "reference"]
Settings = Mapping[str, float]

CAPACITY = 200  # examples that a method with replay may store


@dataclass(frozen=True)
class Range:
    """A number to tune, log-uniform between two bounds.

    Args:
        low: above 0.
        high: above `low`.
        start: what the first trial takes: a value that is known to be fair.
    """

    low: float
    high: float
    start: float


@dataclass(frozen=True)
class Setup:
    """What a method is built for.

    Attributes:
        num_inputs: numbers per input.
        num_classes: output columns.
        batch_size: examples per batch; replay draws as many.
        epochs: passes over each experience.
        num_experiences: how many there will be, for stores that are shared out beforehand.
        knows_task: whether the task label may be used to learn.
        is_encoded: whether inputs are features of a pre-trained network.
        seed: of weights and of what is random in the method.
        widths: hidden units of the network, layer by layer.
    """

    num_inputs: int
    num_classes: int
    batch_size: int
    epochs: int
    num_experiences: int
    knows_task: bool
    is_encoded: bool
    seed: int
    widths: tuple[int, ...] = USUAL_WIDTHS

    def make_model(self) -> nn.Module:
        """The network with its first weights, which depend on the seed alone."""
        sizes = (self.num_inputs, *self.widths, self.num_classes)
        return build_model("mlp", {"sizes": sizes}, seed=self.seed)

    def make_pretrained(self) -> nn.Module:
        """The pre-trained network, whose features the inputs are already, with a linear head."""
        sizes = (self.num_inputs, self.num_classes)
        return nn.Sequential(nn.Identity(), build_model("mlp", {"sizes": sizes}, seed=self.seed))


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: in tables.
        kind: "no_replay", "replay200" (it may store 200 examples), "closed_form", or
            "reference" (it may more than others and is in no comparison).
        build: (setup, settings) -> a competitor that knows nothing yet.
        space: what may be tuned, by name; nothing if empty.
        is_default: whether it is one of nestling's defaults.
        is_small: whether it is in the small budget's subset.
        needs_boundary: whether it must be told where experiences end.
    """

    name: str
    kind: Kind
    build: Callable[[Setup, Settings], Competitor]
    space: Mapping[str, Range] = field(default_factory=dict)
    is_default: bool = False
    is_small: bool = False
    needs_boundary: bool = False


def make_setup(suite: Suite, seed: int) -> Setup:
    """What methods need to know of a suite."""
    return Setup(
        num_inputs=int(suite.experiences[0].train[0][0].numel()),
        num_classes=suite.num_classes,
        batch_size=suite.batch_size,
        epochs=suite.epochs,
        num_experiences=len(suite.experiences),
        knows_task=suite.known_task_at_training,
        is_encoded=suite.features == "encoded",
        seed=seed,
        widths=suite.widths,
    )


def draw_settings(method: Method, trial: int) -> dict[str, float]:
    """The settings of one trial of the random search.

    Args:
        method: its space is drawn from.
        trial: 0 for the start values, then log-uniform; the same for every seed.

    >>> from nestling.bench.rivals.competitors import PlainLoop
    >>> method = Method("sgd", "no_replay", lambda setup, _: PlainLoop(setup.make_model(), 0.1),
    ...     {"lr": Range(0.01, 1.0, 0.1)})
    >>> draw_settings(method, 0), 0.01 < draw_settings(method, 1)["lr"] < 1.0
    ({'lr': 0.1}, True)
    """
    if trial == 0:
        return {name: one.start for name, one in method.space.items()}
    drawn = {}
    for name, one in method.space.items():
        generator = make_generator(trial, "search", method.name, name)
        share = torch.rand((), generator=generator, dtype=torch.float64, device="cpu").item()
        drawn[name] = float(f"{one.low * (one.high / one.low) ** share:.3g}")
    return drawn
