"""`headrace preview SRC`: what a load would see."""

from collections.abc import Sequence
from typing import Any

from headrace.assembly import preview_rows
from headrace.cli import show, uris


def preview(
    src: str, *, rows: int, kind: str | None, options: dict[str, Any], pairs: Sequence[str],
    as_json: bool,
) -> None:  # fmt: skip
    """Print columns with types, and the first rows that fit."""
    source_type, settings = uris.source_of(src, kind, options, pairs)
    columns, found = preview_rows(source_type, settings, rows)
    if as_json:
        shown = [{"name": column.name, "type": column.type} for column in columns]
        show.print_json({"columns": shown, "rows": found})
        return
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(f"{escape(column.name)}\n[dim]{column.type}[/]", overflow="ellipsis")
    for row in found:
        table.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    show.console(err=False).print(table)
