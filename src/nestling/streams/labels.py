"""The labels of a stream, as they appear: plain values in, the same values of their types out."""

from collections.abc import Mapping
from typing import Any

from nestling.core.errors import DataError, UnknownLabel

Label = str | int | bool


class SeenLabels:
    """Number the labels of a stream in the order in which they appear, and keep their types.

    A label is a str, an int, a bool, or a float that is whole (1.0 is the label 1); numpy's and
    torch's scalars are the plain values that they hold. True, 1 and "1" are three labels: types
    are told apart, so that a prediction has the type of what was learned.

    >>> import numpy as np
    >>> labels = SeenLabels()
    >>> [labels.admit(one) for one in ("spam", 1, True, "1", np.int64(1), 1.0)]
    [0, 1, 2, 3, 1, 1]
    >>> labels.labels, labels.find("ham"), labels[2]
    (['spam', 1, True, '1'], None, True)
    """

    def __init__(self) -> None:
        self._labels: list[Label] = []
        self._places: dict[tuple[type, Label], int] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, place: int) -> Label:
        return self._labels[place]

    @property
    def labels(self) -> list[Label]:
        """All labels seen, in their order."""
        return list(self._labels)

    def find(self, label: object) -> int | None:
        """The place of a label; None if it was never seen.

        Raises:
            UnknownLabel: no value that can be a label.
        """
        plain = read_label(label)
        return self._places.get((type(plain), plain))

    def admit(self, label: object) -> int:
        """The place of a label, which is the next one if it was never seen.

        Raises:
            UnknownLabel: no value that can be a label; nothing changed then.
        """
        plain = read_label(label)
        place = self._places.setdefault((type(plain), plain), len(self._labels))
        if place == len(self._labels):
            self._labels.append(plain)
        return place

    def state_dict(self) -> dict[str, Any]:
        """As plain data for JSON, which tells these types apart."""
        return {"labels": self.labels}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            DataError: a label stands twice, or is none; nothing changed then.
        """
        labels = [read_label(label) for label in state["labels"]]
        places = {(type(label), label): place for place, label in enumerate(labels)}
        if len(places) < len(labels):
            raise DataError("a label stands twice in the state of a stream's labels")
        self._labels, self._places = labels, places


def read_label(label: object) -> Label:
    """A label as a plain str, int or bool.

    Raises:
        UnknownLabel: None, NaN, a number that is not whole, a list, a dict or an array.

    >>> import numpy as np
    >>> read_label(np.float32(3)), read_label(np.str_("up"))
    (3, 'up')
    """
    if type(label) in (str, int, bool):
        return label  # type: ignore[return-value]
    plain = label
    if hasattr(label, "item") and getattr(label, "ndim", 1) == 0:
        plain = label.item()
    if isinstance(plain, bool):
        return plain
    if isinstance(plain, str):
        return str.__str__(plain)
    if isinstance(plain, int):
        return int(plain)
    if isinstance(plain, float) and plain.is_integer():
        return int(plain)
    raise UnknownLabel(
        f"label {str(label)[:60]!r} of type {type(label).__name__}; "
        "give a text, a whole number or a bool"
    )
