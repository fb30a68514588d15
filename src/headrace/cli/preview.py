"""`headrace preview SRC` and `headrace discover SRC`: what a load would see, and could."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from headrace.assembly import discover as discovered
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


def discover(src: str, *, as_json: bool) -> None:
    """Print the tables and views of a database, with keys, estimated rows and sizes."""
    kind, settings = uris.source_of(src, None, {}, ["query=discover"])
    del settings["query"]
    settings["table"] = settings.get("table") or "*"  # any of them
    found = discovered(kind, settings)
    if as_json:
        show.print_json([dataclasses.asdict(one) for one in found])
        return
    from rich.box import SIMPLE_HEAD
    from rich.filesize import decimal
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for name in ("name", "kind", "key"):
        table.add_column(name, overflow="fold")
    for name in ("rows, about", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        name = f"{one.schema}.{one.name}" if one.schema else one.name
        rows = "" if one.rows is None else f"{one.rows:,}"
        size = "" if one.bytes is None else decimal(one.bytes)
        table.add_row(escape(name), one.kind, escape(", ".join(one.key)), rows, size)
    show.console(err=False).print(table)
