"""A person's own gate: whom to believe, by how familiar an input is to the own memory.

Letters: N answers (rows), K classes, Z zones of familiarity, E who knows: the own memory, the
common learner, the own adapter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nestling.answer.outside import STARTS, TEMPERS, find_heard, find_inside, split_zones
from nestling.core.params import digest_tensors, flatten_tensors
from nestling.levels import LevelReading
from nestling.memory import Mixture
from nestling.memory.mixing.mixture import restrict_to_present
from nestling.memory.prequential import Foresight

# First weight of the adapter inside the memory's experience; elsewhere it must prove itself.
ADAPTER_START = 0.05


@dataclass(frozen=True)
class Voices:
    """What all who may know answer to the same inputs.

    Args:
        answers: (E, N, K) probabilities over all classes that anybody knows.
        zones: (N, Z), see `split_zones`.
        known: (K,) bool: classes that the person has taught.
        common: (N, K) of the common learner, as it is.
    """

    answers: Tensor
    zones: Tensor
    known: Tensor
    common: Tensor

    @classmethod
    def join(
        cls,
        own: Foresight,
        common_NK: Tensor,
        known_K: Tensor,
        adapted_NK: Tensor | None,
        refuted_K: Tensor,
    ) -> "Voices":
        """Bring the answers to one number of classes, each with those that it does not know.

        Args:
            own: of the own memory.
            common_NK: (N, K') of the common learner.
            known_K: (K',) bool: classes that it can answer.
            adapted_NK: (N, K'') of the adapter; None without one.
            refuted_K: see `share_classes`.
        """
        assert own.known is not None
        assert own.novelty is not None
        widths = [own.answers.shape[1], common_NK.shape[1]]
        width = max(widths if adapted_NK is None else (*widths, adapted_NK.shape[1]))
        mine_NK, common_NK, taught_K, known_K, refuted_K = (
            nn.functional.pad(one, (0, width - one.shape[-1]))
            for one in (own.answers, common_NK, own.known, known_K, refuted_K)
        )
        zones_NZ = split_zones(own.novelty, own.num_effective)
        inside_N1 = find_inside(zones_NZ)[:, None]
        answers = list(share_classes(mine_NK, common_NK, taught_K, known_K, inside_N1, refuted_K))
        if adapted_NK is not None:
            answers.append(nn.functional.pad(adapted_NK, (0, width - adapted_NK.shape[1])))
        return cls(torch.stack(answers), zones_NZ, taught_K, common_NK)


def share_classes(
    own_NK: Tensor,
    common_NK: Tensor,
    taught_K: Tensor,
    known_K: Tensor,
    inside_N1: Tensor,
    refuted_K: Tensor,
) -> tuple[Tensor, Tensor]:
    """The own and the common answer over all classes, each filled from the other.

    Own:    own(c) for c that only the person knows; of the rest, common(c) for c that the person
            never taught, and common(both) own(c | both) for c that both know. Inside the own
            experience a class that she never taught keeps 1 / (1 + a_c) of that, and
            own(. | taught) gets the rest: where the common learner expected it, and something else
            came, she means something else.
    Common: inside own(c) for c that only the person knows; the rest as it is.

    Args:
        own_NK, common_NK: (N, K) probabilities.
        taught_K: (K,) bool: classes of the own memory.
        known_K: (K,) bool: classes of the common learner.
        inside_N1: (N, 1) how far inputs lie inside the own memory's experience.
        refuted_K: (K,) a, how many examples of each class the common learner expected inside the
            own experience that were of another.

    Returns: two of (N, K); rows sum to 1.

    >>> one = torch.ones(1, 1)
    >>> own, common = torch.tensor([[0.0, 0.2, 0.8]]), torch.tensor([[0.6, 0.4, 0.0]])
    >>> taught, known = torch.tensor([False, True, True]), torch.tensor([True, True, False])
    >>> for answer in share_classes(own, common, taught, known, 0.5 * one, torch.zeros(3)):
    ...     print([round(p, 2) for p in answer[0].tolist()])
    [0.12, 0.08, 0.8]
    [0.36, 0.24, 0.4]
    """
    new_NK = own_NK * (taught_K & ~known_K)
    new_N1, both_K = new_NK.sum(dim=1, keepdim=True), taught_K & known_K
    shared_N1 = (common_NK * both_K).sum(dim=1, keepdim=True)
    old_NK = shared_N1 * restrict_to_present(own_NK, both_K) + common_NK * ~taught_K
    mine_NK = new_NK + (1.0 - new_N1) * old_NK
    freed_NK = mine_NK * ~taught_K * (inside_N1 * refuted_K / (1.0 + refuted_K))
    freed_N1 = freed_NK.sum(dim=1, keepdim=True)
    mine_NK = mine_NK - freed_NK + freed_N1 * restrict_to_present(own_NK, taught_K)
    theirs_NK = inside_N1 * new_NK + (1.0 - inside_N1 * new_N1) * common_NK
    return mine_NK, theirs_NK


class OwnGate:
    """Mixes the own memory, the common answer and the adapter, scored on every example.

    Args:
        switch_rate: of the mixture.
        num_outputs: classes that there is room for at first.
        has_adapter: whether there is one.
    """

    def __init__(self, switch_rate: float, num_outputs: int, *, has_adapter: bool) -> None:
        starts_ZE = torch.tensor(STARTS, dtype=torch.float64, device="cpu")
        self.names: tuple[str, ...] = ("memory", "common")
        if has_adapter:
            starts_ZE = nn.functional.pad(starts_ZE, (0, 1))
            starts_ZE[0, -1] = ADAPTER_START
            self.names = (*self.names, "adapter")
        # Examples of each class that the common learner expected, and that were of another.
        self.refuted = torch.zeros(num_outputs, dtype=torch.float64, device="cpu")
        self.mixture = Mixture(starts_ZE, tempers=TEMPERS, slow=1, switch_rate=switch_rate)

    @property
    def weights(self) -> dict[str, float]:
        """How much each is believed about inputs that are familiar to the own memory; sums to 1."""
        return dict(zip(self.names, self.mixture.shares[0].tolist(), strict=True))

    def mix(self, voices: Voices) -> Tensor:
        """One answer: (N, K) float64."""
        return self.mixture.mix(voices.answers, voices.zones)

    def observe(self, voices: Voices, label_N: Tensor) -> None:
        """Hear of examples by the answers that stood before they were learned; who is right about
        classes that the own memory never saw says nothing of it."""
        self._refute(voices, label_N)
        heard_N = find_heard(voices.known, label_N)
        label_N = torch.where(heard_N, label_N, voices.known.double().argmax())
        self.mixture.observe(
            voices.answers,
            label_N,
            voices.zones,
            present_K=voices.known,
            heard_N=heard_N.double(),
        )

    def _refute(self, voices: Voices, label_N: Tensor) -> None:
        """Note what the common learner expected of classes that she never taught, in vain."""
        width = voices.common.shape[1]
        inside_N = find_inside(voices.zones)
        expected_NK = voices.common * ~voices.known
        is_own_NK = label_N[:, None] == torch.arange(width, device="cpu")
        refuted_K = inside_N @ torch.where(is_own_NK, 0.0, expected_NK)
        self.refuted = nn.functional.pad(self.refuted, (0, max(0, width - len(self.refuted))))
        self.refuted[:width] += refuted_K

    def count(self, num_examples: int) -> None:
        """Hear of examples to which nobody but the common learner had an answer."""
        self.mixture.num_heard += num_examples

    def read(self) -> LevelReading:
        """How it stands: it hears of every example."""
        num = self.mixture.num_heard
        return LevelReading(
            level="gate",
            kind="gate",
            num_parameters=sum(value.numel() for value in self.tensors().values()),
            share=0.0,
            period=1,
            age=0,
            num_steps=num,
            num_updates=num,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Weights of the mixture by name; copies."""
        return flatten_tensors(self.state_dict())

    def digest(self) -> str:
        """The sha256 of its tensors."""
        return digest_tensors(self.tensors())

    def state_dict(self) -> dict[str, Any]:
        """Weights of the mixture, and whom they are of."""
        return {
            "names": list(self.names),
            "mixture": self.mixture.state_dict(),
            "refuted": self.refuted.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; ValueError if it is over others."""
        if tuple(state["names"]) != self.names:
            raise ValueError(f"a gate over {state['names']}, not {list(self.names)}")
        mine = self.mixture.state_dict()
        for name, theirs in state["mixture"].items():
            own = mine[name]
            if isinstance(own, Tensor) and own.shape != theirs.shape:
                raise ValueError(f"{name} of shape {tuple(theirs.shape)}, not {tuple(own.shape)}")
        self.mixture.load_state_dict(state["mixture"])
        self.refuted = state["refuted"].clone()
