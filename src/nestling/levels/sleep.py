"""A sleep level at work: integer sums of each class's inputs, from which dreams can be drawn."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor

from nestling.core.batches import Batch
from nestling.core.errors import DataError, MismatchedParameters, ShapeMismatch
from nestling.core.params import digest_tensors, flatten_tensors
from nestling.levels.control import Knobs, WaitingChanges, turn_sleep
from nestling.levels.events import Change, Event
from nestling.levels.level import Clock, check_kind
from nestling.levels.readings import LevelReading
from nestling.levels.spec import Sleep, dump_spec, load_spec
from nestling.memory.exact.class_sums import NUM_CODES, ClassSums

_LOGGER = logging.getLogger("nestling")
# Products of all pairs are kept for each class: 67 MB a class at this size.
MAX_INPUTS = 4_096
# Share of values beyond the bounds from which on it is said, once.
_MANY = 0.01


@dataclass(frozen=True)
class Seen:
    """A checked batch as a sleep level takes it in.

    Args:
        codes: (N, D) uint8, 0 to 127.
        labels: (N,) int64.
        shape: of an input.
        dtype: of an input.
        num_clipped: values that lay beyond the bounds.
    """

    codes: Tensor
    labels: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    num_clipped: int


class SleepLevel:
    """One sleep level of a learner; its sums are made when the first inputs arrive.

    Args:
        spec: what the plan says.
    """

    def __init__(self, spec: Sleep) -> None:
        self.spec = spec
        self.sums: ClassSums | None = None
        self.shape: tuple[int, ...] = ()
        self.dtype: torch.dtype = torch.float32
        self.num_clipped = 0
        # Times that it was slept and the result was kept.
        self.num_kept = 0
        self.events: list[Event] = []
        self.changes: WaitingChanges[Sleep] = WaitingChanges(turn_sleep)
        self.seconds = 0.0

    def check(
        self, batch: Batch, labels_N: Tensor, weight: Tensor | Sequence[float] | None
    ) -> Seen:
        """Raise what `learn` would raise, with nothing changed; else what `learn` takes.

        Args:
            batch: N examples, of one input each.
            labels_N: (N,) classes.
            weight: (N,): those of weight 0 are left out, all others count once; None: all count.

        Raises:
            DataError: several inputs or indices, values as targets, a label per position, or an
                input that is too large.
            ShapeMismatch: an input of another shape than before.
        """
        name = self.spec.name
        if len(batch.inputs) != 1 or batch.keywords:
            raise DataError(
                f"sleep {name!r} dreams of one input without a name, got "
                f"{', '.join(batch.features)}; leave nl.Sleep out of the plan of such a model"
            )
        (x,) = batch.inputs
        if not x.is_floating_point() and x.dtype != torch.uint8:
            raise DataError(
                f"sleep {name!r} dreams of numbers, got {x.dtype} indices; leave nl.Sleep out of "
                "the plan of such a model"
            )
        if labels_N.is_floating_point() or len(labels_N) != len(x):
            raise DataError(
                f"sleep {name!r} dreams of classes, one for each input; the targets are "
                + ("values" if labels_N.is_floating_point() else f"{len(labels_N)} for {len(x)}")
                + "; leave nl.Sleep out of the plan"
            )
        shape, num_inputs = tuple(x.shape[1:]), math.prod(x.shape[1:])
        if self.sums is not None and shape != self.shape:
            raise ShapeMismatch(
                f"sleep {name!r} sums inputs of shape {self.shape}, got {shape}; bring them to one "
                "shape"
            )
        if not 1 <= num_inputs <= MAX_INPUTS:
            raise DataError(
                f"sleep {name!r} keeps products of all pairs of an input's {num_inputs} values; 1 "
                f"to {MAX_INPUTS:,} work: give smaller inputs, or features of an encoder"
            )
        low, high = self.spec.bounds
        scaled_ND = x.detach().cpu().reshape(len(x), num_inputs).to(torch.float32)
        scaled_ND = (scaled_ND - low).mul_((NUM_CODES - 1) / (high - low)).round_()
        num_clipped = 0
        least, greatest = scaled_ND.aminmax() if len(x) else (scaled_ND.sum(), scaled_ND.sum())
        if float(least) < 0.0 or float(greatest) > NUM_CODES - 1:
            num_clipped = int(((scaled_ND < 0.0) | (scaled_ND > NUM_CODES - 1)).sum())
            scaled_ND.clamp_(0, NUM_CODES - 1)
        codes_ND, labels_N = scaled_ND.to(torch.uint8), labels_N.cpu()
        if weight is not None:
            kept_N = torch.as_tensor(weight, device="cpu") > 0
            codes_ND, labels_N = codes_ND[kept_N], labels_N[kept_N]
        return Seen(codes_ND, labels_N, shape, x.dtype, num_clipped)

    def learn(self, seen: Seen) -> None:
        """Take in what `check` gave."""
        started = time.perf_counter()
        if self.sums is None:
            self.sums = ClassSums(math.prod(seen.shape))
            self.shape, self.dtype = seen.shape, seen.dtype
        self.sums.add(seen.codes, seen.labels)
        if self.num_clipped == 0 and seen.num_clipped > _MANY * seen.codes.numel():
            low, high = self.spec.bounds
            _LOGGER.warning(
                "sleep %r: %d of %d values lie beyond bounds (%g, %g) and count as the bound; "
                "give nl.Sleep(..., bounds=...) the least and the greatest value",
                *(self.spec.name, seen.num_clipped, seen.codes.numel(), low, high),
            )
        self.num_clipped += seen.num_clipped
        self.seconds += time.perf_counter() - started

    def restore_inputs(self, codes_ND: Tensor) -> Tensor:
        """Inputs as the model takes them, of codes: (N, D) -> (N, ...)."""
        low, high = self.spec.bounds
        x_ND = low + codes_ND.to(torch.float32) * ((high - low) / (NUM_CODES - 1))
        if not self.dtype.is_floating_point:
            x_ND = x_ND.round()
        return x_ND.to(self.dtype).reshape(len(codes_ND), *self.shape)

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing to dream of."""
        return self.sums is None or self.sums.num_examples == 0

    @property
    def clock(self) -> Clock:
        """Examples that arrived so far; its updates are the times that it taught."""
        num_examples = 0 if self.sums is None else self.sums.num_examples
        return Clock("examples", num_ticks=num_examples, num_updates=self.num_kept)

    def read(self) -> LevelReading:
        """How it stands."""
        sums, clock = self.sums, self.clock
        num = 0 if sums is None else sums.histograms.numel() + sums.moments.numel()
        return LevelReading(
            level=self.spec.name,
            kind="sleep",
            num_parameters=num,
            share=0.0,
            period=1,
            age=0,
            num_steps=clock.num_ticks,
            num_updates=clock.num_updates,
            seconds=self.seconds,
        )

    def control(self, *, reason: str, **knobs: Unpack[Knobs]) -> Change:
        """Turn knobs of the next sleep: its dreams, steps and what is taught."""
        tick = self.clock.num_ticks
        change = self.changes.ask(self.spec, dict(knobs), reason, tick)
        self.spec = self.changes.take(tick)[-1].spec  # between two examples lies a boundary
        self.events.append(change)
        return change

    def tensors(self) -> dict[str, Tensor]:
        """Its sums by dotted names; copies."""
        return {} if self.sums is None else flatten_tensors(self.sums.state_dict())

    def digest(self) -> str:
        """The sha256 of its tensors, names, shapes and dtypes included."""
        return digest_tensors(self.tensors())

    def state_dict(self) -> dict[str, Any]:
        """The sums and what the inputs were like; tensors are copies."""
        return {
            "spec": dump_spec(self.spec),
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "num_clipped": self.num_clipped,
            "num_kept": self.num_kept,
            "seconds": self.seconds,
            "sums": None if self.sums is None else self.sums.state_dict(),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise what `load_state_dict` would raise; nothing is changed."""
        self._read_state(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the level that was saved, in this learner or another of the same plan.

        Raises:
            MismatchedParameters: it is of another plan; nothing is changed.
        """
        self.spec, self.sums = self._read_state(state)
        self.shape, self.dtype = tuple(state["shape"]), getattr(torch, state["dtype"])
        self.num_clipped, self.num_kept = state["num_clipped"], state["num_kept"]
        self.seconds = state["seconds"]

    def _read_state(self, state: Mapping[str, Any]) -> tuple[Sleep, ClassSums | None]:
        keys = {"shape", "dtype", "num_clipped", "num_kept", "seconds", "sums"}
        check_kind(state, self.spec, keys)
        spec = load_spec(state["spec"], self.spec)
        assert isinstance(spec, Sleep)
        live = self.spec
        turned = replace(
            spec,
            num_inputs=live.num_inputs,
            epochs=live.epochs,
            batch_size=live.batch_size,
            temperature=live.temperature,
            class_share=live.class_share,
        )
        if turned != live:
            raise MismatchedParameters(
                f"sleep {live.name!r} was saved as {spec}, this plan has {live}; restore it with "
                "the plan it was saved with"
            )
        if not isinstance(getattr(torch, str(state["dtype"]), None), torch.dtype):
            raise MismatchedParameters(
                f"sleep {live.name!r} was saved with inputs of {state['dtype']!r}; 'float32' works"
            )
        if state["sums"] is None:
            return spec, None
        sums = ClassSums(math.prod(state["shape"]))
        sums.load_state_dict(state["sums"])
        return spec, sums
