"""Importance of weights without labels: synaptic intelligence and MAS."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.batches import Batch, Loss, default_loss
from nestling.core.errors import SettingError
from nestling.core.params import Params, widen_half
from nestling.memory.checks import check_saved
from nestling.protect.method import Retention
from nestling.protect.penalties.fisher import (
    Chunk,
    average_gradients,
    check_num_examples,
    require_loader,
)
from nestling.protect.penalties.quadratic import (
    Pull,
    add_importance,
    check_strength,
    copy_tensors,
    count_tensor_bytes,
    pad_rows,
    share_rows,
)


def weigh_path(path: Params, change: Params, damping: float) -> dict[str, Tensor]:
    """Synaptic intelligence's importance of each weight: its share in reducing the loss.

    Omega_i = omega_i / (Delta_i^2 + xi)   [Zenke 2017, Eq. 5, one task]

    Args:
        path: omega = -sum_t g_t * dtheta_t, name -> any shape; positive where the loss fell.
        change: Delta, the whole way from the experience's first weights to its last.
        damping: xi > 0, in units of Delta^2.

    Returns: name -> tensor, float32 at least, negative where the loss rose.

    >>> weigh_path({"w": torch.ones(1)}, {"w": torch.full((1,), 2.0)}, damping=1.0)["w"]
    tensor([0.2000])
    """
    return {
        name: widen_half(value) / (widen_half(change[name]).square() + damping)
        for name, value in path.items()
    }


def estimate_sensitivity(
    model: nn.Module, loader: Iterable[object], *, num_examples: int | None = None
) -> dict[str, Tensor]:
    """Sensitivity of the output to each parameter (MAS importance); targets are not used.

    Omega_i = 1/N sum_n |d ||f(x_n)||^2 / d theta_i|   [Aljundi 2018, Eq. 2, 3]

    Args:
        model: in evaluation mode meanwhile; buffers, `.grad` and modes stay.
        loader: batches in any form of `read_batch`, of any sizes; targets may be missing.
        num_examples: how many of the first ones to use; None: all.

    Returns: name -> tensor of the parameter's shape, for trainable parameters; float32 at least.

    Raises:
        DataError: no example.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 3.0)
    >>> estimate_sensitivity(model, [(torch.ones(2, 1), torch.zeros(2))])["weight"]
    tensor([[6.]])
    """

    def chunks(batch: Batch) -> Iterator[Chunk]:
        ones = torch.ones(
            batch.size, dtype=torch.float32, device=next(iter(batch.features.values())).device
        )
        yield batch, ones, ones, _sum_squares

    return average_gradients(model, loader, chunks, torch.abs, num_examples=num_examples)


class SI(Retention):
    """Synaptic intelligence (SI): hold weights that reduced the loss; needs no examples.

    strength sum_i Omega_i (theta_i - last_i)^2   [Zenke 2017, Eq. 4]
    Omega += omega / (Delta^2 + xi), omega = -sum over steps of g dtheta   [Eq. 5]

    Args:
        strength: c >= 0.
        damping: xi > 0, in units of squared weights.

    Raises:
        SettingError: a setting outside its range.

    Differs: g is `.grad` of the whole step, with every method's part; the paper's loss is the new
    batch's alone. As in the authors' code, Omega is cut at 0 from below, since a negative one would
    push away from the anchor without bound.

    >>> method, model = SI(1.0), nn.Linear(1, 2)
    >>> method.end_experience(model)  # no step yet: nothing to hold
    >>> x = torch.ones(1, 1)
    >>> method.compute_loss(model, Batch((x,), target=torch.tensor([0])), model(x)) is None
    True
    """

    needs_boundary = True

    def __init__(self, strength: float, damping: float = 0.1) -> None:
        if not damping > 0.0:
            raise SettingError(f"damping={damping}; a number above 0 works, e.g. 0.1")
        self.strength = check_strength("strength", strength)
        self.damping = float(damping)
        self._pull = Pull()
        self._start: dict[str, Tensor] = {}
        self._path: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """The pull to the last weights, scalar (); None before the first experience has ended."""
        distance = self._pull.measure(dict(model.named_parameters()))
        return None if distance is None else self.strength * distance

    def adjust_gradients(self, model: nn.Module, loss: Loss = default_loss) -> None:
        """Note the weights before the step; gradients stay."""
        self._before = {
            name: param.detach().clone()
            for name, param in model.named_parameters()
            if param.requires_grad and param.grad is not None
        }

    def observe(self, model: nn.Module, batch: Batch, output: Tensor) -> None:
        """Add -g * dtheta of the step that was taken.

        Raises:
            SettingError: `adjust_gradients` was not called before the step.
        """
        for name, param in model.named_parameters():
            if not param.requires_grad or param.grad is None:
                continue
            if name not in self._before:
                raise SettingError(
                    f"SI does not know {name!r} as it was before the step; call "
                    "adjust_gradients(model) before optimizer.step(), as take_step does"
                )
            before = self._before[name]
            start = self._start.get(name, before)
            path = self._path.get(name)
            # New rows of a head that grew begin here.
            self._start[name] = pad_rows(name, start, before, fill=before)
            wide = widen_half(before)
            path = torch.zeros_like(wide) if path is None else pad_rows(name, path, wide)
            rows = path[: len(before)] if path.shape != before.shape else path
            grad = param.grad if param.grad.layout == torch.strided else param.grad.to_dense()
            rows.addcmul_(widen_half(grad), widen_half(param.detach()) - wide, value=-1.0)
            self._path[name] = path
        self._before = {}

    def end_experience(self, model: nn.Module, loader: Iterable[object] | None = None) -> None:
        """Add the experience's importance and move the anchor to the weights as they are."""
        params = {name: param.detach() for name, param in model.named_parameters()}
        path, change = {}, {}
        for name in self._path.keys() & params.keys():
            now, start = share_rows(name, params[name], self._start[name].to(params[name]))
            path[name] = self._path[name][: len(now)] if now.ndim else self._path[name]
            change[name] = widen_half(now) - widen_half(start)
        new = weigh_path(path, change, self.damping)
        total = add_importance(self._pull.importance, new)
        self._pull.move({name: value.clamp_min(0.0) for name, value in total.items()}, params)
        self._start, self._path, self._before = {}, {}, {}

    def count_bytes(self) -> int:
        """Of the importance, the anchor, the path and where it began."""
        own = count_tensor_bytes([*self._start.values(), *self._path.values()])
        return own + self._pull.count_bytes()

    def state_dict(self) -> dict[str, Any]:
        """The settings, the term, and the path so far."""
        return {
            "config": self._describe(),
            "pull": self._pull.state_dict(),
            "start": copy_tensors(self._start),
            "path": copy_tensors(self._path),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._describe(), "retention method")
        start, path = copy_tensors(state["start"]), copy_tensors(state["path"])
        self._pull.load_state_dict(state["pull"])
        self._start, self._path, self._before = start, path, {}

    def _describe(self) -> dict[str, object]:
        return {"kind": "si", "strength": self.strength, "damping": self.damping}


