"""Who the rows are of that were learned last: a register of sources, and a window of rows.

Axis letters: S sources, N rows.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat

from nestling.protect.influence.influence_rules import find_surplus

NOBODY = 0  # the number of who has the places of a window that are still empty


class SourceRegister:
    """Numbers of sources, from 1 on, so that what is known of them lies in arrays.

    Attributes:
        numbers: source -> number.
        names: number -> source; "" is nobody.
        edition: changes with the number of any source.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.names: list[str] = [""]
        self.edition = 0

    def find(self, sources: object, num_rows: int) -> list[int] | None:
        """The number of each row's source; None if one is unknown, or not to be read.

        Args:
            sources: one text for all rows, or one for each.
            num_rows: N.
        """
        try:
            if isinstance(sources, str):
                return [self.numbers[sources]] * num_rows
            if isinstance(sources, tuple | list) and len(sources) == num_rows:
                return list(map(self.numbers.__getitem__, sources))
        except (KeyError, TypeError):  # not heard before; or no text
            return None
        return None

    def enter(self, names: Iterable[str]) -> list[int]:
        """The number of each name; those that are new get one."""
        found = []
        for name in names:
            number = self.numbers.setdefault(name, len(self.names))
            if number == len(self.names):
                self.names.append(name)
            found.append(number)
        return found

    def keep(self, kept: Iterable[int]) -> dict[int, int]:
        """Forget all sources but these.

        Returns: old number -> new one.
        """
        moved = {NOBODY: NOBODY}
        moved |= {old: new for new, old in enumerate(sorted(set(kept) - {NOBODY}), 1)}
        self.names = [self.names[old] for old in moved]
        self.numbers = {name: number for number, name in enumerate(self.names) if number}
        self.edition += 1
        return moved


class SourceWindow:
    """The sources of the last rows that were learned, and how many are of each.

    Args:
        rate: share of the rows that one source may have, in (0, 1].
        window: rows.
    """

    def __init__(self, rate: float, window: int) -> None:
        self.rate, self.window = rate, window
        self.counts: list[int] = []  # (S + 1,) rows in the window of each number
        self._ring: list[int] = []  # numbers of the rows, the oldest at `_place`
        self._place = 0
        self._cap = 0.0  # rows that a source may have, if all that are known are in the window
        self.load([], 1)

    def load(self, last: Sequence[int], num_numbers: int) -> None:
        """Set the rows of the window, the oldest first; see `grow` for the number of numbers."""
        self._ring = [*last, *repeat(NOBODY, self.window - len(last))]
        self._place = len(last) % self.window
        self.counts = []
        self.grow(num_numbers)
        for number, count in Counter(self._ring).items():
            self.counts[number] = count

    def grow(self, num_numbers: int) -> None:
        """Make room for more sources: S + 1 numbers, as nobody has one, too."""
        self.counts.extend(repeat(0, num_numbers - len(self.counts)))
        self._cap = self._find_cap(num_numbers - 1)

    def list_last(self) -> list[int]:
        """Numbers of the rows in the window, the oldest first."""
        ordered = self._ring[self._place :] + self._ring[: self._place]
        return [number for number in ordered if number != NOBODY]

    def has_room(self, numbers: list[int]) -> bool:
        """Whether all of these rows may enter, whatever their order.

        Args:
            numbers: of the sources of N rows, each known.
        """
        counts = self.counts
        if max(map(counts.__getitem__, numbers)) + len(numbers) <= self._cap:
            return True
        fresh = Counter(numbers)
        most = max(counts[number] + num for number, num in fresh.items())
        if most <= self._cap:
            return True
        # Exact: who is known but has no row in the window takes nobody's share.
        return most <= self._find_cap(len({*self._ring, *fresh} - {NOBODY}))

    def find_surplus(self, sources: Sequence[str], numbers: Mapping[str, int]) -> list[bool]:
        """Which rows may not enter, in their order; their sources may be unknown.

        Args:
            sources: of the rows.
            numbers: of the sources that are known.
        """
        last = self.list_last()
        known = [numbers.get(source, source) for source in sources]
        return find_surplus(known, last, Counter(last), self.rate, self.window)

    def enter(self, numbers: list[int]) -> None:
        """Take in rows that are learned; the oldest leave."""
        room = self.window - self._place
        if len(numbers) > room:
            self.enter(numbers[:room])
            self.enter(numbers[room:])
            return
        ring, counts, place = self._ring, self.counts, self._place
        end = place + len(numbers)
        for old, new in zip(ring[place:end], numbers, strict=True):
            counts[old] -= 1
            counts[new] += 1
        ring[place:end] = numbers
        self._place = end % self.window

    def _find_cap(self, num_sources: int) -> float:
        return max(self.rate, 2.0 / max(num_sources, 1)) * self.window
