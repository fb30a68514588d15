"""The child process: does one run at a time, warm, and ends with its server.

It has no access to the control store. What it committed at the destination it tells its server and
waits for the acknowledgement; without one within the lease it ends itself. It is started as
`python -m headrace.runtime.child` and speaks by its standard input and output.
"""

import contextlib
import ctypes
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from headrace.assembly import read_table, sample, streams, work, work_phases, work_pushes
from headrace.contract.instance import prepare
from headrace.domain.books import Receipt
from headrace.domain.errors import (
    Cancelled,
    HeadraceError,
    LostClaim,
    OutsideError,
    OwnerError,
    TimedOut,
    Unchanged,
)
from headrace.domain.event import NewEvent
from headrace.engine.plan import Segment, Stopped
from headrace.observe import faults
from headrace.runtime import messages
from headrace.service.queue import told

TOLD_EVERY_S: Final = 0.2
IDLE_S: Final = 0.01  # without an order: then there is time
PR_SET_PDEATHSIG: Final = 1
NICE: Final = 5


class PipeJournal:
    """The engine's journal: every word goes over the pipe."""

    def __init__(self, child: "Child", lease_s: float) -> None:
        self._child = child
        self._lease_s = lease_s
        self._last = ("", 0.0)

    def told(
        self, phase: str, *, rows: int = 0, done: int = 0, total: int = 0, message: str = ""
    ) -> None:
        if self._child.cancelled.is_set():
            raise Cancelled("The run was cancelled.")
        now = time.monotonic()
        if phase == self._last[0] and now - self._last[1] < TOLD_EVERY_S:
            return
        self._last = (phase, now)
        self._child.say(
            messages.Told(phase=phase, rows=rows, done=done, total=total, message=message)
        )

    def event(self, event: NewEvent) -> None:
        self._child.say(
            messages.Happened(
                kind=event.kind, status=event.status, message=event.message, rows=event.rows,
                data=dict(event.data),
            )
        )  # fmt: skip

    def advance(
        self, token: str, receipt: Receipt, rejects: tuple[Segment, ...],
        pushes: Sequence[Mapping[str, Any]] = (),
    ) -> None:  # fmt: skip
        self._child.say(
            messages.Committed(
                token=token,
                receipt=receipt.as_dict(),
                segments=[segment.as_dict() for segment in rejects],
                pushes=list(map(dict, pushes)),
            )
        )
        try:
            self._child.acks.get(timeout=self._lease_s)
        except queue.Empty:
            raise TimedOut("The server did not acknowledge the commit in time.") from None


class Child:
    """This process."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.acks: queue.Queue[None] = queue.Queue()
        self._orders: queue.Queue[messages.Work] = queue.Queue()
        self._encode = msgspec.json.Encoder().encode
        self._out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)  # a stray print must not break the protocol
        self._lock = threading.Lock()

    def say(self, message: messages.FromChild) -> None:
        """Send one message; end this process if nobody listens."""
        line = self._encode(message) + b"\n"
        try:
            with self._lock:
                view = memoryview(line)
                while view:
                    view = view[self._out.write(view) :]
        except OSError:
            os._exit(3)

    def listen(self) -> None:
        """Take messages until the server is gone, then end at once."""
        decode = msgspec.json.Decoder(messages.ToChild).decode
        for line in sys.stdin.buffer:
            match decode(line):
                case messages.Work() as order:
                    self.cancelled.clear()
                    self._orders.put(order)
                case messages.Ack():
                    self.acks.put(None)
                case messages.Cancel():
                    self.cancelled.set()
                case messages.Read() as read:
                    threading.Thread(target=self._read, args=(read,), daemon=True).start()
        os._exit(0)

    def serve(self) -> None:
        """Do runs until the process ends; make ready for the next one while there is none."""
        threading.Thread(target=self.listen, daemon=True).start()
        self.say(messages.Ready())
        while True:
            try:
                order = self._orders.get(timeout=IDLE_S)
            except queue.Empty:
                prepare()
                order = self._orders.get()
            self._work(order)

    def _work(self, given: messages.Work) -> None:
        faults.reach("child.started")
        journal = PipeJournal(self, given.lease_s)
        try:
            if given.order.pushes:
                work_pushes(given.order, journal)
            elif given.order.phases:
                work_phases(given.order, journal)
            else:
                work(given.order, journal)
        except Stopped as stopped:
            receipt = stopped.receipt.as_dict() if stopped.receipt else None
            segments = [segment.as_dict() for segment in stopped.rejects]
            self._failed(stopped.error, receipt, segments)
        except Unchanged as nothing:
            self.say(messages.Skipped(message=nothing.message))
        except Exception as error:
            self._failed(error, None, [])
        else:
            self.say(messages.Done())

    def _failed(
        self, error: BaseException, receipt: dict[str, Any] | None, segments: list[dict[str, Any]]
    ) -> None:
        known = isinstance(error, HeadraceError)
        fault: Any = "ours"
        fence = 0
        end: Any = error.facts.get("end", "") if isinstance(error, HeadraceError) else ""
        match error:
            case Cancelled():
                fault = "cancelled"
            case LostClaim():
                fault = "lost"
                fence = int(str(error.facts.get("fence", 0)))
            case OutsideError():
                fault = "outside"
            case OwnerError() | HeadraceError():
                fault = "owner"
        trace = "" if known else "".join(traceback.format_exception(error))
        self.say(
            messages.Failed(
                fault=fault, error=dict(told(error)), receipt=receipt, segments=segments,
                trace=trace, end=end, fence=fence,
            )
        )  # fmt: skip

    def _read(self, read: messages.Read) -> None:
        try:
            if read.streams:
                page = streams(read.order)
            elif read.order.destination_type:
                page = read_table(read.order, read.table, read.limit, read.cursor)
            else:
                page = sample(read.order, read.limit)
            answer = messages.PageRead(
                id=read.id, columns=list(page.columns), rows=[dict(row) for row in page.rows],
                next=page.next, error=None,
            )  # fmt: skip
        except Exception as error:
            shown: dict[str, Any] = dict(told(error))
            if isinstance(error, HeadraceError):
                shown["status"] = error.status
            else:
                traceback.print_exception(error)
            answer = messages.PageRead(id=read.id, columns=[], rows=[], next=None, error=shown)
        self.say(answer)


def main() -> None:
    """Start the child: die with the parent, yield to the server, ignore the terminal's Ctrl-C."""
    parent = os.getppid()
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(3)  # it died before we could tie ourselves to it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    import headrace.connectors.destinations.duckdb  # warm: half a second that no run waits for
    import headrace.connectors.sources.csv
    import headrace.engine.execute  # noqa: F401

    prepare()
    Child().serve()


if __name__ == "__main__":
    main()
