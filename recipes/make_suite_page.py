"""Makes a suite's page in docs/suites of what `nestling bench SUITE` wrote; see `make page-SUITE`.

    python recipes/make_suite_page.py SUITE [--run runs/bench/SUITE]

Copies table, pictures and result.json of the run folder: the page, docs/suites/SUITE-*.png and
benchmarks/results/SUITE.json then hold the same figures.
"""

import argparse
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURES = (
    ("scatter", "accuracy against adaptation"),
    ("curves", "every experience over time"),
)


def format_page(suite: str, table: str, num_seeds: int) -> str:
    """The run's own table, and its pictures below."""
    budget = ", small budget" if "Budget small" in table else ""
    pictures = "\n\n".join(f"![{about}]({suite}-{name}.png)" for name, about in PICTURES)
    written = f"Written by `nestling bench {suite}` ({num_seeds} seeds{budget})"
    return f"""{table}
## Pictures

{written}; the same figures as JSON with one row per
method and seed: [benchmarks/results/{suite}.json](../../benchmarks/results/{suite}.json).

{pictures}
"""


def main() -> None:
    """Write page, pictures and result."""
    parser = argparse.ArgumentParser(description="Make the page of a suite from a run folder.")
    parser.add_argument("suite")
    parser.add_argument("--run", type=Path, help="by default runs/bench/SUITE")
    given = parser.parse_args()
    suite, run = given.suite, given.run or ROOT / "runs" / "bench" / given.suite
    missing = [
        name
        for name in ("result.json", "table.md", *(f"{name}.png" for name, _ in PICTURES))
        if not (run / name).exists()
    ]
    if missing:
        parser.error(f"'{run}' lacks {', '.join(missing)}; run: nestling bench {suite}")
    result = (run / "result.json").read_text()
    found = json.loads(result)
    if found["suite"] != suite:
        parser.error(f"'{run}' holds suite {found['suite']!r}, not {suite!r}")
    num_seeds = len({row["seed"] for row in found["rows"]})
    pages = ROOT / "docs" / "suites"
    (pages / f"{suite}.md").write_text(
        format_page(suite, (run / "table.md").read_text(), num_seeds)
    )
    for name, _ in PICTURES:
        (pages / f"{suite}-{name}.png").write_bytes((run / f"{name}.png").read_bytes())
    (ROOT / "benchmarks" / "results" / f"{suite}.json").write_text(result)


if __name__ == "__main__":
    main()
