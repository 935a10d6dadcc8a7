"""Copies of a model for those who only read, made anew where it changed."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from nestling.core.modes import copy_module

_PLAIN = (int, float, bool, str, bytes)
# Of a module: its weights and parts are looked at by themselves, and a copy always answers.
_APART = {"_parameters", "_buffers", "_modules", "training"}


class _Kept(NamedTuple):
    """A tensor of a model, when it was copied, and the copy."""

    source: Tensor
    version: tuple[int, int]
    copied: Tensor


class ModelKeeper:
    """Keeps a copy of a model that answers and never changes; gives another when the model moved.

    Weights are copied module by module, where one was replaced, written to (torch counts that), or
    belongs to a level that was updated. Where nothing changed the copy is the one before.

    Args:
        shares: the model's weights are never written to: the copy has the very same.

    >>> keeper, model = ModelKeeper(), nn.Linear(1, 1)
    >>> held = keeper.hold(model)
    >>> keeper.hold(model) is held
    True
    >>> _ = nn.init.ones_(model.bias)
    >>> float(keeper.hold(model).bias), bool(held.bias == 1.0)
    (1.0, False)
    """

    def __init__(self, *, shares: bool = False) -> None:
        self.shares = shares
        self._kept: dict[int, _Kept] = {}
        self._marks: list[object] = []
        self._module: nn.Module | None = None

    def hold(
        self,
        model: nn.Module,
        values: Mapping[str, Tensor] | None = None,
        updates: Mapping[int, int] | None = None,
    ) -> nn.Module:
        """The model as it answers now.

        Args:
            model: left untouched.
            values: parameters and buffers by name that stand in for its own.
            updates: id of a parameter -> how often its level was updated: an optimizer may write
                where torch does not see it.

        Returns: a module in evaluation mode, to be read only, that shares nothing with the model
            that may change.
        """
        own: dict[int, _Kept] = {}
        stand_ins = _find_stand_ins(model, values or {})
        marks: list[object] = [model]
        is_same = self._module is not None
        for module in model.modules():
            marks += _list_marks(module)
            tensors = list(_list_tensors(module))
            found = []
            for tensor in tensors:
                source = stand_ins.get(id(tensor), tensor)
                count = (updates or {}).get(id(tensor), 0)
                found.append((tensor, source, (_read_version(source), count)))
            # Together: running statistics are written where torch does not count it, the number of
            # batches beside them is counted.
            is_told = self.shares or not _writes_unseen(module)
            if is_told and all(self._is_same(*one) for one in found):
                own |= {id(tensor): self._kept[id(tensor)] for tensor, _, _ in found}
                continue
            is_same = False
            for tensor, source, version in found:
                if id(tensor) not in own:  # it may be tied to another module's
                    own[id(tensor)] = _Kept(source, version, self._copy(tensor, source))
        is_same = is_same and are_same(marks, self._marks)
        if self._module is None or not is_same:
            memo: dict[int, Any] = {key: kept.copied for key, kept in own.items()}
            self._module = copy_module(model, memo).eval()
        self._kept, self._marks = own, marks
        return self._module

    def _is_same(self, tensor: Tensor, source: Tensor, version: tuple[int, int]) -> bool:
        kept = self._kept.get(id(tensor))
        if kept is None or kept.source is not source or version[0] < 0:
            return False
        return kept.version == version

    def _copy(self, tensor: Tensor, source: Tensor) -> Tensor:
        if self.shares:
            return source
        copied = source.detach().clone()
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(copied, requires_grad=False)
        return copied


def _writes_unseen(module: nn.Module) -> bool:
    """Whether it writes running statistics without counting batches beside them."""
    if not isinstance(module, nn.modules.batchnorm._NormBase) or module.running_mean is None:
        return False
    counts = not isinstance(module, nn.modules.instancenorm._InstanceNorm)
    return not counts or module.num_batches_tracked is None


def _read_version(tensor: Tensor) -> int:
    """How often a tensor was written to, as far as torch knows; -1 where it does not count."""
    return -1 if tensor.is_inference() else tensor._version


def _find_stand_ins(model: nn.Module, values: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Id of a model's tensor -> what stands in for it, under each of its names."""
    if not values:
        return {}
    own: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    own |= dict(model.named_buffers(remove_duplicate=False))
    return {id(own[name]): value for name, value in values.items() if name in own}


def _list_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers of a module itself, and tensors that it has as plain attributes."""
    for group in (module._parameters, module._buffers):
        yield from (tensor for tensor in group.values() if tensor is not None)
    yield from (value for value in vars(module).values() if isinstance(value, Tensor))


def _list_marks(module: nn.Module) -> Iterator[object]:
    """What tells whether a module is built as it was: its attributes, and how many are in each."""
    yield from (*module._parameters, *module._buffers, *module._modules.values())
    for name, value in vars(module).items():
        if name in _APART or isinstance(value, Tensor):
            continue
        yield value
        if isinstance(value, dict | list | set):
            yield len(value)


def are_same(now: list[object], before: list[object]) -> bool:
    """Whether two lists hold the same objects, or equal numbers and texts."""
    return len(now) == len(before) and all(
        a is b or (type(a) is type(b) and isinstance(a, _PLAIN) and a == b)
        for a, b in zip(now, before, strict=True)
    )
