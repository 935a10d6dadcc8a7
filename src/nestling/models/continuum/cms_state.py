"""What a continuum memory system has written in the sequences that it is reading."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nestling.core.errors import CorruptSnapshot, ForeignSnapshot, SettingError, ShapeMismatch
from nestling.models.continuum.chunk_writes import Written

_FIELDS = Written._fields
_ABOUT = {"kind", "positions", "held"}  # what a saved state holds beside its tensors


@dataclass(frozen=True, slots=True)
class CMSState:
    """Fast state of a `CMS`: per sample, what each level has written; never shared or hidden.

    It goes into `CMS.read` and a new one comes out. Tensors that are absent stand for zeros.

    Args:
        kind: shape and clocks of the system that it belongs to.
        positions: of each sample, tokens read since its sequence began.
        levels: of each level, fastest first, what is in force and what waits.
    """

    kind: str
    positions: tuple[int, ...]
    levels: tuple[Written, ...]

    def detach(self) -> "CMSState":
        """The same values, without the graph of how they came about."""
        return CMSState(
            self.kind,
            self.positions,
            tuple(
                Written(*(None if part is None else part.detach() for part in level))
                for level in self.levels
            ),
        )

    def select(self, rows: Sequence[int]) -> "CMSState":
        """The state of some samples, in the order given.

        Raises:
            SettingError: a row that is not there.
        """
        size = len(self.positions)
        if any(not 0 <= row < size for row in rows):
            raise SettingError(f"rows={list(rows)} of a state of {size} samples; 0 to {size - 1}")
        return CMSState(
            self.kind,
            tuple(self.positions[row] for row in rows),
            tuple(
                Written(*(None if part is None else part[list(rows)] for part in level))
                for level in self.levels
            ),
        )

    def reset(self, rows: Sequence[int]) -> "CMSState":
        """A state in which some samples begin a new sequence, the others go on.

        Raises:
            SettingError: a row that is not there.
        """
        self.select(rows)
        keep_B = torch.ones(len(self.positions), dtype=torch.bool, device="cpu")
        keep_B[list(rows)] = False
        return CMSState(
            self.kind,
            tuple(0 if row in rows else at for row, at in enumerate(self.positions)),
            tuple(
                Written(
                    *(
                        None if part is None else part * keep_B.to(part)[:, None, None]
                        for part in level
                    )
                )
                for level in self.levels
            ),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name, for safetensors or a checkpoint; `load_cms_state` reads them."""
        found = {
            f"{index}.{name}": part.detach().contiguous()
            for index, level in enumerate(self.levels)
            for name, part in zip(_FIELDS, level, strict=True)
            if part is not None
        }
        # A tensor that is not held is a start that has not moved: say which are, so that one which
        # is lost on the way is missed.
        held = ",".join(found).encode()
        found["held"] = torch.tensor(list(held), dtype=torch.uint8, device="cpu")
        found["positions"] = torch.tensor(self.positions, dtype=torch.int64, device="cpu")
        found["kind"] = torch.tensor(list(self.kind.encode()), dtype=torch.uint8, device="cpu")
        return found


def load_cms_state(tensors: Mapping[str, Tensor]) -> CMSState:
    """The state that `CMSState.state_dict` saved.

    Args:
        tensors: name -> tensor; kept, not copied.

    Raises:
        CorruptSnapshot: names that are missing or unknown, or shapes that do not fit together.
    """
    try:
        kind = bytes(tensors["kind"].tolist()).decode()
        positions = tuple(int(at) for at in tensors["positions"].tolist())
        held = [name for name in bytes(tensors["held"].tolist()).decode().split(",") if name]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptSnapshot(f"no state of a CMS ({error}); save it by state_dict()") from None
    num_levels = kind.count(",") + 1
    names = [(f"{index}.{name}", index) for index in range(num_levels) for name in _FIELDS]
    unknown = sorted(set(tensors) - {name for name, _ in names} - _ABOUT)
    if unknown:
        raise CorruptSnapshot(f"tensors {unknown} belong to no level of {kind!r}")
    if lost := [name for name in held if name not in tensors]:
        raise CorruptSnapshot(f"tensors {lost} of the state of {kind!r} are missing")
    for name, tensor in tensors.items():
        if name not in _ABOUT and tensor.shape[:1] != (len(positions),):
            raise CorruptSnapshot(
                f"{name} has shape {tuple(tensor.shape)}, for {len(positions)} samples"
            )
    levels = [
        Written(*(tensors.get(f"{index}.{name}") for name in _FIELDS))
        for index in range(num_levels)
    ]
    return CMSState(kind, positions, tuple(levels))


def check_state(state: object, kind: str, num_samples: int, shape: tuple[int, int]) -> CMSState:
    """The state, if it belongs to this system and batch.

    Raises:
        SettingError: not a state.
        ForeignSnapshot: of another system.
        ShapeMismatch: of another number of samples.
    """
    if not isinstance(state, CMSState):
        raise SettingError(f"state={type(state).__name__}; give what `read` returned, or None")
    if state.kind != kind:
        raise ForeignSnapshot(f"a state of {state.kind!r} given to {kind!r}; begin with state=None")
    if len(state.positions) != num_samples:
        raise ShapeMismatch(
            f"a state of {len(state.positions)} samples for a batch of {num_samples}; "
            "`state.select(rows)` picks samples"
        )
    parts = [part for level in state.levels for part in level if part is not None]
    wrong = [tuple(part.shape) for part in parts if part.shape != (num_samples, *shape)]
    if wrong:
        raise ShapeMismatch(f"a state of shape {wrong[0]}; {(num_samples, *shape)} works")
    return state


def merge_states(states: Sequence[CMSState], rows: Sequence[Sequence[int]]) -> CMSState:
    """One state of the parts of a batch.

    Args:
        states: of each part, all of the same kind.
        rows: of each part, where its samples stand in the batch; together 0 to B - 1.
    """
    order = [row for part in rows for row in part]
    back = sorted(range(len(order)), key=order.__getitem__)
    positions = [at for state in states for at in state.positions]
    levels = []
    for index in range(len(states[0].levels)):
        parts: list[Tensor | None] = []
        for field in range(len(_FIELDS)):
            found = [state.levels[index][field] for state in states]
            shown = next((tensor for tensor in found if tensor is not None), None)
            if shown is None:
                parts.append(None)
                continue
            whole_BDH = torch.cat(
                [
                    shown.new_zeros(len(state.positions), *shown.shape[1:])
                    if tensor is None
                    else tensor
                    for state, tensor in zip(states, found, strict=True)
                ]
            )
            parts.append(whole_BDH[back])
        levels.append(Written(*parts))
    return CMSState(states[0].kind, tuple(positions[place] for place in back), tuple(levels))
