"""What the experts of a bank do together: answer, are scored, renewed, learn on copies.

Functions without a state of their own; `MemoryBank` keeps what they return.
Letters: E experts, N examples, D features, K classes, M outputs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from nestling.core.errors import SettingError
from nestling.memory.checks import count_classes
from nestling.memory.exact.fresh import FreshSolution, StandingSolution
from nestling.memory.features import Features
from nestling.memory.mixing.gate import Mixture
from nestling.memory.prequential import HeldSolution, answer, renew_solution
from nestling.memory.prior import ClassPrior
from nestling.memory.ridge import RidgeMemory, Task

MixKind = Literal["present", "all"]
PRESENCE_HALF_LIFE = 20.0
PRESENCE_THRESHOLD = 2.0**-5

# Features (N, D), in float64 or codes; dense targets (N, M); weights (N,).
Block = tuple[Tensor, Tensor, Tensor]


class HeldExperts:
    """Experts, their gate and what is present as they stood when they were asked to stand still.

    Args:
        solutions: one per memory; None where it had none.
        gate: that nobody moves, see `Mixture.hold_still`.
        prior: that nobody counts in.
    """

    def __init__(
        self, solutions: Sequence[HeldSolution | None], gate: Mixture, prior: ClassPrior
    ) -> None:
        self.solutions = list(solutions)
        self.gate = gate
        self.prior = prior

    def state_dict(self, current: Sequence[HeldSolution | None]) -> dict[str, object]:
        """Everything; of solutions that are still the `current` ones only that they are."""
        is_current = [one is now for one, now in zip(self.solutions, current, strict=True)]
        return {
            "is_current": is_current,
            "solutions": [
                None if one is None or same else one.state_dict()
                for one, same in zip(self.solutions, is_current, strict=True)
            ],
            "gate": self.gate.state_dict(),
            "prior": self.prior.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; its solutions are the current ones."""
        self.solutions = [
            now if same else None if saved is None else HeldSolution.from_state(saved)
            for now, same, saved in zip(
                self.solutions, state["is_current"], state["solutions"], strict=True
            )
        ]
        self.gate.load_state_dict(state["gate"])
        self.prior.load_state_dict(state["prior"])


def check_settings(
    num_inputs: int,
    half_lives: Sequence[float],
    features: Features | None,
    block: int,
    mix: str,
) -> None:
    """Raise SettingError unless a bank can be built so."""
    if not half_lives or block < 1 or mix not in ("present", "all"):
        raise SettingError(
            f"a bank of half-lives {list(half_lives)}, block {block}, mix {mix!r}; one half-"
            "life or more, a block of 1 or more and 'present' or 'all' work"
        )
    if features is not None and features.num_inputs != num_inputs:
        raise SettingError(f"features of {features.num_inputs} inputs for {num_inputs} inputs")


def make_prior(task: Task, half_life: float | None, num_outputs: int | None) -> ClassPrior:
    """The class prior of a bank: an expert of that half-life; None: it only knows what is present.

    Args:
        task: without classes it stays empty.
        half_life: in examples.
        num_outputs: classes if they were declared.
    """
    declared = num_outputs if task == "classification" else None
    return ClassPrior(PRESENCE_HALF_LIFE if half_life is None else half_life, declared)


def count_outputs(target: Tensor) -> int:
    """Outputs that targets need: the largest of labels (N,) plus 1, or M of values (N, M)."""
    return count_classes(target) if target.ndim == 1 else target.shape[1]


def learn_in_copies(memories: Sequence[RidgeMemory], block: Block) -> list[RidgeMemory]:
    """The memories as they would stand after a block."""
    copies = [memory.copy() for memory in memories]
    for memory in copies:
        memory.add_features(*block)
    return copies


def remove_in_copies(
    memories: Sequence[RidgeMemory], phi_ND: Tensor, target: Tensor, weight_N: Tensor, clock: int
) -> list[RidgeMemory]:
    """The memories without some examples; if one refuses, all are as they were.

    Args:
        memories: all of one clock.
        phi_ND: (N, D).
        target: labels (N,) or values (N, M).
        weight_N: (N,).
        clock: when the examples were added.
    """
    copies = [memory.copy() for memory in memories]
    for memory in copies:
        memory.remove(phi_ND, target, weight_N, clock=clock)
    return copies


def answer_now(
    solutions: Sequence[FreshSolution | StandingSolution],
    slow: int,
    phi_ND: Tensor,
    prior: ClassPrior | None,
) -> Tensor:
    """Answers of memories, then of the class prior: (E, N, K) or (E, N, M), float64.

    Args:
        solutions: one per memory.
        slow: index of the slow one; it stands in for a prior that is empty.
        phi_ND: (N, D) float64.
        prior: grown to K; None if it is no expert.
    """
    answers = [one.answer(phi_ND) for one in solutions]
    if prior is not None:
        answers.append(answers[slow] if prior.is_empty else prior.predict(phi_ND.shape[0]))
    return torch.stack(answers)


def answer_held(
    solutions: Sequence[HeldSolution], phi_ND: Tensor, prior: ClassPrior | None, num_outputs: int
) -> Tensor:
    """As `answer_now`, by solutions that are held, one per memory; `num_outputs` is K or M."""
    answers = [answer(held, phi_ND, num_outputs) for held in solutions]
    if prior is not None:
        answers.append(prior.predict(phi_ND.shape[0]))
    return torch.stack(answers)


def renew_held(
    memories: Sequence[RidgeMemory], held: Sequence[HeldSolution | None]
) -> list[HeldSolution | None]:
    """The solutions to score the next block with, see `renew_solution`.

    Two memories or more choose their strengths here and hold them.
    """
    return [
        renew_solution(memory, old, tunes=len(memories) > 1)
        for memory, old in zip(memories, held, strict=True)
    ]


def hear_block(
    gate: Mixture,
    solutions: Sequence[HeldSolution],
    block: Block,
    prior: ClassPrior | None,
    has_prior: bool,
    mix: MixKind,
) -> None:
    """Tell a gate how experts would have answered a block that they have not learned.

    Args:
        gate: over the memories, and the class prior if it is an expert.
        solutions: one per memory.
        block: see `Block`; one-hot targets for classes.
        prior: the class prior as it stood before the block, grown to K; None: values.
        has_prior: it is the last expert.
        mix: "present" compares on the classes that are present.
    """
    phi_ND, y_NM, weight_N = block[0].double(), *block[1:]
    answers = [answer(held, phi_ND, y_NM.shape[1]) for held in solutions]
    if prior is None:
        gate.observe(torch.stack(answers), y_NM, heard_N=weight_N)
        return
    labels_N = y_NM.argmax(dim=1)
    if has_prior:
        counts_NK = prior.trace(labels_N, weight_N)
        answers.append(counts_NK / counts_NK.sum(dim=1, keepdim=True).clamp_min(1e-300))
    present_K = None
    if mix == "present":
        present_K = prior.present(PRESENCE_THRESHOLD, y_NM.shape[1])
    # A memory gives classes that it has not seen exactly 0: they speak for nobody.
    known_K = (answers[gate.slow] > 0.0).any(dim=0)
    heard_N = weight_N * known_K[labels_N]
    gate.observe(torch.stack(answers), labels_N, present_K=present_K, heard_N=heard_N)
