"""A spine and one small module per context.

Letters: N examples, C modules (slots), K outputs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nestling.core.batches import IGNORE_INDEX, Loss, default_loss, move_classes
from nestling.core.errors import (
    DataError,
    MismatchedParameters,
    SettingError,
    ShapeMismatch,
    UnknownLabel,
)


class ModuleBank(nn.Module):
    """A shared backbone and up to C small modules, one per context (mixture of experts).

        y(x) = sum_c w_c(x) f_c(h(x)),   h the spine, f_c the modules, w from a router.

    All C modules are made at once and switched on as they are needed, so that an optimizer (a
    `NestedOptimizer` too) made at the start covers modules that are grown later, and a saved bank
    always fits a new one. A module that is not chosen is not computed, gets no gradient (None,
    not zero) and is therefore left alone by every torch optimizer, weight decay included.

    Args:
        spine: x (N, ...) -> features (N, ...); `nn.Identity()` for none.
        make_module: slot -> the module of that slot; names and shapes are the same for all.
        num_modules: switched on at the start, at least 1.
        max_modules: C, at least `num_modules`.

    Raises:
        SettingError: no module, or fewer slots than modules.
        MismatchedParameters: modules that differ in names or shapes.

    >>> bank = ModuleBank(nn.Identity(), lambda slot: nn.Linear(2, 3), max_modules=2)
    >>> bank(torch.zeros(5, 2), context=0).shape, bank.num_modules, bank.grow(like=0)
    (torch.Size([5, 3]), 1, 1)
    """

    active: Tensor
    pristine: Tensor

    def __init__(
        self,
        spine: nn.Module,
        make_module: Callable[[int], nn.Module],
        *,
        num_modules: int = 1,
        max_modules: int = 8,
    ) -> None:
        super().__init__()
        if num_modules < 1:
            raise SettingError(f"num_modules={num_modules}: a bank needs at least 1 module")
        if max_modules < num_modules:
            raise SettingError(
                f"max_modules={max_modules} below num_modules={num_modules}; "
                f"max_modules={num_modules} or more works"
            )
        self.spine = spine
        self.parts = nn.ModuleList(make_module(slot) for slot in range(max_modules))
        _check_alike(self.parts)
        self.register_buffer("active", torch.arange(max_modules) < num_modules)
        self.register_buffer("pristine", torch.arange(max_modules) >= num_modules)

    @property
    def max_modules(self) -> int:
        """Number of slots in use or free, C."""
        return len(self.parts)

    @property
    def num_modules(self) -> int:
        """Slots in use."""
        return int(self.active.sum())

    def list_active(self) -> list[int]:
        """Slots in use, ascending."""
        return [int(slot) for slot in self.active.nonzero()[:, 0]]

    def forward(
        self, x: Tensor, weights: Tensor | None = None, context: int | None = None
    ) -> Tensor:
        """Answers (N, ...) of one module, or the weighted sum of several.

        Args:
            x: (N, ...) inputs of the spine.
            weights: (N, C) as a router gives them; modules of weight 0 are not computed.
            context: the slot that answers for all examples.

        Raises:
            SettingError: not exactly one of weights and context.
            ShapeMismatch, DataError, SettingError: as `apply_modules`.
        """
        return self.apply_modules(self.spine(x), weights, context)

    def apply_modules(
        self, z: Tensor, weights: Tensor | None = None, context: int | None = None
    ) -> Tensor:
        """As `forward`, on the spine's features z (N, ...).

        Raises:
            ShapeMismatch: weights that are not (N, C).
            SettingError: a slot that is not in use.
            DataError: a weight on one, or an example without any weight.
        """
        if (weights is None) == (context is None):
            raise SettingError("give a bank either weights=(N, C) from a router or context=SLOT")
        if context is not None:
            self.check_context(context)
            answer: Tensor = self.parts[context](z)
            return answer
        assert weights is not None
        self._check_weights(weights, len(z))
        mixed: Tensor | None = None
        for slot in self.list_active():
            rows = weights[:, slot].nonzero()[:, 0]
            # The first slot is asked for an empty batch too: it gives the answers' shape.
            if not len(rows) and not (mixed is None and not len(z)):
                continue
            output = self.parts[slot](z[rows])
            scale = weights[rows, slot].to(output.dtype).reshape(-1, *[1] * (output.ndim - 1))
            if mixed is None:
                mixed = output.new_zeros(len(z), *output.shape[1:])
            mixed = mixed.index_add(0, rows, scale * output)
        assert mixed is not None
        return mixed

    def find_free(self) -> int | None:
        """The slot that would be grown next, never used ones first; None if all are in use."""
        for free in (~self.active & self.pristine, ~self.active):
            if bool(free.any()):
                return int(free.nonzero()[0])
        return None

    def grow(self, like: int | None = None) -> int | None:
        """Switch on the next free slot; None if all are in use.

        Args:
            like: slot in use that the new module is a copy of; None for as it was made.

        Raises:
            SettingError: no such slot, or none for a slot that another module used before.
        """
        slot = self.find_free()
        if like is not None:
            self.check_context(like)
        if slot is None:
            return None
        if like is not None:
            self.parts[slot].load_state_dict(self.parts[like].state_dict())
        elif not bool(self.pristine[slot]):
            raise SettingError(f"module {slot} was in use before; like=SLOT to copy another works")
        self.active[slot] = True
        self.pristine[slot] = False
        return slot

    def merge(self, keep: int, drop: int, share: float) -> None:
        """Average two modules into one slot and free the other.

        theta_keep <- (1 - share) theta_keep + share theta_drop; what is no floating number (a
        counter) stays as it is in `keep`. Averages are good of modules that began as copies of
        each other [Wortsman 2022, model soups].

        Args:
            keep: slot that stays.
            drop: slot that becomes free.
            share: weight of `drop`, in [0, 1].

        Raises:
            SettingError: equal or unused slots, or a share outside [0, 1].
        """
        self.check_context(keep)
        self.check_context(drop)
        if keep == drop:
            raise SettingError(f"module {keep} cannot be merged with itself")
        if not 0.0 <= share <= 1.0:
            raise SettingError(f"share {share} of the dropped module; a number in [0, 1] works")
        theirs = self.parts[drop].state_dict()
        with torch.no_grad():
            for name, mine in self.parts[keep].state_dict().items():
                if mine.is_floating_point() or mine.is_complex():
                    mine.lerp_(theirs[name], share)
        self.active[drop] = False

    def check_context(self, context: int) -> None:
        """Raise SettingError unless the slot is in use."""
        if not 0 <= context < self.max_modules or not bool(self.active[context]):
            raise SettingError(f"module {context} is not in use; in use: {self.list_active()}")

    def _check_weights(self, weights: Tensor, num_examples: int) -> None:
        wanted = (num_examples, self.max_modules)
        if tuple(weights.shape) != wanted:
            raise ShapeMismatch(
                f"weights of shape {tuple(weights.shape)} for {num_examples} examples and "
                f"{self.max_modules} slots; {wanted} works: give the router as many contexts "
                "as the bank has max_modules"
            )
        used = weights.detach() != 0
        idle = (used.any(0) & ~self.active.to(weights.device)).nonzero()[:, 0]
        if len(idle):
            raise DataError(
                f"weight on module {int(idle[0])}, which is not in use; "
                f"in use: {self.list_active()}"
            )
        if not bool(used.any(1).all()) or not bool(weights.isfinite().all()):
            raise DataError("weights with a row that is all zero or not finite; rows that sum to 1")


def compute_loss(output: Tensor, y: Tensor, loss: Loss = default_loss) -> Tensor:
    """The loss of a module's answers: scalar ().

    Raises: what the loss raises; for `default_loss` UnknownLabel: a class without an output, or
        ShapeMismatch: targets that do not fit.
    """
    if loss is default_loss and not y.is_floating_point():
        num_outputs = move_classes(output, y).shape[1]
        known = y if y.ndim == 1 else y[y != IGNORE_INDEX]
        if known.numel() and (int(known.min()) < 0 or int(known.max()) >= num_outputs):
            raise UnknownLabel(
                f"labels from {int(known.min())} to {int(known.max())}; modules answer 0 to "
                f"{num_outputs - 1}"
            )
    return loss(output, y)


def _check_alike(parts: nn.ModuleList) -> None:
    shapes = [{k: tuple(v.shape) for k, v in part.state_dict().items()} for part in parts]
    for slot, found in enumerate(shapes):
        if found != shapes[0]:
            odd = sorted(
                k for k in found.keys() | shapes[0].keys() if found.get(k) != shapes[0].get(k)
            )
            raise MismatchedParameters(
                f"module {slot} differs from module 0 in {odd[0]!r}: {found.get(odd[0])} instead "
                f"of {shapes[0].get(odd[0])}; make_module must give the same names and shapes"
            )
