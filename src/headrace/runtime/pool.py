"""The local executor: warm child processes, one run each."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.domain.errors import HeadraceError, Invalid, NotFound, TimedOut, Unavailable
from headrace.runtime import messages
from headrace.service.orders import Order, spool_of

RUNS_OF_A_CHILD: Final = 100  # then a fresh one takes its place
READ_S: Final = 60.0

Heard = Callable[[messages.FromChild | None], None]


class Worker:
    """One child process, seen from the server."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.process = subprocess.Popen(  # our own interpreter
            [sys.executable, "-m", "headrace.runtime.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"MALLOC_ARENA_MAX": "2"},
        )
        self.exclusive: str | None = None
        self.busy = False
        self.killed = False
        self.runs = 0
        self.heard_at = time.monotonic()
        self._heard: Heard | None = None
        self._ready = threading.Event()
        self._reads: dict[int, tuple[threading.Event, list[messages.PageRead]]] = {}
        self._lock = threading.Lock()
        self._encode = msgspec.json.Encoder().encode
        threading.Thread(target=self._pump, daemon=True, name="headrace-child").start()

    @property
    def alive(self) -> bool:
        return not self.killed and self.process.poll() is None

    def work(self, order: Order, lease_s: float, exclusive: str | None, heard: Heard) -> None:
        """Give the child a run; `heard` is called with all it says, and None when it is gone."""
        self._heard = heard
        self.exclusive = exclusive
        self.runs += 1
        self.heard_at = time.monotonic()
        self.say(messages.Work(order=order, lease_s=lease_s))

    def let_go(self) -> None:
        """The run is over; the child is free."""
        self._heard = None
        self.exclusive = None
        self.busy = False

    def say(self, message: messages.ToChild) -> None:
        """Send a message; a child that is gone is noticed by the pump."""
        line = self._encode(message) + b"\n"
        with self._lock, contextlib.suppress(OSError, ValueError):
            assert self.process.stdin is not None  # a pipe
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def read(self, asked: messages.Read) -> messages.PageRead:
        """Have the child read a page, also beside its run. Raises what the read raises."""
        done = threading.Event()
        answers: list[messages.PageRead] = []
        number = id(done)
        self._reads[number] = (done, answers)
        try:
            self.say(msgspec.structs.replace(asked, id=number))
            until = time.monotonic() + READ_S
            while not done.wait(0.1):
                if not self.alive:
                    raise Unavailable("The reader ended.", hint="Try again.")
                if time.monotonic() > until:
                    raise TimedOut("The table could not be read in time.", hint="Try again.")
        finally:
            del self._reads[number]
        if (error := answers[0].error) is not None:
            raise _raised(error)
        return answers[0]

    def memory_bytes(self) -> int:
        """Return what the child holds in memory now; 0 where that cannot be told."""
        return memory_of(str(self.process.pid))

    def kill(self) -> None:
        """End the child at once."""
        self.killed = True
        with contextlib.suppress(OSError):
            self.process.kill()

    def close(self) -> None:
        """End an idle child, and wait for it."""
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None  # a pipe
            self.process.stdin.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()

    def _pump(self) -> None:
        decode = msgspec.json.Decoder(messages.FromChild).decode
        assert self.process.stdout is not None  # a pipe
        for line in self.process.stdout:
            self.heard_at = time.monotonic()
            message = decode(line)
            match message:
                case messages.Ready():
                    self._ready.set()
                case messages.PageRead():
                    if waiting := self._reads.get(message.id):
                        waiting[1].append(message)
                        waiting[0].set()
                case _:
                    if self._heard:
                        self._heard(message)
        self.process.wait()
        self.process.stdout.close()
        # Whatever it was killed in the middle of.
        shutil.rmtree(spool_of(self._data_dir, self.process.pid), ignore_errors=True)
        if self._heard:
            self._heard(None)


def memory_of(process: str) -> int:
    """Return the bytes that a process has to itself: files that it maps are not among them."""
    try:
        _, resident, shared, *_ = map(int, Path(f"/proc/{process}/statm").read_text().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


class Pool:
    """All children of a server. Only the dispatcher's thread starts children."""

    def __init__(self, size: int, data_dir: Path) -> None:
        self.size = size
        self._data_dir = data_dir
        self._workers: list[Worker] = []
        self._lock = threading.Lock()

    def free(self) -> int:
        """Return how many runs could be started now."""
        with self._lock:
            return self.size - sum(worker.busy for worker in self._workers)

    def warm(self) -> None:
        """See to it that one child more than is busy is there, up to the size."""
        with self._lock:
            self._tidy()
            idle = any(not worker.busy for worker in self._workers)
            if not idle and len(self._workers) < self.size:
                self._workers.append(Worker(self._data_dir))

    def take(self) -> Worker:
        """Return the child that was free the longest, marked busy; started if none is warm.

        One that has just ended a run is still making ready for the next.
        """
        with self._lock:
            self._tidy()
            free = [one for one in self._workers if not one.busy]
            worker = min(free, key=lambda one: one.heard_at, default=None)
            if worker is None:
                worker = Worker(self._data_dir)
                self._workers.append(worker)
            worker.busy = True
            return worker

    def _tidy(self) -> None:
        for worker in list(self._workers):
            tired = not worker.busy and worker.runs >= RUNS_OF_A_CHILD
            if tired:
                worker.close()
            if tired or not (worker.alive or worker.busy):
                self._workers.remove(worker)

    def read(
        self, order: Order, exclusive: str | None, table: str, limit: int, cursor: str | None, *,
        streams: bool = False,
    ) -> messages.PageRead:  # fmt: skip
        """Read a table: in the child that holds it, else in any that is alive."""
        with self._lock:
            alive = [worker for worker in self._workers if worker.alive]
            holder = next((one for one in alive if exclusive and one.exclusive == exclusive), None)
            reader = holder or next((one for one in alive if not one.busy), None)
        if reader is None and alive and not exclusive:
            reader = alive[0]
        if reader is None:
            raise Unavailable("Every worker is busy.", hint="Try again in a moment.")
        return reader.read(
            messages.Read(
                id=0, order=order, table=table, limit=limit, cursor=cursor, streams=streams
            )
        )

    def close(self) -> None:
        """End all children."""
        with self._lock:
            for worker in self._workers:
                if worker.busy:
                    worker.kill()
                worker.close()
            self._workers.clear()


def _raised(error: dict[str, Any]) -> HeadraceError:
    status = error.get("status", 500)
    kinds = {400: Invalid, 404: NotFound, 503: Unavailable}
    kind = kinds.get(status)
    shown = {"hint": str(error.get("hint", "")), "field": str(error.get("field", ""))}
    if kind:
        return kind(str(error["message"]), **shown)
    made = HeadraceError(str(error["message"]), **shown)
    made.__class__ = type("Told", (HeadraceError,), {"status": status, "code": error["code"]})
    return made