class MAS(Retention):
    """Memory aware synapses (MAS): hold weights that the output is sensitive to.

    strength sum_i Omega_i (theta_i - last_i)^2   [Aljundi 2018, Eq. 4]

    The importances of all experiences add up; the anchor is that of the last one.

    Args:
        strength: lambda >= 0.
        num_examples: of each experience that its sensitivity is estimated from; None: all.

    Raises:
        SettingError: a setting outside its range.
    """

    needs_boundary = True

    def __init__(self, strength: float, num_examples: int | None = None) -> None:
        check_num_examples(num_examples)
        self.strength = check_strength("strength", strength)
        self.num_examples = num_examples
        self._pull = Pull()

    def compute_loss(
        self, model: nn.Module, batch: Batch, output: Tensor, loss: Loss = default_loss
    ) -> Tensor | None:
        """The pull to the last weights, scalar (); None before the first experience has ended."""
        distance = self._pull.measure(dict(model.named_parameters()))
        return None if distance is None else self.strength * distance

    def end_experience(self, model: nn.Module, loader: Iterable[object] | None = None) -> None:
        """Add the sensitivity on the loader and move the anchor to the weights as they are.

        Raises:
            DataError: no loader, or an empty one.
        """
        loader = require_loader(loader, "MAS", "measure how sensitive the output is")
        new = estimate_sensitivity(model, loader, num_examples=self.num_examples)
        total = add_importance(self._pull.importance, new)
        self._pull.move(total, dict(model.named_parameters()))

    def count_bytes(self) -> int:
        """Of the importance and the anchor."""
        return self._pull.count_bytes()

    def state_dict(self) -> dict[str, Any]:
        """The settings and the term."""
        return {"config": self._describe(), "pull": self._pull.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the method that was saved; ForeignSnapshot if it was built otherwise."""
        check_saved(state["config"], self._describe(), "retention method")
        self._pull.load_state_dict(state["pull"])

    def _describe(self) -> dict[str, object]:
        return {"kind": "mas", "strength": self.strength, "num_examples": self.num_examples}


def _sum_squares(output: Tensor, _: Tensor) -> Tensor:
    return output.square().sum()
