"""When writes come into force: a sequence cut where one level's chunks and contexts end."""

from dataclasses import dataclass

# Windows of fewer tokens cost their calls, not their arithmetic; of more, the triangular solves.
SUPER_CHUNK = 64


@dataclass(frozen=True, slots=True)
class WriteClock:
    """When one level writes, in tokens.

    Writes gathered during a chunk come into force at its end. A context is a whole of chunks at
    whose end the level goes back to its initial state; a partial last chunk comes into force
    first. `cut` stops gradients at its multiples (truncated backpropagation).

    Args:
        chunk: C >= 1, tokens between two updates.
        context: tokens between two resets, >= C; None if the level is never reset.
        cut: tokens between two places that no gradient passes, a multiple of C; None for nowhere.
    """

    chunk: int
    context: int | None = None
    cut: int | None = None

    def find_due(self, position: int) -> int:
        """Tokens since the last update of a level that has read `position` tokens.

        >>> WriteClock(8, context=20).find_due(39)  # the second context began at 20
        3
        """
        return (position % self.context if self.context else position) % self.chunk

    def count_updates(self, position: int) -> int:
        """Updates of a level that has read `position` tokens, resets not counted.

        >>> WriteClock(8, context=20).count_updates(39)  # at 8, 16, 20, 28 and 36
        5
        """
        if not self.context:
            return position // self.chunk
        contexts, inside = divmod(position, self.context)
        return contexts * -(-self.context // self.chunk) + inside // self.chunk


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that are written by one triangular solve.

    Args:
        size: tokens.
        complete: how many of them, from the first, belong to chunks that end within the window.
        begun: it goes on with a chunk that was begun before.
        ends_context: the level is reset after it.
        ends_cut: gradients stop after it.
    """

    size: int
    complete: int
    begun: bool
    ends_context: bool
    ends_cut: bool


def plan_windows(clock: WriteClock, position: int, length: int) -> tuple[Window, ...]:
    """Cut `length` tokens into windows: whole chunks, or the rest of one that was begun.

    Args:
        clock: when the level writes.
        position: tokens that the level has read of this sequence, >= 0.
        length: tokens to come, >= 0.

    Returns: windows whose sizes add up to `length`.

    >>> [window.size for window in plan_windows(WriteClock(8), position=3, length=100)]
    [5, 64, 31]
    >>> [window.complete for window in plan_windows(WriteClock(8), position=3, length=100)]
    [5, 64, 24]
    """
    windows: list[Window] = []
    # A chunk of half of it or more needs no solve if it stands alone, which is cheaper.
    whole = clock.chunk * (SUPER_CHUNK // clock.chunk if 2 * clock.chunk < SUPER_CHUNK else 1)
    while length > 0:
        inside = position % clock.context if clock.context else position
        begun = inside % clock.chunk
        size = min(length, clock.chunk - begun if begun else whole)
        if clock.context:
            size = min(size, clock.context - inside)
        if clock.cut:
            size = min(size, clock.cut - inside % clock.cut)
        left = (begun + size) % clock.chunk
        ends_context = clock.context is not None and inside + size == clock.context
        windows.append(
            Window(
                size=size,
                begun=begun > 0,
                complete=size if ends_context else max(0, size - left),
                ends_context=ends_context,
                ends_cut=clock.cut is not None and (inside + size) % clock.cut == 0,
            )
        )
        position += size
        length -= size
    return tuple(windows)
