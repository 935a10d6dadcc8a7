"""Modules that answer as a read-out did when it was exported: experts, and how they are mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nestling.answer.exported_modules import FeatureTap
from nestling.answer.outside import Knowers, Outside, mix_knowers
from nestling.answer.readout import make_zones
from nestling.answer.targets import activate, keep_known
from nestling.core.batches import read_output
from nestling.core.errors import ShapeMismatch
from nestling.levels.taps import align_features
from nestling.memory import Mixture, MixtureWeights, RecentContext
from nestling.memory.concept_slots import mix_slots, silence_novel
from nestling.memory.context import Gaussian, compare_densities, correct_ratio
from nestling.memory.exact.reach import Reach, compute_novelty
from nestling.memory.mixing.mixture import mix_experts, mix_rows, pad_classes, stand_in
from nestling.memory.ridge import Task


class FrozenMixture(nn.Module):
    """`nestling.memory.Mixture` as it stood: answers (E, N, K) and zones (N, Z) -> (N, K).

    Args:
        gate: left untouched.
        present_K: (K,) bool, classes on which the experts are mixed; None mixes all of them.
    """

    def __init__(self, gate: Mixture, present_K: Tensor | None = None) -> None:
        super().__init__()
        self.slow, self.classifies = gate.slow, gate.classifies
        self.mixers: Tensor
        self.share: Tensor
        self.top: Tensor
        self.precisions: Tensor
        self.present: Tensor | None
        for name, value in zip(("mixers", "share", "top", "precisions"), gate.weights, strict=True):
            self.register_buffer(name, value.clone())
        self.register_buffer("present", None if gate.is_plain else present_K)

    def read_weights(self) -> MixtureWeights:
        """The weights of the buffers."""
        return MixtureWeights(self.mixers, self.share, self.top, self.precisions)

    def forward(self, answers: Tensor, zones: Tensor) -> Tensor:
        """(E, N, K) and (N, Z) -> (N, K)."""
        return mix_experts(
            answers,
            zones,
            self.read_weights(),
            self.slow,
            classifies=self.classifies,
            present_K=self.present,
        )


class FixedMixture(nn.Module):
    """Weights that never change: answers (E, N, K) -> sum_e w_e a_e, (N, K).

    Args:
        weights_E: of the experts.
        slow: stands in for who has no finite answer.
    """

    def __init__(self, weights_E: Tensor, slow: int) -> None:
        super().__init__()
        self.slow = slow
        self.weights: Tensor
        self.register_buffer("weights", weights_E.double())

    def forward(self, answers: Tensor, _: Tensor) -> Tensor:
        """(E, N, K), and zones that do not count -> (N, K)."""
        return mix_rows(stand_in(answers, self.slow), self.weights)


class ExportedBank(nn.Module):
    """A bank of solved memories on the same features: (N, D) -> (N, K) or (N, M), float64.

    Args:
        heads: each (N, D) -> (N, K_e) or (N, M).
        mixture: of them; not asked for one alone.
    """

    def __init__(self, heads: Sequence[nn.Module], mixture: FrozenMixture) -> None:
        super().__init__()
        self.heads, self.mixture = nn.ModuleList(heads), mixture

    def forward(self, phi: Tensor) -> Tensor:
        """(N, D) -> (N, K) or (N, M)."""
        stacked = pad_classes([head(phi).double() for head in self.heads])
        if len(self.heads) == 1:
            return stacked[0]
        mixed: Tensor = self.mixture(stacked, torch.ones_like(stacked[0, :, :1]))
        return mixed


class ExportedConcepts(nn.Module):
    """Meanings of the labels as they stood: features of the memory (N, D) -> (N, K), float64; NaN
    where no meaning has changed or the input is unlike all of its kind, so that another stands in.

    Args:
        chosen_d: which features are looked at.
        slots: each (N, d) -> (N, K).
        shares_S: how probable each is.
        in_force: which is.
    """

    def __init__(
        self, chosen_d: Tensor, slots: Sequence[ExportedSlot], shares_S: Tensor, in_force: int
    ) -> None:
        super().__init__()
        self.slots, self.in_force = nn.ModuleList(slots), in_force
        self.chosen: Tensor
        self.shares: Tensor
        self.register_buffer("chosen", chosen_d)
        self.register_buffer("shares", shares_S.double())

    def forward(self, phi: Tensor) -> Tensor:
        """(N, D) -> (N, K)."""
        if not len(self.slots):
            return torch.full_like(phi[:, :1], torch.nan, dtype=torch.float64)
        chosen = phi[:, self.chosen].double()
        return mix_slots([slot(chosen) for slot in self.slots], self.shares, self.in_force)


class ExportedSlot(nn.Module):
    """One meaning of the labels: (N, d) -> (N, K), NaN where it is silent.

    Args:
        head: (N, d) -> (N, K).
        reach: what it has seen; None if it knows nothing.
    """

    def __init__(self, head: nn.Module, reach: Reach | None) -> None:
        super().__init__()
        self.head = head
        self.reach = None if reach is None else ExportedReach(reach)

    def forward(self, phi: Tensor) -> Tensor:
        """(N, d) -> (N, K)."""
        answers: Tensor = self.head(phi)
        return answers if self.reach is None else silence_novel(answers, self.reach(phi))


class ExportedReach(nn.Module):
    """Novelty of inputs to a memory as it stood: features (N, D) -> (N,).

    Args:
        reach: what it had seen.
    """

    def __init__(self, reach: Reach) -> None:
        super().__init__()
        self.num_effective, self.usual = reach.num_effective, reach.usual
        self.mean: Tensor
        self.inverse_scale: Tensor
        self.whitening: Tensor
        self.register_buffer("mean", reach.mean.clone())
        self.register_buffer("inverse_scale", reach.inverse_scale.clone())
        self.register_buffer("whitening", reach.whitening.clone())

    def forward(self, phi: Tensor) -> Tensor:
        """(N, D) -> (N,)."""
        reach = Reach(self.mean, self.inverse_scale, self.whitening, self.usual, self.num_effective)
        return compute_novelty(reach, phi)


class ExportedReadout(nn.Module):
    """What a learner answers, as it stood when it was exported.

    The gate's weights and the classes present are those of that moment.

    Args:
        experts: each (inputs) -> (N, K_e) probabilities or (N, M) values, float64.
        mixture: of them, (E, N, K) and (N, 2) -> (N, K); not asked for one alone.
        slow: expert that answers where the others are not listened to.
        context: how far what the slow one reads is like recent inputs, (N, D) -> (N,) <= 0; None:
            all are.
        known_K: (K,) bool, classes that may be answered; None: all of them.
        dtype: of the answer.

    Raises:
        ShapeMismatch: no expert.
    """

    def __init__(
        self,
        experts: Sequence[nn.Module],
        mixture: FrozenMixture | FixedMixture | None = None,
        slow: int = 0,
        context: RecentTrust | None = None,
        known_K: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not experts or (len(experts) > 1 and mixture is None):
            raise ShapeMismatch(f"{len(experts)} experts; give one, or more and how to mix them")
        self.dtype = dtype
        self.experts = nn.ModuleList(experts)
        self.mixture = mixture
        self.slow = slow
        self.context = context
        self.known: Tensor | None
        self.register_buffer("known", known_K)

    def forward(self, *inputs: Tensor, **keywords: Tensor) -> Tensor:
        """The model's inputs, as it takes them -> probabilities (N, K) or values (N, M)."""
        heeded: Tensor | None = None
        ratio: Tensor | None = None
        reader = self.experts[self.slow]
        answers = {
            i: one(*inputs, **keywords)
            for i, one in enumerate(self.experts)
            if one is not reader and not isinstance(one, ExportedConcepts)
        }
        if isinstance(reader, BankExpert):
            # Once, for its answer, for meanings of the labels and for the context.
            read, output = reader.tap(*inputs, **keywords)
            phi = reader.features(read)
            answers[self.slow], heeded = reader.answer(phi, output, *inputs, **keywords)
            for i, one in enumerate(self.experts):
                if isinstance(one, ExportedConcepts):
                    answers[i] = one(phi)
            if self.context is not None:
                ratio = self.context(read)
        else:
            answers[self.slow] = reader(*inputs, **keywords)
        stacked = pad_classes([answers[i].double() for i in range(len(self.experts))])
        mixed = (
            stacked[0]
            if self.mixture is None
            else self.mixture(stacked, make_zones(stacked, heeded, ratio))
        )
        return keep_known(mixed, self.known).to(self.dtype)


