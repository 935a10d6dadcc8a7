"""Writes what `nestling bench timescales` found into the documentation.

    python recipes/make_timescales_page.py [--run runs/bench/timescales] [--print]

docs/suites/timescales.md is the whole page, docs/what-helps-when.md gets the summary between its
two marks, and benchmarks/results/timescales.json the figures of both. With --print nothing is
written: the summary is printed.
"""

import argparse
from pathlib import Path

from nestling.bench.timescales.timescale_tables import format_page, format_summary, read_rows

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- timescales: begin -->", "<!-- timescales: end -->"


def put_between(text: str, summary: str) -> str:
    """The document with the summary between its marks.

    Raises:
        ValueError: a mark is not there once.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"the document needs {BEGIN!r} and {END!r}, once each")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{summary}\n{END}{after}"


def main() -> None:
    """Write the page, the summary and the result."""
    parser = argparse.ArgumentParser(description="Make the pages of nestling bench timescales.")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "bench" / "timescales")
    parser.add_argument("--print", action="store_true", help="print the summary, write nothing")
    given = parser.parse_args()
    path = given.run / "result.json"
    if not path.exists():
        parser.error(f"'{given.run}' lacks result.json; run: nestling bench timescales")
    rows = read_rows(path)
    summary = format_summary(rows)
    if given.print:
        print(summary)
        return
    document = ROOT / "docs" / "what-helps-when.md"
    link = "All figures, intervals and settings: [timescales](suites/timescales.md)."
    text = put_between(document.read_text(), f"{summary}\n\n{link}")
    (ROOT / "docs" / "suites" / "timescales.md").write_text(format_page(rows) + "\n")
    document.write_text(text)
    (ROOT / "benchmarks" / "results" / "timescales.json").write_text(path.read_text())


if __name__ == "__main__":
    main()
