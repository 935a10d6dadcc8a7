"""A model under examination: always a copy, called alike whatever its style."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from nestling.core.arguments import name_kind
from nestling.core.errors import ModelError, NonFiniteInput, SettingError, ShapeMismatch
from nestling.core.modes import copy_module
from nestling.doctor.hidden_state import list_held
from nestling.levels.assign import unwrap
from nestling.models import StackedLevels

Examinable = nn.Module | StackedLevels
# Second argument of a model in explicit-state style.
_STATE_NAMES = frozenset(
    {"state", "memory_state", "memory", "hidden", "hidden_state", "hx", "cache", "past", "carry"}
)
Mode = Literal["train", "eval"]


@dataclass(frozen=True)
class ExaminedModel:
    """A model, the inputs it is examined on, and how it is called.

    Args:
        source: never called itself where that could change it: checks take `copy()`.
        x: (N, ...) inputs.
        seed: of random numbers drawn within a call.
        method: "forward" or "read".
        has_state: whether a state goes in and out.
        takes_write: whether a call can be told to write.
        is_sequence: whether x is (N, T, C) floats or (N, T) integers and the output has an axis T.
    """

    source: Examinable
    x: Tensor
    seed: int = 0
    method: str = "forward"
    has_state: bool = False
    takes_write: bool = False
    is_sequence: bool = False

    @property
    def module(self) -> nn.Module:
        """The module that holds the parameters."""
        return self.source.model if isinstance(self.source, StackedLevels) else self.source

    @property
    def learns_by_itself(self) -> bool:
        """Whether its outputs carry no gradient, since all that it writes it writes itself."""
        return isinstance(self.source, StackedLevels)

    def without_graph(self) -> AbstractContextManager[object]:
        """No gradients for a block of calls, unless the model's own writes need them."""
        return nullcontext() if self.learns_by_itself else torch.no_grad()

    def copy(self, mode: Mode = "train") -> "ExaminedModel":
        """The same on a deep copy of the model, in training or evaluation mode."""
        source = copy_source(self.source)
        made = replace(self, source=source)
        made.module.train(mode == "train")
        return made

    def call(
        self, x: Tensor, state: object = None, *, write: bool | None = None, salt: int = 0
    ) -> tuple[Tensor, object]:
        """Output and new state; random numbers depend on the seed and `salt` only.

        Args:
            x: inputs.
            state: what the last call returned; None to begin.
            write: told to models that take it; None for their own choice.
            salt: another number draws other random numbers.
        """
        function: Callable[..., object] = (
            self.source if self.method == "forward" else getattr(self.source, self.method)  # type: ignore[assignment]
        )
        words = {} if write is None or not self.takes_write else {"write": write}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 7919 * salt)
            found = function(x, state, **words) if self.has_state else function(x, **words)
        y, new = find_output(found)
        return y, new if self.has_state else None


def copy_source(source: Examinable) -> Examinable:
    """A deep copy; ModelError if it cannot be copied."""
    try:
        if isinstance(source, StackedLevels):
            return replace(source, model=copy_module(source.model))
        return copy_module(source)
    except Exception as error:
        raise ModelError(
            f"{type(source).__name__} cannot be copied, and the doctor works on copies only: "
            f"{_tell(error)}; make copy.deepcopy(model) work"
        ) from error