class RecentTrust(nn.Module):
    """`nestling.memory.RecentContext` as it stood: what is read (N, F) -> ln r, (N,).

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
        return correct_ratio(ratio, self.level)


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
        read, output = self.tap(*inputs, **keywords)
        return self.answer(self.features(read), output, *inputs, **keywords)[0]

    def answer(
        self, phi: Tensor, output: Tensor | None, *inputs: Tensor, **keywords: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Features of what `tap` gave, its output, and the model's inputs -> (N, K) or (N, M), and
        how far others are listened to, (N,); None for as far as their weights say."""
        phi = phi.double()
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
        outside: the gate; left untouched.
        known_K: (K,) bool, classes that the memory has seen; None for values.
    """

    def __init__(
        self,
        given: nn.Module | None,
        activate: LiveExpert,
        reach: Reach,
        outside: Outside,
        known_K: Tensor | None,
    ) -> None:
        super().__init__()
        self.given, self.activate = given, activate
        self.num_effective, self.reach = reach.num_effective, ExportedReach(reach)
        self.is_foreign = outside.is_foreign
        self.gate = FrozenMixture(outside.gate)
        self.known: Tensor | None
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
        knowers = Knowers(memory, self.known, given, self.reach(phi), self.num_effective)
        return mix_knowers(knowers, self.gate.read_weights(), is_foreign=self.is_foreign)
