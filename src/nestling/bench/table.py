"""Rows as a table: on the terminal by rich, in documents as Markdown."""

from collections.abc import Mapping, Sequence

from rich.table import Table

Row = Mapping[str, object]


def format_value(value: object) -> str:
    """A cell: floats with four significant digits, None as a dash.

    >>> [format_value(v) for v in (0.123456, 1234567, None, "x", 2.0)]
    ['0.1235', '1,234,567', '-', 'x', '2']
    """
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def list_columns(rows: Sequence[Row]) -> list[str]:
    """The keys of all rows in the order of their first appearance.

    >>> list_columns([{"a": 1}, {"a": 2, "b": 3}])
    ['a', 'b']
    """
    return list(dict.fromkeys(key for row in rows for key in row))


def build_table(rows: Sequence[Row], title: str | None = None) -> Table:
    """Table of results for the terminal (rich); numbers are aligned to the right.

    Args:
        rows: flat records; a key that a row lacks is shown as a dash.
        title: stands above the table.
    """
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in list_columns(rows):
        is_number = any(isinstance(row.get(column), int | float) for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(format_value(row.get(column)) for column in list_columns(rows)))
    return table


def format_markdown(rows: Sequence[Row]) -> str:
    """Table of results as Markdown.

    >>> print(format_markdown([{"method": "sgd", "acc": 0.5}]))
    | method | acc |
    |---|---|
    | sgd | 0.5 |
    """
    columns = list_columns(rows)
    lines = [columns, ["---"] * len(columns)]
    lines += [[format_value(row.get(column)) for column in columns] for row in rows]
    text = [f"| {' | '.join(line)} |" for line in lines]
    text[1] = text[1].replace(" ", "")
    return "\n".join(text)
