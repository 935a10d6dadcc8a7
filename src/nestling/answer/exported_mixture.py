"""Modules that answer as a read-out did when it was exported: experts, and how they are mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nestling.answer.exported_modules import FeatureTap
from nestling.answer.outside import (
    confer,
    listen_to_others,
    weigh_knowers,
)
from nestling.core.batches import read_output
from nestling.core.errors import ShapeMismatch
from nestling.memory import RecentContext
from nestling.memory.context import Gaussian, log_density
from nestling.memory.exact.reach import Reach, compute_novelty, trust_experience


class ExportedReadout(nn.Module):
    """What a learner answers, as it stood when it was exported.

    The gate's weights and the classes present are those of that moment.

    Args:
        experts: each (inputs) -> (N, K_e) probabilities or (N, M) values, float64.
        weights_E: how much each counts.
        present_K: classes on which the experts are mixed; None mixes all of them plainly.
        slow: expert that answers for the other classes.
        context: how far the other experts are trusted for what the slow one reads, (N, D) -> (N,)
            in [0, 1]; None: for every input alike.
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
        self.mixes_present = present_K is not None
        self.weights: Tensor
        self.present: Tensor
        self.register_buffer("weights", weights_E.double())
        self.register_buffer(
            "present", (torch.ones(1) if present_K is None else present_K).double()
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """The model's inputs -> probabilities (N, K) or values (N, M)."""
        weights = self.weights[:, None]
        reader = self.experts[self.slow]
        if isinstance(reader, BankExpert):
            read, output = reader.read(*inputs)  # once, for its answer and for the context
            answer, listened = reader.answer(read, output, *inputs)
            answers = [
                answer if i == self.slow else expert(*inputs)
                for i, expert in enumerate(self.experts)
            ]
            if self.context is not None:
                weights = weights * self.context(read)
            if reader.outside is not None:
                weights = weights * listened
            if self.context is not None or reader.outside is not None:
                weights = give_to_slow(weights, self.slow)
        else:
            answers = [expert(*inputs) for expert in self.experts]
        answers = [answer.double() for answer in answers]
        width = max(answer.shape[1] for answer in answers)
        answers = [nn.functional.pad(a, (0, width - a.shape[1])) for a in answers]
        slow = answers[self.slow]  # stands in for whoever has no answer
        answers = [torch.where(a.isfinite().all(dim=1, keepdim=True), a, slow) for a in answers]
        if not self.mixes_present:
            return (weights[:, :, None] * torch.stack(answers)).sum(dim=0).to(self.dtype)
        return mix_present(answers, weights, self.slow, self.present).to(self.dtype)


class RecentTrust(nn.Module):
    """`nestling.memory.RecentContext` as it stood: what is read (N, D) -> r in [0, 1], (N,).

    Args:
        context: that has taken in a block of examples already.
    """

    def __init__(self, context: RecentContext) -> None:
        super().__init__()
        assert context.densities is not None
        self.level = context.level
        self.half_volumes = [density.half_volume for density in context.densities]
        self.directions: Tensor
        self.means: Tensor
        self.whitenings: Tensor
        means = torch.stack([density.mean for density in context.densities])
        whitenings = torch.stack([density.whitening for density in context.densities])
        self.register_buffer("directions", context.directions_ID.clone())
        self.register_buffer("means", means)
        self.register_buffer("whitenings", whitenings)

    def forward(self, read: Tensor) -> Tensor:
        """(N, D) -> (N,)."""
        z_ND = read.flatten(1).to(self.directions.dtype) @ self.directions
        recent, life = (
            log_density(z_ND, Gaussian(mean, whitening, whitening, half_volume))
            for mean, whitening, half_volume in zip(
                self.means, self.whitenings, self.half_volumes, strict=True
            )
        )
        far = torch.full_like(recent, -torch.inf)
        ratio = torch.where((recent - life).isnan(), far, recent - life)
        return (ratio - self.level).clamp_max(0.0).exp()


def give_to_slow(weights_EN: Tensor, slow: int) -> Tensor:
    """What is missing of 1 in each column goes to the slow expert: (E, N) -> (E, N)."""
    missing_N = 1.0 - weights_EN.sum(dim=0)
    is_slow_E = nn.functional.one_hot(torch.tensor(slow), len(weights_EN)).to(weights_EN)
    return weights_EN + is_slow_E[:, None] * missing_N


def mix_present(answers: list[Tensor], weights: Tensor, slow: int, present_K: Tensor) -> Tensor:
    """`nestling.memory.mix_on_present` without branches on values, so that it can be traced.

    Args:
        answers: per expert (N, K).
        weights: (E, N), or (E, 1) for every example alike.
        slow: which expert answers for absent classes.
        present_K: (K,) 0 or 1.
    """
    mixed = torch.zeros_like(answers[0])
    even = present_K / present_K.sum().clamp_min(1.0)
    for weight, answer in zip(weights[:, :, None], answers, strict=True):
        kept = answer * present_K
        total = kept.sum(dim=1, keepdim=True)
        mixed = mixed + weight * torch.where(total > 1e-12, kept / total.clamp_min(1e-12), even)
    share = (answers[slow] * present_K).sum(dim=1, keepdim=True)
    return share * mixed + (1.0 - present_K) * answers[slow]


class LiveExpert(nn.Module):
    """A model's probabilities, or its values."""

    def __init__(
        self,
        model: nn.Module,
        classifies: bool,
        output_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.classifies, self.output_transform = model, classifies, output_transform

    def forward(self, *inputs: Tensor) -> Tensor:
        """The model's inputs -> (N, K) or (N, M), float64."""
        return self.activate(read_output(self.model(*inputs)))

    def activate(self, output: Tensor) -> Tensor:
        """The model's output -> (N, K) or (N, M), float64."""
        if self.classifies:
            return output.double().softmax(dim=1)
        values = output if self.output_transform is None else self.output_transform(output)
        return values.reshape(values.shape[0], -1).double()


class BankExpert(nn.Module):
    """A bank of solved memories on shared features.

    Args:
        tap: what it reads; None for the first input.
        features: (N, F) -> (N, D).
        mixture: (N, D) -> (N, K) or (N, M).
        outside: who knows what the bank has not seen; None if nobody does.
    """

    def __init__(
        self,
        tap: FeatureTap | None,
        features: nn.Module,
        mixture: nn.Module,
        outside: OutsideExpert | None = None,
    ) -> None:
        super().__init__()
        self.tap, self.features, self.mixture, self.outside = tap, features, mixture, outside

    def forward(self, *inputs: Tensor) -> Tensor:
        """The model's inputs -> (N, K) or (N, M)."""
        return self.answer(*self.read(*inputs), *inputs)[0]

    def read(self, *inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """The model's inputs -> what the bank reads of them, (N, F) float64, and the output of the
        model that was run for it."""
        if self.tap is None:
            return inputs[0].flatten(1).double(), None
        read, output = self.tap(*inputs)
        return read.double(), output

    def answer(self, read: Tensor, output: Tensor | None, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What `read` gave, and the model's inputs -> (N, K) or (N, M), and how far others are
        listened to, (N,)."""
        phi = self.features(read)
        answer: Tensor = self.mixture(phi)
        if self.outside is None:
            return answer, torch.ones_like(answer[:, 0])
        mixed: tuple[Tensor, Tensor] = self.outside(answer, phi, output, *inputs)
        return mixed


class OutsideExpert(nn.Module):
    """`nestling.answer.outside.Outside` as it stood.

    Args:
        given: the model as it was given, (inputs) -> (N, K) or (N, M); None if it is the one that
            the memory reads, whose output is then used.
        activate: that output -> (N, K) or (N, M).
        reach: what the memory had seen.
        weights_ZE: of the gates.
        known_K: classes that the memory has seen; None for values.
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
        self.num_effective, self.usual = reach.num_effective, reach.usual
        self.classifies, self.skill = known_K is not None, skill
        self.mean: Tensor
        self.inverse_scale: Tensor
        self.whitening: Tensor
        self.weights: Tensor
        self.known: Tensor
        self.register_buffer("mean", reach.mean.clone())
        self.register_buffer("inverse_scale", reach.inverse_scale.clone())
        self.register_buffer("whitening", reach.whitening.clone())
        self.register_buffer("weights", weights_ZE.double())
        self.register_buffer("known", (torch.ones(1) if known_K is None else known_K).double())

    def forward(
        self, memory: Tensor, phi: Tensor, output: Tensor | None, *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The memory's answer (N, K) or (N, M), its features (N, D), the output of the model that
        it reads, and the inputs -> (N, K) or (N, M), and how far others are listened to, (N,)."""
        if self.given is None:
            assert output is not None
            given = self.activate.activate(output)
        else:
            given = self.given(*inputs)
        reach = Reach(self.mean, self.inverse_scale, self.whitening, self.usual, self.num_effective)
        novelty = compute_novelty(reach, phi)
        known = self.known if self.classifies else None
        trust = trust_experience(self.num_effective)
        answers, opinion = confer(memory, given, known, novelty, trust, self.skill)
        weights_NE = weigh_knowers(
            novelty, opinion, self.weights, trust, is_mixture=self.classifies
        )
        answer = (weights_NE.T[:, :, None] * answers).sum(dim=0)
        return answer, listen_to_others(novelty, weights_NE)
