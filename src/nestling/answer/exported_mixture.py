"""Modules that answer as a read-out did when it was exported: experts, and how they are mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nestling.answer.experts import activate
from nestling.answer.exported_modules import FeatureTap
from nestling.answer.outside import Knowers, mix_knowers
from nestling.answer.targets import keep_known
from nestling.core.batches import read_output
from nestling.core.errors import ShapeMismatch
from nestling.levels.taps import align_features
from nestling.memory import RecentContext
from nestling.memory.context import Gaussian, compare_densities, trust_recent
from nestling.memory.exact.reach import Reach, compute_novelty
from nestling.memory.mixture import heed, mix_experts, pad_classes
from nestling.memory.ridge import Task


class ExportedReadout(nn.Module):
    """What a learner answers, as it stood when it was exported.

    The gate's weights and the classes present are those of that moment.

    Args:
        experts: each (inputs) -> (N, K_e) probabilities or (N, M) values, float64.
        weights_E: how much each counts.
        present_K: (K,) bool, classes on which the experts are mixed; None mixes all of them.
        slow: expert that answers for the other classes.
        context: how far the other experts are trusted for what the slow one reads, (N, D) -> (N,)
            in [0, 1]; None: for every input alike.
        known_K: (K,) bool, classes that may be answered; None: all of them.
        dtype: of the answer.

    Raises:
        ShapeMismatch: not one weight per expert, or no expert.
    """

    def __init__(
        self,
        experts: Sequence[nn.Module],
        weights_E: Tensor,
        present_K: Tensor | None = None,
        slow: int = 0,
        context: RecentTrust | None = None,
        known_K: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not experts or weights_E.shape != (len(experts),):
            raise ShapeMismatch(
                f"{len(experts)} experts need as many weights (1 or more), not a tensor of shape "
                f"{tuple(weights_E.shape)}"
            )
        self.dtype = dtype
        self.experts = nn.ModuleList(experts)
        self.slow = slow
        self.context = context
        self.weights: Tensor
        self.present: Tensor | None
        self.register_buffer("weights", weights_E.double())
        self.register_buffer("present", present_K)
        self.known: Tensor | None
        self.register_buffer("known", known_K)

    def forward(self, *inputs: Tensor, **keywords: Tensor) -> Tensor:
        """The model's inputs, as it takes them -> probabilities (N, K) or values (N, M)."""
        heeded: Tensor | None = None
        reader = self.experts[self.slow]
        answers = {
            i: one(*inputs, **keywords) for i, one in enumerate(self.experts) if one is not reader
        }
        if isinstance(reader, BankExpert):
            read, output = reader.tap(
                *inputs, **keywords
            )  # once, for its answer and for the context
            answers[self.slow], heeded = reader.answer(read, output, *inputs, **keywords)
            if self.context is not None:
                recent = self.context(read)
                heeded = recent if heeded is None else recent * heeded
        else:
            answers[self.slow] = reader(*inputs, **keywords)
        stacked = pad_classes([answers[i].double() for i in range(len(self.experts))])
        weights = self.weights if heeded is None else heed(self.weights, heeded, self.slow)
        mixed = mix_experts(stacked, weights, self.slow, self.present)
        return keep_known(mixed, self.known).to(self.dtype)


class RecentTrust(nn.Module):
    """`nestling.memory.RecentContext` as it stood: what is read (N, F) -> r in [0, 1], (N,).

    Args:
        context: that has taken in a block of examples already.
    """

    def __init__(self, context: RecentContext) -> None:
        super().__init__()
        assert context.densities is not None
        self.level = context.level
        self.directions: Tensor
        self.register_buffer("directions", context.directions_ID.clone())
        self.recent, self.life = (Density(one) for one in context.densities)

    def forward(self, read: Tensor) -> Tensor:
        """(N, F) -> (N,)."""
        ratio = compare_densities(
            read.double() @ self.directions, self.recent.read(), self.life.read()
        )
        return trust_recent(ratio, self.level)


class Density(nn.Module):
    """A Gaussian whose tensors are buffers.

    Args:
        density: left untouched.
    """

    def __init__(self, density: Gaussian) -> None:
        super().__init__()
        self.half_volume = density.half_volume
        self.mean: Tensor
        self.covariance: Tensor
        self.whitening: Tensor
        for name in ("mean", "covariance", "whitening"):
            self.register_buffer(name, getattr(density, name).clone())

    def read(self) -> Gaussian:
        """The Gaussian of the buffers."""
        return Gaussian(self.mean, self.covariance, self.whitening, self.half_volume)


