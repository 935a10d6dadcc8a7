"""Print what `nestling bench timescales --json FILE` found, in Markdown.

Example:
  python recipes/make_timescales_table.py benchmarks/results/timescales.json > page.md
  python recipes/make_timescales_table.py benchmarks/results/timescales.json --summary
"""

import sys
from pathlib import Path

from nestling.bench.timescales.timescale_tables import format_page, format_summary, read_rows


def main() -> None:
    """Print the page, or with --summary the table for docs/what-helps-when.md."""
    arguments = [one for one in sys.argv[1:] if one != "--summary"]
    rows = read_rows(Path(arguments[0] if arguments else "benchmarks/results/timescales.json"))
    print((format_summary if "--summary" in sys.argv else format_page)(rows))


if __name__ == "__main__":
    main()
