"""`headrace ingest SRC DEST` and `headrace verify`: one run in this process, without a server."""

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from headrace.assembly import local_order, work
from headrace.cli import show, uris
from headrace.domain.books import Receipt
from headrace.domain.errors import Cancelled, HeadraceError, Unchanged
from headrace.domain.event import NewEvent
from headrace.domain.ids import new_id
from headrace.domain.shape import Shape
from headrace.domain.verification import Verify
from headrace.engine.plan import Segment, Stopped
from headrace.service.orders import Order

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
    source, destination, scope = _ends(src, dest, table, kind, options, pairs)
    order = local_order(
        source=source, destination=destination, action={"merge": "save"}.get(mode, mode),
        table=table, key=key, failure_threshold=failure_threshold, memory_bytes=memory_bytes,
        scope=scope, run=new_id(), shape=shape, secret=secret, deletes=deletes,
    )  # fmt: skip
    done = _Done.of(order, as_json=as_json)
    if isinstance(done.error, Unchanged):
        _print_nothing(done.error, as_json=as_json, run=order.run)
        return 0
    if done.error is not None and done.receipt is None:
        raise done.error
    _print(done, as_json=as_json, run=order.run)
    return done.error.exit_code if done.error else 0


def verify(
    src: str, dest: str, *, table: str | None, key: tuple[str, ...], as_json: bool,
    kind: str | None, options: dict[str, Any], pairs: Sequence[str], memory_bytes: int,
    shape: Shape, secret: str, wanted: Verify,
) -> int:  # fmt: skip
    """Compare a table of DEST with SRC and print what was found. Returns the exit code."""
    source, destination, scope = _ends(src, dest, table, kind, options, pairs)
    order = local_order(
        source=source, destination=destination, action="append", table=table,
        key=key, failure_threshold=0, memory_bytes=memory_bytes, scope=scope, run=new_id(),
        shape=shape, secret=secret, verify=wanted,
    )  # fmt: skip
    done = _Done.of(order, as_json=as_json)
    if done.error is not None and (done.receipt is None or done.receipt.verification is None):
        raise done.error
    data = done.receipt.as_dict() if done.receipt else {}
    if as_json:
        _print_json(done, data, run=order.run, rejects=_kept(done.rejects))
    else:
        show.print_verification(data, seconds=done.seconds)
        if done.error is not None:
            show.fail(done.error, as_json=False)
    return done.error.exit_code if done.error else 0


def _ends(
    src: str, dest: str, table: str | None, kind: str | None, options: dict[str, Any],
    pairs: Sequence[str],
) -> tuple[uris.Ends, uris.Ends, str]:  # fmt: skip
    """Return both ends of a run, and the scope that its loads go by."""
    destination, given = uris.destination_of(dest, table)
    scope = hashlib.sha256(f"{src}\n{dest}\n{table}".encode()).hexdigest()[:32]
    return (
        uris.source_of(src, kind, options, pairs),
        (destination, {name: value for name, value in given.items() if value is not None}),
        scope,
    )


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of a run in this process."""

    receipt: Receipt | None
    rejects: tuple[Segment, ...]
    error: HeadraceError | None
    seconds: float

    @classmethod
    def of(cls, order: Order, *, as_json: bool) -> Self:
        """Do a run."""
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
        return cls(receipt, rejects, error, time.monotonic() - begun)


def _stop_on_interrupt(journal: TerminalJournal) -> None:
    """Make the first Ctrl-C a cancel, so that what is staged is cleaned up; the second ends it.

    It is seen at once, also while this thread waits for rows outside of Python.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)

    def cancel(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def watch() -> None:
        while number := os.read(told, 1):
            if number[0] == signal.SIGINT:
                journal.cancelled.set()

    signal.signal(signal.SIGINT, cancel)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=watch, name="headrace-signals", daemon=True).start()


def _print_nothing(why: Unchanged, *, as_json: bool, run: str) -> None:
    """Tell that there was nothing to load, which is no error."""
    if as_json:
        show.print_json({"run": run, "state": "skipped", "reason": why.message})
    else:
        show.console(err=False).print(why.message)


def _print(done: _Done, *, as_json: bool, run: str) -> None:
    data = done.receipt.as_dict() if done.receipt else {}
    where = _kept(done.rejects)
    if as_json:
        _print_json(done, data, run=run, rejects=where)
        return
    rows = data["books"]["read"] if data else 0
    title = f"{rows:,} rows in {done.seconds:.2f} s"
    title += "" if done.error else " · the books balance"
    show.console(err=False).print(show.receipt_table(data, title))
    if where:
        with Path(where).open() as file:
            first = [json.loads(line) for line, _ in zip(file, range(5), strict=False)]
        show.print_rejects(first, sum(segment.rows for segment in done.rejects), where)
    if done.error:
        show.fail(done.error, as_json=False)


def _kept(rejects: tuple[Segment, ...]) -> str | None:
    """Keep the rejected rows in a file that a person may look at; return its name."""
    if not rejects:
        return None
    kept = f"headrace-rejects-{rejects[0].name}"
    Path(rejects[0].name).rename(kept)
    return kept


def _print_json(done: _Done, data: dict[str, Any], *, run: str, rejects: str | None) -> None:
    told: dict[str, Any] = {
        "run": run,
        "state": "failed" if done.error else "succeeded",
        "seconds": round(done.seconds, 3),
    }
    if error := done.error:
        told["error"] = {"code": error.code, "message": error.message, "hint": error.hint}
    show.print_json(told | data | {"rejects": rejects})
