"""Elastic weight consolidation: weights that mattered are pulled to their old values."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch, Loss, default_loss
from nestling.core.errors import SettingError
from nestling.core.params import Params
from nestling.core.seeds import export_generator, import_generator, make_generator
from nestling.memory.checks import check_saved
from nestling.protect.method import Retention
from nestling.protect.penalties.fisher import (
    Labels,
    check_labels,
    check_num_examples,
    estimate_fisher,
    require_loader,
)
from nestling.protect.penalties.quadratic import (
    Pull,
    add_importance,
    check_strength,
    weighted_distance,
)


def ewc_penalty(params: Params, anchor: Params, fisher: Params, strength: float) -> Tensor:
    """EWC penalty: quadratic pull of parameters towards an anchor, weighted by the Fisher.

    strength/2 sum_i F_i (theta_i - anchor_i)^2   [Kirkpatrick 2017, Eq. 3]

    Args:
        params: theta, name -> (S, ...); differentiated.
        anchor: name -> (R, ...); rows that only one of both has are free (a head that grew).
        fisher: F >= 0, names and shapes of `anchor`; a mean over examples, not over batches.
        strength: lambda >= 0, in units of the loss.

    Returns: scalar (), dtype and device of `params`.

    Raises:
        MismatchedParameters: names that are missing, or shapes that differ beyond their rows.

    >>> at = {"w": torch.ones(2)}
    >>> ewc_penalty({"w": torch.zeros(2)}, at, at, strength=3.0)
    tensor(3.)
    """
    return 0.5 * strength * weighted_distance(params, anchor, fisher)


class EWC(Retention):
    """Elastic weight consolidation (EWC) with a Fisher term for each experience.

    strength/2 sum_e sum_i F_ei (theta_i - anchor_ei)^2   [Kirkpatrick 2017, Eq. 3]

    The terms of all experiences are folded into one quadratic with the same value and gradient
    (see `fold`), so that cost and memory do not grow with their number.

    Args:
        strength: lambda >= 0, in units of the loss.
        num_examples: of each experience that its Fisher is estimated from; None: all.
        labels: see `estimate_fisher`.
        seed: of the labels that "sampled" draws.

    Raises:
        SettingError: a setting outside its range.

    Differs: the paper shows a term per task; here their exact sum is kept.

    >>> method, model = EWC(10.0), nn.Linear(1, 2)
    >>> method.end_experience(model, [(torch.ones(1, 1), torch.tensor([0]))])
    >>> method.count_bytes()  # a Fisher and an anchor of 4 scalars
    32
    """

    needs_boundary = True

    def __init__(
        self,
        strength: float,
        num_examples: int | None = None,
        seed: int = 0,
        *,
        labels: Labels = "sampled",
    ) -> None:
        check_num_examples(num_examples)
        check_labels(labels)
        self.strength = check_strength("strength", strength)
        self.num_examples = num_examples
        self.labels: Labels = labels
        self.seed = seed
        self._pull = Pull()
        self._generator = make_generator(seed, "ewc")

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """The pull of all experiences so far, scalar (); None before the first has ended."""
        distance = self._pull.measure(dict(model.named_parameters()))
        return None if distance is None else 0.5 * self.strength * distance

    def end_experience(self, model: nn.Module, loader: Iterable[object] | None = None) -> None:
        """Estimate the Fisher on the loader and add a term at the weights as they are.

        Raises:
            DataError: no loader, or an empty one.
        """
        loader = require_loader(loader, "EWC", "estimate the Fisher information")
        fisher = _estimate(self, model, loader)
        params = dict(model.named_parameters())
        self._pull.fold_in(fisher, {name: params[name].detach() for name in fisher})

    def count_bytes(self) -> int:
        """Of the Fisher and the anchor."""
        return self._pull.count_bytes()

    def state_dict(self) -> dict[str, Any]:
        """The settings, the folded term and the generator."""
        return {
            "config": self._describe(),
            "pull": self._pull.state_dict(),
            "generator": export_generator(self._generator),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._describe(), "retention method")
        self._pull.load_state_dict(state["pull"])
        import_generator(self._generator, state["generator"])

    def _describe(self) -> dict[str, object]:
        return {
            "kind": "ewc",
            "strength": self.strength,
            "num_examples": self.num_examples,
            "labels": self.labels,
            "seed": self.seed,
        }


class OnlineEWC(Retention):
    """Online EWC: elastic weight consolidation with one running Fisher and the last anchor.

    F <- decay F + F_new, penalty strength/2 sum_i F_i (theta_i - last_i)^2
    [Schwarz 2018, Eq. 9]

    Args:
        strength: lambda >= 0, in units of the loss.
        decay: gamma in [0, 1]; below 1, old experiences are let go.
        num_examples, labels, seed: as in `EWC`.

    Raises:
        SettingError: a setting outside its range.
    """

    needs_boundary = True

    def __init__(
        self,
        strength: float,
        decay: float = 1.0,
        num_examples: int | None = None,
        seed: int = 0,
        *,
        labels: Labels = "sampled",
    ) -> None:
        if not 0.0 <= decay <= 1.0:
            raise SettingError(f"decay={decay}; a number from 0 to 1 works")
        check_num_examples(num_examples)
        check_labels(labels)
        self.strength = check_strength("strength", strength)
        self.decay = float(decay)
        self.num_examples = num_examples
        self.labels: Labels = labels
        self.seed = seed
        self._pull = Pull()
        self._generator = make_generator(seed, "online ewc")

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """The pull to the last weights, scalar (); None before the first experience has ended."""
        distance = self._pull.measure(dict(model.named_parameters()))
        return None if distance is None else 0.5 * self.strength * distance

    def end_experience(self, model: nn.Module, loader: Iterable[object] | None = None) -> None:
        """Estimate the Fisher on the loader and move the anchor to the weights as they are.

        Raises:
            DataError: no loader, or an empty one.
        """
        loader = require_loader(loader, "OnlineEWC", "estimate the Fisher information")
        fisher = _estimate(self, model, loader)
        total = add_importance(self._pull.importance, fisher, self.decay)
        self._pull.move(total, dict(model.named_parameters()))

    def count_bytes(self) -> int:
        """Of the Fisher and the anchor."""
        return self._pull.count_bytes()

    def state_dict(self) -> dict[str, Any]:
        """The settings, the term and the generator."""
        return {
            "config": self._describe(),
            "pull": self._pull.state_dict(),
            "generator": export_generator(self._generator),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._describe(), "retention method")
        self._pull.load_state_dict(state["pull"])
        import_generator(self._generator, state["generator"])

    def _describe(self) -> dict[str, object]:
        return {
            "kind": "online ewc",
            "strength": self.strength,
            "decay": self.decay,
            "num_examples": self.num_examples,
            "labels": self.labels,
            "seed": self.seed,
        }


def _estimate(
    method: EWC | OnlineEWC, model: nn.Module, loader: Iterable[object]
) -> dict[str, Tensor]:
    """The Fisher; the method's generator moves on only if it could be estimated."""
    draws = torch.Generator(device="cpu")
    draws.set_state(method._generator.get_state())
    fisher = estimate_fisher(
        model, loader, num_examples=method.num_examples, labels=method.labels, generator=draws
    )
    method._generator.set_state(draws.get_state())
    return fisher
