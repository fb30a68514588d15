"""`headrace runs`, `logs` and `cancel`: a look at a server by its native API."""

import json
import sys
import time
from typing import Any, Final
from urllib.parse import quote

from headrace.cli import show
from headrace.client import ENDED, Client

POLL_S: Final = 0.3
COLOURS: Final = {
    "succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan",
    "cancelling": "yellow", "queued": "dim", "skipped": "dim",
}  # fmt: skip


def list_runs(limit: int, state: str | None, *, as_json: bool) -> None:
    """Print runs, newest first."""
    with Client.from_env() as client:
        wanted = f"&state={quote(state)}" if state else ""
        found = client.call("GET", f"/v1/runs?limit={limit}{wanted}")
    if as_json:
        show.print_json(found["items"])
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for heading in ("run", "state", "read", "rejected", "queued", "note"):
        table.add_column(heading, justify="right" if heading in ("read", "rejected") else "left")
    for run in found["items"]:
        books = run["books"] or {}
        table.add_row(
            run["id"], f"[{COLOURS[run['state']]}]{run['state']}[/]", f"{books.get('read', 0):,}",
            f"{books.get('rejected', 0):,}", run["queuedAt"][:19].replace("T", " "), _note(run),
        )  # fmt: skip
    show.console(err=False).print(table)


def _note(run: dict[str, Any]) -> str:
    from rich.markup import escape

    if run["waitingFor"]:
        return escape(f"waiting for {run['waitingFor']}")
    return escape((run["error"] or {}).get("message", ""))[:60]


def show_logs(run: str, *, follow: bool, as_json: bool) -> int:
    """Print the events of a run; return the exit code that tells how it ended."""
    after = 0
    with Client.from_env() as client:
        while True:
            state = client.run(run)["state"]
            for event in client.events(run, after):
                after = event["number"]
                _print_event(event, as_json=as_json)
            if not follow or state in ENDED:
                break
            time.sleep(POLL_S)
    return {"failed": 1, "cancelled": 1}.get(state, 0) if follow else 0


def _print_event(event: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(event) + "\n")
    else:
        at = event["at"][11:23]
        rows = f"  ({event['rows']:,} rows)" if event["rows"] else ""
        sys.stdout.write(f"{at}  {event['kind']:<6} {event['message']}{rows}\n")
    sys.stdout.flush()


def cancel_run(run: str, *, as_json: bool) -> None:
    """Ask for a run to stop."""
    with Client.from_env() as client:
        found = client.call("POST", f"/v1/runs/{quote(run, safe='')}/cancel", {})
    if as_json:
        show.print_json(found)
    else:
        show.console().print(f"{run} is {found['state']}")


def retry_run(run: str, *, as_json: bool) -> None:
    """Start a run again."""
    with Client.from_env() as client:
        found = client.call("POST", f"/v1/runs/{quote(run, safe='')}/retry", {})
    told_start(found, as_json=as_json)


def told_start(found: dict[str, Any], *, as_json: bool) -> None:
    """Tell of a run that was started."""
    if as_json:
        show.print_json(found)
    else:
        show.console().print(f"run {found['id']} is {found['state']}", soft_wrap=True)
