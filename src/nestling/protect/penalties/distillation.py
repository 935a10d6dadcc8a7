"""What holds answers instead of weights: distillation (LwF) and masked logits.

Letters: N examples, K classes of the output, J <= K of the old one.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.batches import Batch, Loss, default_loss, move_classes, read_output
from nestling.core.errors import (
    DataError,
    MismatchedParameters,
    SettingError,
    ShapeMismatch,
    UnknownLabel,
    suggest,
)
from nestling.core.modes import eval_mode
from nestling.memory.checks import check_saved
from nestling.protect.columns import require_target
from nestling.protect.method import Retention
from nestling.protect.penalties.quadratic import (
    check_strength,
    copy_tensors,
    count_tensor_bytes,
)

Present = Literal["batch", "experience"]
PRESENT: tuple[Present, ...] = ("batch", "experience")


def distillation_loss(
    new: Tensor, old: Tensor, temperature: float, classes: Sequence[int] | None = None
) -> Tensor:
    """Knowledge distillation loss between new and old logits, among the old classes.

    T^2 KL(softmax(old / T) || softmax(new / T)), mean over examples
    [Li & Hoiem 2016, Eq. 2 to 4; T^2 as in Hinton 2015, section 2.1]

    Args:
        new: (N, K) logits; differentiated.
        old: (N, J) logits, J <= K.
        temperature: T > 0.
        classes: the columns that the softmax runs over; None: the first J.

    Returns: scalar (), 0 if there is one class only.

    Raises:
        ShapeMismatch: other shapes, or a class beyond J.

    Differs: the paper's cross entropy of the two; its gradient is that of the divergence.

    >>> logits = torch.tensor([[0.0, 1.0]])
    >>> float(distillation_loss(torch.cat([logits, logits], 1), logits, temperature=2.0))
    0.0
    """
    if new.ndim != 2 or old.ndim != 2 or len(new) != len(old) or old.shape[1] > new.shape[1]:
        raise ShapeMismatch(
            f"new logits of shape {tuple(new.shape)} and old ones of shape {tuple(old.shape)}; "
            "(N, K) and (N, J) with J <= K work"
        )
    columns = list(range(old.shape[1])) if classes is None else list(classes)
    if columns and max(columns) >= old.shape[1]:
        raise ShapeMismatch(
            f"class {max(columns)} to distil, but the old model has {old.shape[1]} outputs"
        )
    return temperature**2 * functional.kl_div(
        (new[:, columns] / temperature).log_softmax(1),
        (old[:, columns].detach() / temperature).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )


def mask_absent(output: Tensor, present: Tensor) -> Tensor:
    """Mask the logits of classes that are not present, as good as minus infinity.

    Args:
        output: (N, K) logits.
        present: integer classes, any shape; negative ones (ignored targets) do not count.

    Returns: (N, K); the softmax is over the present classes, others get no gradient.

    Raises:
        UnknownLabel: a class without a logit.

    >>> mask_absent(torch.zeros(1, 3), torch.tensor([0, 2])).softmax(1)
    tensor([[0.5000, 0.0000, 0.5000]])
    """
    present = present[present >= 0].to(output.device, torch.int64)
    if present.numel() and int(present.max()) >= output.shape[-1]:
        raise UnknownLabel(
            f"label {int(present.max())} and {output.shape[-1]} logits; "
            f"0 to {output.shape[-1] - 1} work, or a head that has grown before the step"
        )
    absent = torch.ones(output.shape[-1], dtype=torch.bool, device=output.device)
    absent[present] = False
    # Finite, since infinity times the 0 of another loss would be NaN.
    return output.masked_fill(absent, torch.finfo(output.dtype).min)


class LwF(Retention):
    """Learning without forgetting (LwF): distil the old model's answers to the new inputs.

    strength T^2 KL(softmax(old / T) || softmax(new / T))   [Li & Hoiem 2016, Eq. 2 to 4]

    When an experience ends, the weights and buffers are copied; from then on they answer each new
    batch, in evaluation mode, and the live model is held to that over all classes seen before.
    The copy is run through the live model's own modules, so its structure must stay; a head may
    get more rows.

    Args:
        strength: lambda_o >= 0; 1 weighs the old like the new.
        temperature: T > 0.

    Raises:
        SettingError: a setting outside its range.

    Differs: one head for all classes instead of one for each task; give `MaskAbsent` beside it
    for the paper's loss over the new classes alone.
    """

    needs_boundary = True

    def __init__(self, strength: float, temperature: float = 2.0) -> None:
        if not temperature > 0.0:
            raise SettingError(f"temperature={temperature}; a number above 0 works, e.g. 2.0")
        self.strength = check_strength("strength", strength)
        self.temperature = float(temperature)
        self._seen: set[int] = set()
        self._old_classes: list[int] = []
        self._old: dict[str, Tensor] = {}

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """The distillation on the new batch, scalar (); None before an experience has ended.

        Raises:
            DataError: targets that are not classes.
            MismatchedParameters: the model has other parameters or buffers than the copy.
        """
        target = require_labels(batch, "LwF distils")
        if not self._old_classes:
            return None
        new, old = (list_rows(one, target) for one in (output, self._answer(model, batch)))
        return self.strength * distillation_loss(new, old, self.temperature, self._old_classes)

    def observe(self, model: nn.Module, batch: Batch, output: Tensor) -> None:
        """Note which classes there were."""
        self._seen.update(list_classes(batch))

    def end_experience(self, model: nn.Module, loader: Iterable[object] | None = None) -> None:
        """Copy the model as it is; all classes so far are old from now on."""
        self._old_classes = sorted(self._seen)
        self._old = copy_tensors(_read_state(model)) if self._seen else {}

    def count_bytes(self) -> int:
        """Of the copied weights and buffers."""
        return count_tensor_bytes(self._old.values())

    def state_dict(self) -> dict[str, Any]:
        """The settings, the classes and the copy."""
        return {
            "config": self._describe(),
            "seen": sorted(self._seen),
            "old_classes": list(self._old_classes),
            "old": copy_tensors(self._old),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._describe(), "retention method")
        seen, old_classes = set(state["seen"]), list(state["old_classes"])
        old = copy_tensors(state["old"])
        self._seen, self._old_classes, self._old = seen, old_classes, old

    def _describe(self) -> dict[str, object]:
        return {"kind": "lwf", "strength": self.strength, "temperature": self.temperature}

    def _answer(self, model: nn.Module, batch: Batch) -> Tensor:
        """(N, J) logits of the old model."""
        live = _read_state(model)
        if live.keys() != self._old.keys():
            name = min(live.keys() ^ self._old.keys())
            raise MismatchedParameters(
                f"{name!r} is in only one of the model and LwF's copy of it; LwF needs a model "
                "whose modules stay the same, only a head's rows may change"
            )
        buffers = {name for name, _ in model.named_buffers()}
        for name, value in self._old.items():
            self._old[name] = value.to(live[name].device)
        # A forward may write to buffers, so it gets copies of them.
        state = {name: v.clone() if name in buffers else v for name, v in self._old.items()}
        with eval_mode(model), torch.no_grad():
            return read_output(batch.call(model, state))


class MaskAbsent(Retention):
    """Logit masking: classes absent from the new batch are left out of its cross entropy.

    Their logits are masked before the cross entropy, so that nothing is learned about classes
    that are not there; most of what class-incremental streams forget is that. It combines with
    others, e.g. `[MaskAbsent(), EWC(100.0)]`, and stores no tensors.

    Args:
        present: "batch": the classes of the batch itself (a batch of one class teaches nothing);
            "experience": those seen since the last `end_experience`, this batch included.

    Raises:
        SettingError: another word.

    >>> method = MaskAbsent()
    >>> batch = Batch((torch.zeros(2, 4),), target=torch.tensor([0, 2]))
    >>> method.restrict(torch.zeros(2, 3), batch).softmax(1)[0]
    tensor([0.5000, 0.0000, 0.5000])
    """

    def __init__(self, present: Present = "batch") -> None:
        if present not in PRESENT:
            raise SettingError(f"present={present!r}; {suggest(present, PRESENT)}")
        self.present: Present = present
        # Without boundaries the classes of the one experience are all classes.
        self.needs_boundary = present == "experience"
        self._seen: set[int] = set()

    def restrict(self, output: Tensor, batch: Batch) -> Tensor:
        """(N, K) logits with those of absent classes masked.

        Raises:
            DataError: targets that are not classes.
            UnknownLabel: a class without a logit.
        """
        present = target = require_labels(batch, "MaskAbsent masks")
        if self.present == "experience":
            present = torch.tensor(
                sorted({*self._seen, *list_classes(batch)}), dtype=torch.int64, device="cpu"
            )
        return mask_classes(output, target, present)

    def observe(self, model: nn.Module, batch: Batch, output: Tensor) -> None:
        """Note which classes there were."""
        if self.present == "experience":
            self._seen.update(list_classes(batch))

    def end_experience(self, model: nn.Module, loader: Iterable[object] | None = None) -> None:
        """Forget which classes there were."""
        self._seen = set()

    def state_dict(self) -> dict[str, Any]:
        """The setting and the classes of this experience."""
        return {"config": self._describe(), "seen": sorted(self._seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._describe(), "retention method")
        self._seen = set(state["seen"])

    def _describe(self) -> dict[str, object]:
        return {"kind": "mask absent", "present": self.present}


def mask_classes(output: Tensor, target: Tensor, present: Tensor) -> Tensor:
    """`mask_absent` wherever the classes stand: (N, K), (N, T, K) or (N, K, H, W) logits."""
    if output.ndim == 2 or move_classes(output, target) is not output:
        return mask_absent(output, present)
    return mask_absent(output.movedim(1, -1), present).movedim(-1, 1)


def list_rows(output: Tensor, target: Tensor) -> Tensor:
    """Logits (R, K) with a row for each of the targets, in their order."""
    if output.ndim == 2:
        return output
    return move_classes(output, target).movedim(1, -1).flatten(0, -2)


def require_labels(batch: Batch, what: str) -> Tensor:
    """The targets; DataError unless they are classes."""
    target = require_target(batch)
    if target.is_floating_point():
        raise DataError(
            f"{what} classes, and the targets are {target.dtype} values; integers (N,) work"
        )
    return target


def list_classes(batch: Batch) -> list[int]:
    """The classes of a batch, sorted; negative ones are targets that the loss ignores."""
    return sorted(label for label in batch.labels if label >= 0)


def _read_state(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
