"""`headrace ingest SRC DEST`: one run in this process, without a server."""

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from headrace.assembly import local_order, work
from headrace.cli import show, uris
from headrace.domain.books import Receipt
from headrace.domain.errors import Cancelled, HeadraceError, Unchanged
from headrace.domain.event import NewEvent
from headrace.domain.ids import new_id
from headrace.domain.shape import Shape
from headrace.engine.plan import Segment, Stopped

NO_BAR_S: Final = 0.5  # a short run needs no bar


class TerminalJournal:
    """Draws a progress bar when a person watches; keeps the last commit's receipt."""

    def __init__(self, *, quiet: bool) -> None:
        self.receipt: Receipt | None = None
        self.rejects: tuple[Segment, ...] = ()
        self.cancelled = threading.Event()
        self._progress: Any = None  # a rich Progress
        self._task: Any = None
        self._begun = time.monotonic()
        self._quiet = quiet or not os.isatty(2)

    def told(
        self, phase: str, *, rows: int = 0, done: int = 0, total: int = 0, message: str = ""
    ) -> None:
        if self.cancelled.is_set():
            raise Cancelled("Interrupted; nothing was published.")
        young = self._progress is None and time.monotonic() - self._begun < NO_BAR_S
        if self._quiet or young:
            return
        if self._progress is None:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(),
                TextColumn("{task.percentage:3.0f}%"), TimeElapsedColumn(),
                console=show.console(), transient=True,
            )  # fmt: skip
            self._progress.start()
            self._task = self._progress.add_task("starting", total=None)
        if phase:
            self._progress.update(
                self._task, description=message or phase, completed=done, total=total or None
            )

    def event(self, event: NewEvent) -> None:
        self.told("")

    def advance(self, token: str, receipt: Receipt, rejects: tuple[Segment, ...]) -> None:
        self.receipt, self.rejects = receipt, rejects

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def ingest(
    src: str, dest: str, *, table: str | None, mode: str, key: tuple[str, ...], as_json: bool,
    kind: str | None, failure_threshold: float, options: dict[str, Any], pairs: Sequence[str],
    memory_bytes: int, shape: Shape, secret: str, deletes: bool,
) -> int:  # fmt: skip
    """Load SRC into DEST and print the receipt. Returns the exit code."""
    source_type, source_input = uris.source_of(src, kind, options, pairs)
    destination_type, destination_input = uris.destination_of(dest, table)
    action = {"merge": "save"}.get(mode, mode)
    scope = hashlib.sha256(f"{src}\n{dest}\n{table}".encode()).hexdigest()[:32]
    run = new_id()
    order = local_order(
        source=(source_type, source_input),
        destination=(
            destination_type, {k: v for k, v in destination_input.items() if v is not None}
        ),
        action=action, table=table, key=key, failure_threshold=failure_threshold,
        memory_bytes=memory_bytes, scope=scope, run=run, shape=shape, secret=secret,
        deletes=deletes,
    )  # fmt: skip
    journal = TerminalJournal(quiet=as_json)
    begun = time.monotonic()
    _stop_on_interrupt(journal)
    error: HeadraceError | None = None
    receipt: Receipt | None = None
    rejects: tuple[Segment, ...] = ()
    try:
        receipt = work(order, journal)
        rejects = journal.rejects
    except Stopped as stopped:
        error, receipt, rejects = stopped.error, stopped.receipt, stopped.rejects
    except Unchanged as unchanged:
        error = unchanged
    except KeyboardInterrupt:
        error = Cancelled("Interrupted; nothing was published.")
    finally:
        journal.close()
    if isinstance(error, Unchanged):
        _print_nothing(error, as_json=as_json, run=run)
        return 0
    if isinstance(error, HeadraceError) and receipt is None:
        raise error
    _print(receipt, rejects, error, as_json=as_json, seconds=time.monotonic() - begun, run=run)
    return error.exit_code if error else 0


def _stop_on_interrupt(journal: TerminalJournal) -> None:
    """Make the first Ctrl-C a cancel, so that what is staged is cleaned up; the second ends it."""

    def cancel(_signal: int, _frame: object) -> None:
        journal.cancelled.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, cancel)


def _print_nothing(why: Unchanged, *, as_json: bool, run: str) -> None:
    """Tell that there was nothing to load, which is no error."""
    if as_json:
        show.print_json({"run": run, "state": "skipped", "reason": why.message})
    else:
        show.console(err=False).print(why.message)


def _print(
    receipt: Receipt | None, rejects: tuple[Segment, ...], error: HeadraceError | None, *,
    as_json: bool, seconds: float, run: str,
) -> None:  # fmt: skip
    data = receipt.as_dict() if receipt else {}
    where = rejects[0].name if rejects else None
    if where:
        kept = f"headrace-rejects-{where}"
        Path(where).rename(kept)
        where = kept
    if as_json:
        told = {
            "run": run,
            "state": "failed" if error else "succeeded",
            "seconds": round(seconds, 3),
        }
        if error:
            told["error"] = {"code": error.code, "message": error.message, "hint": error.hint}  # type: ignore[assignment]
        show.print_json(told | data | {"rejects": where})
        return
    rows = data["books"]["read"] if data else 0
    title = f"{rows:,} rows in {seconds:.2f} s" + ("" if error else " · the books balance")
    show.console(err=False).print(show.receipt_table(data, title))
    if where:
        with Path(where).open() as file:
            first = [json.loads(line) for line, _ in zip(file, range(5), strict=False)]
        show.print_rejects(first, sum(segment.rows for segment in rejects), where)
    if error:
        show.fail(error, as_json=False)
