"""The protecting methods of a learner: when they may be called, and their state."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nestling.core.batches import Batch, Loss, default_loss, read_batch
from nestling.core.errors import DataError, ForeignSnapshot, SettingError
from nestling.levels import Plan
from nestling.protect import DERpp, Retention


class Protections:
    """Methods of `nestling.protect` beside the levels of a learner.

    Args:
        model: the live model.
        methods: called in this order.
        plan: must have a gradient level if there is a method.
        loss: of the steps.
        replay: examples that are learned again, before the methods; None for none.

    Raises:
        SettingError: no gradient level, the same method twice, or something that is no method.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Retention],
        plan: Plan,
        loss: Loss = default_loss,
        replay: DERpp | None = None,
    ) -> None:
        for method in methods:
            if not isinstance(method, Retention):
                raise SettingError(
                    f"retain={method!r}; give methods such as nestling.protect.EWC(20)"
                )
        if len({id(method) for method in methods}) < len(methods):
            raise SettingError("the same method stands in retain twice; give each one once")
        if methods and not plan.gradient_levels:
            raise SettingError(
                "retain protects weights, but no level of the plan learns by gradient"
            )
        self.model = model
        self.replay = replay if plan.gradient_levels else None
        self.methods = tuple(methods) if self.replay is None else (self.replay, *methods)
        self.is_plain = not methods  # nothing but replay
        self.loss = loss
        self._task: int | None = None
        self._num_open = 0  # batches since an experience ended

    def find_reader(self) -> nn.Module:
        """The module that answers as "live": a method's own, else the live model."""
        for method in self.methods:
            reader = method.find_reader()
            if reader is not None:
                return reader
        return self.model

    def check_loader(self, loader: object) -> None:
        """Raise DataError if a method will want the examples once more and cannot have them."""
        needing = [type(m).__name__ for m in self.methods if m.needs_boundary]
        if needing and isinstance(loader, Iterator):
            raise DataError(
                f"{needing[0]} reads an experience once more at its end, but the loader can be "
                "read only once; give a DataLoader or a list"
            )

    def check_task(self, task: int | None) -> None:
        """Raise DataError at a new task if the last experience was not ended and must be."""
        waiting = next((m for m in self.methods if m.needs_boundary), None)
        if waiting is not None and self._num_open and task != self._task:
            raise DataError(
                f"task {self._task} became {task} but {type(waiting).__name__} protects only what "
                "came before a boundary; call end_experience(loader) between, or use fit"
            )

    def check_batch(self, batch: Batch) -> None:
        """Raise ShapeMismatch if a batch cannot be kept beside the examples that are."""
        if self.replay is not None:
            self.replay.check(batch)

    def note(self, task: int | None) -> None:
        """Take in that a batch of this task was learned."""
        self._task = task
        self._num_open += 1

    def check_growth(self) -> None:
        """Raise SettingError if a method answers by a copy of the model, whose head cannot grow."""
        reading = next((m for m in self.methods if m.find_reader() is not None), None)
        if reading is not None:
            raise SettingError(
                f"{type(reading).__name__} answers by a copy whose head cannot grow; give the "
                "model all outputs and declare num_classes"
            )

    def end_experience(self, loader: Iterable[Any] | None, device: torch.device) -> None:
        """Tell the methods that an experience is over."""
        again = None if loader is None or isinstance(loader, Iterator) else loader
        for method in self.methods:
            method.end_experience(self.model, None if again is None else _Batches(again, device))
        self._num_open = 0

    def count_bytes(self) -> int:
        """What the methods keep."""
        return sum(method.count_bytes() for method in self.methods)

    def state_dict(self) -> dict[str, Any]:
        """Of all methods, with their names."""
        return {
            "task": self._task,
            "num_open": self._num_open,
            "methods": [
                {"name": type(method).__name__, "state": method.state_dict()}
                for method in self.methods
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ForeignSnapshot: of other methods, or of methods with other settings.
        """
        saved = [one["name"] for one in state["methods"]]
        own = [type(method).__name__ for method in self.methods]
        if saved != own:
            raise ForeignSnapshot(
                f"it has methods {saved}, this learner {own}; give the same replay and retain"
            )
        self._task, self._num_open = state["task"], state["num_open"]
        for method, one in zip(self.methods, state["methods"], strict=True):
            method.load_state_dict(one["state"])
            method.build_reader(self.model, self.loss)


class _Batches:
    """A loader's batches on a device; it can be read again and again."""

    def __init__(self, loader: Iterable[Any], device: torch.device) -> None:
        self.loader, self.device = loader, device

    def __iter__(self) -> Iterator[Batch]:
        for raw in self.loader:
            batch = read_batch(raw).to(self.device)
            if batch.size:
                yield batch