class LiveExpert(nn.Module):
    """A model's probabilities, or its values.

    Args:
        model: (inputs) -> output.
        task: what is predicted.
        output_transform: maps outputs to the scale of values; None for the identity.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        output_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.task, self.output_transform = model, task, output_transform

    def forward(self, *inputs: Tensor, **keywords: Tensor) -> Tensor:
        """The model's inputs -> (N, K) or (N, M), float64."""
        return self.activate(read_output(self.model(*inputs, **keywords)))

    def activate(self, output: Tensor) -> Tensor:
        """The model's output -> (N, K) or (N, M), float64."""
        rows, _ = align_features(output, None)
        return activate(rows, self.task, self.output_transform, Tensor.double)


class BankExpert(nn.Module):
    """A bank of solved memories on shared features.

    Args:
        tap: what it reads, (inputs) -> (N, F).
        features: (N, F) -> (N, D).
        mixture: (N, D) -> (N, K) or (N, M).
        outside: who knows what the bank has not seen; None if nobody does.
    """

    def __init__(
        self,
        tap: FeatureTap,
        features: nn.Module,
        mixture: nn.Module,
        outside: OutsideExpert | None = None,
    ) -> None:
        super().__init__()
        self.tap, self.features, self.mixture, self.outside = tap, features, mixture, outside

    def forward(self, *inputs: Tensor, **keywords: Tensor) -> Tensor:
        """The model's inputs -> (N, K) or (N, M)."""
        return self.answer(*self.tap(*inputs, **keywords), *inputs, **keywords)[0]

    def answer(
        self, read: Tensor, output: Tensor | None, *inputs: Tensor, **keywords: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """What `tap` gave, and the model's inputs -> (N, K) or (N, M), and how far others are
        listened to, (N,); None for as far as their weights say."""
        phi = self.features(read).double()
        answer: Tensor = self.mixture(phi)
        if self.outside is None:
            return answer, None
        mixed: tuple[Tensor, Tensor] = self.outside(answer, phi, output, *inputs, **keywords)
        return mixed


class OutsideExpert(nn.Module):
    """`nestling.answer.outside.Outside` as it stood.

    Args:
        given: the model as it was given, (inputs) -> (N, K) or (N, M); None if it is the one that
            the memory reads, whose output is then used.
        activate: that output -> (N, K) or (N, M).
        reach: what the memory had seen.
        weights_ZE: of the gates.
        known_K: (K,) bool, classes that the memory has seen; None for values.
        skill: of the given model.
    """

    def __init__(
        self,
        given: nn.Module | None,
        activate: LiveExpert,
        reach: Reach,
        weights_ZE: Tensor,
        known_K: Tensor | None,
        skill: float,
    ) -> None:
        super().__init__()
        self.given, self.activate = given, activate
        self.num_effective, self.usual, self.skill = reach.num_effective, reach.usual, skill
        self.mean: Tensor
        self.inverse_scale: Tensor
        self.whitening: Tensor
        self.weights: Tensor
        self.known: Tensor | None
        self.register_buffer("mean", reach.mean.clone())
        self.register_buffer("inverse_scale", reach.inverse_scale.clone())
        self.register_buffer("whitening", reach.whitening.clone())
        self.register_buffer("weights", weights_ZE.double())
        self.register_buffer("known", known_K)

    def forward(
        self,
        memory: Tensor,
        phi: Tensor,
        output: Tensor | None,
        *inputs: Tensor,
        **keywords: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The memory's answer (N, K) or (N, M), its features (N, D), the output of the model that
        it reads, and the inputs -> (N, K) or (N, M), and how far others are listened to, (N,)."""
        if self.given is None:
            assert output is not None
            given = self.activate.activate(output)
        else:
            given = self.given(*inputs, **keywords)
        reach = Reach(self.mean, self.inverse_scale, self.whitening, self.usual, self.num_effective)
        novelty = compute_novelty(reach, phi)
        knowers = Knowers(memory, self.known, given, novelty, self.num_effective)
        return mix_knowers(knowers, self.weights, self.skill)