def prepare_model(source: object, x: Tensor, *, seed: int = 0) -> tuple[ExaminedModel, Tensor]:
    """Find out how a model is called, by calling a copy of it once.

    Args:
        source: a module, or what `stack_levels` made.
        x: (N, ...) inputs.
        seed: of random numbers within calls.

    Returns: the model under examination and its first output.

    Raises:
        SettingError: no model, or one without parameters.
        ModelError: it cannot be copied, or raises on these inputs.
        NonFiniteInput: it answers NaN or infinity.
        ShapeMismatch: its output has another number of samples.
    """
    if not isinstance(source, nn.Module | StackedLevels):
        raise SettingError(
            f"the model is {name_kind(source)}; a torch.nn.Module or what nl.stack_levels made "
            "works"
        )
    if isinstance(source, nn.Module):
        source = unwrap(source)
    if not getattr(source, "batch_first", True):
        raise SettingError(
            f"{type(source).__name__} has the samples second; batch_first=True works"
        )
    check_parameters(source)
    if not isinstance(x, Tensor) or x.dim() < 1 or not x.numel():
        raise ShapeMismatch("the inputs are no tensor of at least one sample; (32, 64) works")
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise NonFiniteInput("NaN or infinity in the inputs of the examination; mend them")
    subject = ExaminedModel(source, x, seed)
    method, state_word, takes_write = _read_signature(source)
    if any(isinstance(p, nn.UninitializedParameter) for p in subject.module.parameters()):
        subject = subject.copy()
        _call_first(subject, own=True)  # lazy layers take their shape
    subject = replace(subject, method=method, has_state=state_word, takes_write=takes_write)
    y, new = _call_first(subject)
    if state_word and not list_held(new):
        subject = replace(subject, has_state=False)  # it can take one but gives none
    if y.dim() == 0 or len(y) != len(x):
        raise ShapeMismatch(
            f"the model gave shape {tuple(y.shape)} for inputs of shape {tuple(x.shape)}; "
            "an output with one row per sample works"
        )
    if not bool(torch.isfinite(y).all()):
        raise NonFiniteInput(
            f"the model answers NaN or infinity in {int((~torch.isfinite(y)).sum())} of "
            f"{y.numel()} outputs on finite inputs; mend its forward pass first"
        )
    axes = 3 if x.is_floating_point() else 2
    is_sequence = x.dim() == axes and y.dim() >= 3 and y.shape[1] == x.shape[1] > 1
    return replace(subject, is_sequence=is_sequence), y.detach()


def check_parameters(source: Examinable) -> None:
    """Raise SettingError if a model has no parameters."""
    module = source.model if isinstance(source, StackedLevels) else source
    if next(module.parameters(), None) is None:
        raise SettingError(f"{type(module).__name__} has no parameters: nothing in it can learn")


def find_output(found: object) -> tuple[Tensor, object]:
    """The output among what a model returned, and what came with it.

    Raises:
        ModelError: no tensor among it.
    """
    if isinstance(found, Tensor):
        return found, None
    if isinstance(found, tuple) and found and isinstance(found[0], Tensor):
        return found[0], found[1] if len(found) == 2 else found[1:]
    logits = found.get("logits") if isinstance(found, Mapping) else getattr(found, "logits", None)
    if isinstance(logits, Tensor):
        return logits, None
    raise ModelError(
        f"the model returned {name_kind(found)}; a tensor, a tuple of a tensor and a state, or "
        "`logits` works"
    )


def _call_first(subject: ExaminedModel, *, own: bool = False) -> tuple[Tensor, object]:
    """The first call, of a copy unless it is `own`; what it raises is the user's to mend."""
    x = subject.x
    one = subject if own else subject.copy()
    try:
        return one.call(x)
    except ModelError:
        raise
    except Exception as error:
        fix = "give inputs that it takes"
        if x.is_floating_point() and any(isinstance(m, nn.Embedding) for m in one.module.modules()):
            fix += "; it has an embedding: for tokens make_inputs(shape, tokens=256), or --tokens"
        raise ModelError(
            f"{type(subject.source).__name__} raised {_tell(error)} on inputs of shape "
            f"{tuple(x.shape)} and {x.dtype}; {fix}"
        ) from error


def _read_signature(source: Examinable) -> tuple[str, bool, bool]:
    """Which method is called, whether it takes a state, and whether it can be told to write."""
    for method in ("read", "forward"):
        function = getattr(source, method, None)
        if not callable(function):
            continue
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):  # some are written in C
            continue
        names = list(parameters)
        has_state = len(names) > 1 and names[1] in _STATE_NAMES
        if method == "read" and not has_state:
            continue  # it reads something else
        return method, has_state, "write" in parameters
    return "forward", False, False


def _tell(error: Exception) -> str:
    """Kind and first words of an error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
