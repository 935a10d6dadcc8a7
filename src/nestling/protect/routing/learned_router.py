"""Learned routing: which module answered best.

Letters: N examples, I inputs, C contexts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.errors import SettingError
from nestling.memory.checks import check_inputs, check_saved
from nestling.memory.replay_store import BalancedReplay
from nestling.protect.routing.router import (
    Explanation,
    Score,
    Task,
    check_column,
    turn_to_weights,
)


class LearnedRouter:
    """Learned router: softmax regression on which module has the least loss.

        w(x) = softmax(W x + b) over the contexts observed so far   (hard: 1 at the largest)
        c* = argmin_c mean loss of module c on the batch;   each step lowers -log w_c*(x)

    It learns from a stream, so it would forget contexts that stay away: each step also learns as
    many stored inputs as there are new ones, from an equal share of each context.

    Args:
        num_inputs: I.
        max_contexts: C.
        lr: of its own Adam.
        replay: inputs (not targets) stored; 0 for none.
        hard: all weight on the likeliest context.
        seed: of what is stored and drawn.

    Raises:
        SettingError: a size or rate that is none.

    >>> router = LearnedRouter(1, 3, lr=0.1)
    >>> for _ in range(30):
    ...     router.observe(torch.tensor([[-1.0]]), 0)
    ...     router.observe(torch.tensor([[1.0]]), 1)
    >>> router.route(torch.tensor([[2.0]]))
    tensor([[0., 1., 0.]])
    """

    def __init__(
        self,
        num_inputs: int,
        max_contexts: int,
        *,
        lr: float = 0.01,
        replay: int = 500,
        hard: bool = True,
        seed: int = 0,
    ) -> None:
        if num_inputs < 1 or max_contexts < 1 or replay < 0 or not lr > 0.0:
            raise SettingError(
                f"num_inputs={num_inputs}, max_contexts={max_contexts}, replay={replay}, lr={lr}; "
                "at least 1, 1, 0 and a rate above 0 work"
            )
        self.num_inputs = num_inputs
        self.lr = lr
        self.replay = replay
        self.hard = hard
        self.seed = seed
        # All weights begin at zero: nothing is drawn.
        self._linear = nn.utils.skip_init(nn.Linear, num_inputs, max_contexts)
        for param in self._linear.parameters():
            nn.init.zeros_(param)
        self._optimizer = torch.optim.Adam(self._linear.parameters(), lr)
        self._memory = BalancedReplay(replay, seed=seed) if replay else None
        self._counts_C = torch.zeros(max_contexts, dtype=torch.int64, device="cpu")

    @property
    def num_contexts(self) -> int:
        """Number of contexts, C."""
        return len(self._counts_C)

    @property
    def known(self) -> Tensor:
        """Which contexts were ever observed: (C,) bool."""
        return self._counts_C > 0

    def route(self, z_ND: Tensor, task: Task | Sequence[Task] | None = None) -> Tensor:
        """Weights (N, C) float32; the first context before anything was observed.

        Raises: ShapeMismatch, NonFiniteInput: inputs that are not finite floats (N, I).
        """
        with torch.no_grad():
            scores_NC = self._linear(self._check(z_ND))
        return turn_to_weights(scores_NC, self.known, self.hard).to(z_ND.device)

    def _check(self, z_ND: Tensor) -> Tensor:
        # Twice: float64 inputs may be infinite as float32.
        return check_inputs(check_inputs(z_ND, self.num_inputs).float(), self.num_inputs)

    def explain(self, z_ND: Tensor, task: Task | None, score: Score) -> Explanation:
        """The module of the least mean loss; surprise is that loss."""
        self._check(z_ND)
        losses_C = score()
        context = int(losses_C.argmin())
        return Explanation(context, float(losses_C[context]))

    def observe(self, z_ND: Tensor, context: int) -> None:
        """One step on these examples (N, I) and as many stored ones.

        Raises: SettingError: no such context. ShapeMismatch, NonFiniteInput: as inputs go.
        """
        check_column(context, self.num_contexts)
        z_ND = self._check(z_ND)
        if not len(z_ND):
            return
        columns_N = torch.full((len(z_ND),), context, dtype=torch.int64, device="cpu")
        self._counts_C[context] += len(z_ND)
        batch = {"x": z_ND, "y": columns_N}
        old = self._memory.sample(len(z_ND)) if self._memory and len(self._memory) else None
        with torch.enable_grad():
            x = z_ND if old is None else torch.cat((z_ND, old["x"]))
            y = columns_N if old is None else torch.cat((columns_N, old["y"]))
            logits_NC = self._linear(x).masked_fill(~self.known, -torch.inf)
            loss = functional.cross_entropy(logits_NC, y)
            self._optimizer.zero_grad()
            loss.backward()
        self._optimizer.step()
        if self._memory is not None:
            self._memory.add(batch)

    def state_dict(self) -> dict[str, Any]:
        """Weights, their optimizer, what is stored, and how it was built."""
        linear = {name: value.clone() for name, value in self._linear.state_dict().items()}
        moments = [
            {name: value.clone() for name, value in self._optimizer.state[param].items()}
            for param in self._linear.parameters()
        ]
        return {
            "config": self._read_config(),
            "linear": linear,
            "moments": moments,
            "counts": self._counts_C.clone(),
            "memory": self._memory.state_dict() if self._memory else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the router that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._read_config(), "learned router")
        self._linear.load_state_dict(state["linear"])
        for param, moments in zip(self._linear.parameters(), state["moments"], strict=True):
            self._optimizer.state[param] = {k: v.clone() for k, v in moments.items()}
        self._counts_C = state["counts"].clone()
        if self._memory is not None:
            self._memory.load_state_dict(state["memory"])

    def _read_config(self) -> dict[str, object]:
        return {
            "num_inputs": self.num_inputs,
            "max_contexts": self.num_contexts,
            "lr": self.lr,
            "replay": self.replay,
            "hard": self.hard,
            "seed": self.seed,
        }
