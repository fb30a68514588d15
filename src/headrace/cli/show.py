"""What the terminal shows: receipts, rejects, errors. Rich is imported when something is shown."""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from headrace.domain.errors import HeadraceError

if TYPE_CHECKING:
    from rich.console import Console


def console(*, err: bool = True) -> "Console":
    from rich.console import Console

    return Console(stderr=err, highlight=False)


def print_json(value: object) -> None:
    """Print data for a program."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def fail(error: HeadraceError, *, as_json: bool) -> None:
    """Tell an error: what, where, and the way out."""
    if as_json:
        told = {"code": error.code, "message": error.message, "hint": error.hint}
        print_json({"error": told | ({"field": error.field} if error.field else {})})
    from rich.markup import escape

    out = console()
    where = f" [dim]({escape(error.field)})[/]" if error.field else ""
    out.print(f"[bold red]error:[/] {escape(error.message)}{where}", soft_wrap=True)
    if error.hint:
        out.print(f"[dim]hint:[/]  {escape(error.hint)}", soft_wrap=True)


BOOK_COLUMNS = (
    ("read", "read"), ("inserted", "inserted"), ("updated", "updated"), ("rejected", "rejected"),
    ("filtered", "filtered"),
)  # fmt: skip


def receipt_table(receipt: Mapping[str, Any], title: str) -> Any:  # Any: a rich Table
    """Return the receipt as a table: a line a table, a line a file."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    shown = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD,
        collapse_padding=True, pad_edge=False,
    )  # fmt: skip
    shown.add_column("", overflow="fold", min_width=12)
    for key, heading in BOOK_COLUMNS:  # a number is never cut; a name may be
        widest = max((len(f"{table[key]:,}") for table in receipt["tables"]), default=0)
        shown.add_column(heading, justify="right", min_width=widest, no_wrap=True)
    widest = max((len(f"{table['rowsAfter'] or 0:,}") for table in receipt["tables"]), default=0)
    shown.add_column("rows now", justify="right", min_width=max(8, widest), no_wrap=True)

    def line(name: str, books: Mapping[str, Any], after: str, style: str) -> None:
        cells = [f"{books[key]:,}" if books[key] else "·" for key, _ in BOOK_COLUMNS]
        shown.add_row(escape(name), *cells, after, style=style)

    for table in receipt["tables"]:
        after = table["rowsAfter"]
        line(table["name"], table, "" if after is None else f"{after:,}", "")
        files = [file for file in receipt["files"] if file["table"] == table["name"]]
        for file in files[:20]:
            line(f"  {file['name'].rpartition('/')[2][-60:]}", file, "", "dim")
        if len(files) > 20:  # more would scroll away
            shown.add_row(f"  … {len(files) - 20:,} more files", style="dim")
    return shown


def print_rejects(rejects: Iterable[Mapping[str, Any]], total: int, where: str) -> None:
    """Show the first rejected rows and where all of them are."""
    from rich.markup import escape

    out = console()
    for row in rejects:
        place = f"{row['file'].rpartition('/')[2]}:{row['line']}"
        raw = row["raw"] if len(row["raw"]) < 80 else row["raw"][:77] + "…"
        out.print(
            f"  [yellow]{row['rule']}[/] {escape(place)} {escape(row['message'])}"
            f" [dim]{escape(raw)!s}[/]",
            soft_wrap=True,
        )
    out.print(f"  [dim]{total:,} rejected rows: {escape(where)}[/]")


def print_verification(receipt: Mapping[str, Any], *, seconds: float | None = None) -> None:
    """Show what comparing a table with its source has found."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    found = receipt["verification"]
    how = "in SQL on both sides" if found["pushed"] else "the source was read"
    took = "" if seconds is None else f" in {seconds:.2f} s"
    verdict = "the same" if found["same"] else "they differ"
    if found["repaired"]:
        verdict = "they differed" if receipt["tables"] else verdict
    title = (
        f"{found['sourceRows']:,} rows compared with {found['tableRows']:,}{took} · {verdict}\n"
        f"{found['differing']:,} of {found['buckets']:,} buckets by {found['by']} · {how}"
    )
    shown = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    names = ("missing", "extra", "different", "pending")
    for name in names:
        shown.add_column(name, justify="right")
    shown.add_row(*(f"{found[name]:,}" if found[name] else "·" for name in names))
    out = console(err=False)
    out.print(shown)
    for example in found["examples"][:10]:
        key = ", ".join(f"{name} = {value}" for name, value in example["key"].items())
        out.print(f"  [yellow]{example['what']}[/] {escape(key)}", soft_wrap=True)
    for column, why in found["leftOut"].items():
        out.print(f"  [dim]not compared: {escape(column)}: {escape(why)}[/]", soft_wrap=True)
    if found["repaired"] and receipt["tables"]:
        out.print(receipt_table(receipt, "loaded again"))
