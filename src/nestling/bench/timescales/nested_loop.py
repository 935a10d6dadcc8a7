"""Learning by a plan, one step per batch; and any method given more or fewer steps.

Axis letters: N examples, K classes.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nestling.bench.rivals.competitors import Competitor, Pair
from nestling.core.modes import eval_mode
from nestling.levels import NestedOptimizer, Plan
from nestling.protect import Retention, take_step

LIVE = "live"


class NestedLoop:
    """A network that learns by the gradient and copy levels of a plan, with protecting methods.

    Args:
        model: learns in place.
        plan: see `NestedOptimizer`.
        methods: called in this order, see `nestling.protect.take_step`.
        readout: who answers: "live", names of copy levels, or several, whose probabilities are
            averaged. A method that has a reader of its own (CLS-ER) answers instead.
        seed: of copies that move by chance.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        methods: Sequence[Retention] = (),
        *,
        readout: Sequence[str] = (LIVE,),
        seed: int = 0,
    ) -> None:
        self.model = model.train()
        self.methods = list(methods)
        self.optimizer = NestedOptimizer(model, plan, seed=seed)
        self.readout = tuple(readout)

    def learn(self, x: Tensor, y: Tensor, *, is_new: bool) -> None:
        """One step on the batch."""
        take_step(self.model, self.optimizer, (x, y), self.methods, is_new=is_new)

    def end_experience(self, loader: Iterable[Pair]) -> None:
        """Tell every method; the levels need not be told."""
        for method in self.methods:
            method.end_experience(self.model, loader)

    def compute_scores(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, K): logits of the one that answers, or the mean of probabilities."""
        readers = [reader for one in self.methods if (reader := one.find_reader()) is not None]
        with torch.no_grad():
            if readers:
                return self._answer(readers[-1], x)
            if len(self.readout) == 1:
                return self._ask(self.readout[0], x)
            answers = [self._ask(name, x).softmax(1) for name in self.readout]
            return torch.stack(answers).mean(0)

    def count_bytes(self) -> int:
        """Of copies, and of what the methods keep."""
        copies = self.optimizer.levels.copies.values()
        kept = sum(v.nbytes for copy in copies for part in copy.parts for v in part.values())
        return kept + sum(method.count_bytes() for method in self.methods)

    def _ask(self, name: str, x: Tensor) -> Tensor:
        if name == LIVE:
            return self._answer(self.model, x)
        with eval_mode(self.model):
            found: Tensor = functional_call(self.model, self.optimizer.copy_values(name), (x,))
            return found

    def _answer(self, model: nn.Module, x: Tensor) -> Tensor:
        with eval_mode(model):
            found: Tensor = model(x)
            return found


class Budgeted:
    """A method that takes `ratio` steps per batch: more or less compute for the same examples.

    The steps are spread evenly: with 0.5 every second batch is passed over, with 1.5 every second
    one is learned twice in a row.

    Args:
        inner: the method.
        ratio: steps per batch, > 0.

    >>> from nestling.bench.rivals.competitors import PlainLoop
    >>> half = Budgeted(PlainLoop(nn.Linear(1, 2), 0.1), 0.5)
    >>> x, y = torch.zeros(1, 1), torch.tensor([0])
    >>> for _ in range(5):
    ...     half.learn(x, y, is_new=True)
    >>> half.num_steps
    2
    """

    def __init__(self, inner: Competitor, ratio: float) -> None:
        self.inner = inner
        self.ratio = ratio
        self.num_batches = 0
        self.num_steps = 0

    def learn(self, x: Tensor, y: Tensor, *, is_new: bool) -> None:
        """As many steps on the batch as are due; it is new in the first of them."""
        self.num_batches += 1
        # A share such as 0.1 is not exact: ten of them must be one step.
        num_due = int(self.num_batches * self.ratio + 1e-9)
        while self.num_steps < num_due:
            self.inner.learn(x, y, is_new=is_new)
            self.num_steps += 1
            is_new = False

    def end_experience(self, loader: Iterable[Pair]) -> None:
        """Tell the method."""
        self.inner.end_experience(loader)

    def compute_scores(self, x: Tensor) -> Tensor:
        """What the method answers."""
        return self.inner.compute_scores(x)

    def count_bytes(self) -> int:
        """What the method keeps."""
        return self.inner.count_bytes()
