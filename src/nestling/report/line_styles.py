"""One colour, dash and marker per method, the same in every plot of a report."""

from collections.abc import Sequence
from dataclasses import dataclass

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
# Five: with four dashes, twenty pairs differ before one comes again.
MARKERS = ("o", "s", "^", "D", "v")
SUBJECT = "nestling"  # drawn solid, bold and on top, if it is there


@dataclass(frozen=True)
class LineStyle:
    """How a method is drawn.

    Attributes:
        colour: of its lines, bars and titles.
        dash: of its lines.
        marker: on its lines.
        hatch: of its bars; only where the palette has begun anew.
    """

    colour: str
    dash: str
    marker: str
    hatch: str


def assign_styles(methods: Sequence[str]) -> dict[str, LineStyle]:
    """Method -> look; the subject has the first one wherever it stands in the list.

    Args:
        methods: all of a run, in order of appearance.

    >>> assign_styles(["replay", "nestling"])["nestling"].colour
    '#0072B2'
    """
    order = sorted(methods, key=lambda method: method != SUBJECT)
    return {
        method: LineStyle(
            COLOURS[index % len(COLOURS)],
            DASHES[index % len(DASHES)],
            MARKERS[index % len(MARKERS)],
            ("", "///", "...")[index // len(COLOURS) % 3],
        )
        for index, method in enumerate(order)
    }
