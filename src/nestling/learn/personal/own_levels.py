"""All levels of one person: how large they may be, what they answer, their state.

Letters: R rows, D features of the common memory, d of them that the person's memory knows, K
classes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from nestling.core.errors import SettingError, UnknownLabel
from nestling.core.params import flatten_tensors
from nestling.learn.personal.own_adapter import OwnAdapter
from nestling.learn.personal.own_gate import OwnGate, Voices
from nestling.learn.personal.own_memory import OwnMemory
from nestling.learn.personal.spine import Asked

# 256 features gave .911 and .964 after 100 and 300 examples of a person, 300 .918 and .967, all
# 1,400 .93 and .97. With fewer than the least a memory tells next to nothing.
MOST_FEATURES, LEAST_FEATURES = 300, 16
# Classes that the model has no output for; so many must find room.
NUM_FURTHER_CLASSES = 16

AnyOwn = OwnMemory | OwnAdapter | OwnGate


class OwnLevels(Mapping[str, AnyOwn]):
    """A person's memory, adapter and gate by name; each can be read.

    Args:
        num_features: d.
        num_outputs: K to begin with.
        num_head_inputs: of the head that is adapted; None for no adapter.
        switch_rate: of the gate.
    """

    def __init__(
        self, num_features: int, num_outputs: int, num_head_inputs: int | None, switch_rate: float
    ) -> None:
        self.memory = OwnMemory(num_features, num_outputs)
        self.adapter = None if num_head_inputs is None else OwnAdapter(num_head_inputs, num_outputs)
        self.gate = OwnGate(switch_rate, num_outputs, has_adapter=self.adapter is not None)

    def __getitem__(self, name: str) -> AnyOwn:
        return self._join()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._join())

    def __len__(self) -> int:
        return len(self._join())

    def _join(self) -> dict[str, AnyOwn]:
        adapter: dict[str, AnyOwn] = {} if self.adapter is None else {"adapter": self.adapter}
        return {"memory": self.memory, **adapter, "gate": self.gate}

    def ask(self, phi_Rd: Tensor, asked: Asked) -> Voices | None:
        """What all who may know answer to rows; None if nobody does but the common learner.

        Args:
            phi_Rd: (R, d).
            asked: what the shared levels say of the same rows.
        """
        own = self.memory.foresee(phi_Rd)
        if own is None:
            return None
        adapted = None
        if self.adapter is not None:
            assert asked.head is not None
            assert asked.given is not None
            adapted = self.adapter.answer(asked.head, asked.given)
        return Voices.join(own, asked.common, asked.known, adapted, self.gate.refuted)

    def learn(
        self, phi_Rd: Tensor, asked: Asked, voices: Voices | None, label_R: Tensor, weight_R: Tensor
    ) -> None:
        """Learn rows, after the gate has heard of them.

        Args:
            phi_Rd, asked: as in `ask`.
            voices: what `ask` gave.
            label_R: (R,).
            weight_R: (R,) for the memory.
        """
        if voices is None:
            self.gate.count(len(label_R))
        else:
            self.gate.observe(voices, label_R)
        self.memory.learn(phi_Rd, label_R, weight_R)
        if self.adapter is not None:
            assert asked.head is not None
            assert asked.given is not None
            self.adapter.learn(asked.head, asked.given, label_R)

    @property
    def num_bytes(self) -> int:
        """Of all tensors of the state."""
        fixed = count_bytes({name: level.state_dict() for name, level in self._fast().items()})
        return fixed + count_memory_bytes(self.memory.num_features, self.memory.num_classes)

    def _fast(self) -> dict[str, AnyOwn]:
        return {name: level for name, level in self._join().items() if name != "memory"}

    def check_growth(self, num_outputs: int, max_bytes: int) -> None:
        """Raise UnknownLabel if so many classes would take more room than there is."""
        extra = num_outputs - self.memory.num_classes
        if extra <= 0:
            return
        per_class = count_memory_bytes(self.memory.num_features, 1)
        per_class -= count_memory_bytes(self.memory.num_features, 0)
        per_class += self.gate.refuted.element_size()
        if self.adapter is not None:
            per_class += 3 * self.adapter.B.shape[1] * self.adapter.B.element_size()
        room = (max_bytes - self.num_bytes) // per_class
        if extra > room:
            raise UnknownLabel(
                f"label {num_outputs - 1}, but max_bytes={max_bytes:,} has room for "
                f"{self.memory.num_classes + max(room, 0)} classes; number classes 0, 1, 2, ..., "
                "or give the person more room"
            )

    def state_dict(self) -> dict[str, Any]:
        """Level -> state; tensors are copies."""
        return {name: level.state_dict() for name, level in self._join().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, level by level; may raise with half of it done."""
        if state.keys() != self._join().keys():
            raise ValueError(f"levels {sorted(state)}, not {sorted(self._join())}")
        for name, level in self._join().items():
            level.load_state_dict(state[name])


def make_own_levels(
    num_shared: int,
    num_outputs: int,
    num_head_inputs: int | None,
    switch_rate: float,
    max_bytes: int,
) -> OwnLevels:
    """Levels with a memory of as many features as there is room for, 300 at most, beside 16 classes
    more than the model has.

    Args:
        num_shared: D, features of the common memory.
        num_outputs: K of the model.
        num_head_inputs: as in `OwnLevels`.
        switch_rate: as in `OwnLevels`.
        max_bytes: of the whole state.

    Raises:
        SettingError: there is not room for 16 features.

    >>> make_own_levels(1400, 10, None, 1e-3, 1_000_000).memory.num_features
    300
    """
    least, most_outputs = min(num_shared, LEAST_FEATURES), num_outputs + NUM_FURTHER_CLASSES
    beside = OwnLevels(1, most_outputs, num_head_inputs, switch_rate)
    num_beside = beside.num_bytes - count_memory_bytes(1, most_outputs)
    fitting = (
        d
        for d in range(min(num_shared, MOST_FEATURES), least - 1, -1)
        if num_beside + count_memory_bytes(d, most_outputs) <= max_bytes
    )
    num_features = next(fitting, None)
    if num_features is None:
        wanted = num_beside + count_memory_bytes(least, most_outputs)
        raise SettingError(
            f"max_bytes={max_bytes:,} has no room for a memory of {num_outputs} classes and 16 "
            f"more; {wanted:,} or more works"
        )
    return OwnLevels(num_features, num_outputs, num_head_inputs, switch_rate)


def read_own_levels(
    state: Mapping[str, Any], num_shared: int, num_head_inputs: int | None, switch_rate: float
) -> OwnLevels:
    """Levels from their state; arguments as in `make_own_levels`.

    Raises:
        ValueError, KeyError: they are of other sizes, or of none.
    """
    values = state["memory"]["values"]
    d, K = len(values["mean"]), len(values["target_sum"])
    if d > num_shared:
        raise ValueError(f"{d} of {num_shared} features")
    own = OwnLevels(d, K, num_head_inputs, switch_rate)
    own.load_state_dict(state)
    return own


def count_memory_bytes(num_features: int, num_outputs: int) -> int:
    """Bytes of the tensors of an `OwnMemory`'s state.

    >>> memory = OwnMemory(7, 3)
    >>> count_bytes(memory.state_dict()) == count_memory_bytes(7, 3)
    True
    """
    d, K = num_features, num_outputs
    return 8 * (d * (d + 1) // 2 + d * K + 4 * d + 3 * K)


def count_bytes(state: object) -> int:
    """Bytes of all tensors of a nested state."""
    return sum(value.numel() * value.element_size() for value in flatten_tensors(state).values())
