"""The dispatcher: claims runs, gives them to children, beats for them, ends them.

One thread claims and beats; what a child says is handled on the thread that listens to it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from headrace.domain.errors import LostClaim, TimedOut, Unavailable
from headrace.domain.event import EventKind, EventStatus, NewEvent
from headrace.domain.run import Claim, Run, RunKind
from headrace.domain.server import Role
from headrace.observe import faults
from headrace.observe.log import logger
from headrace.runtime import messages
from headrace.runtime.pool import Pool, Worker, memory_of
from headrace.service.jobs import Jobs
from headrace.service.queue import Queue, told
from headrace.service.runs import Runs
from headrace.service.triggers import Triggers
from headrace.service.uploads import Uploads
from headrace.settings import Settings

POLL_S: Final = 0.5
BEAT_S: Final = 1.0
SOON_S: Final = 0.1  # between two beats, however often somebody wakes it
SWEEP_S: Final = 20.0  # between two looks at files that nobody needs any more


@dataclass(slots=True)
class Job:
    """A run under way here."""

    claim: Claim
    run: Run
    worker: Worker
    begun: float = field(default_factory=time.monotonic)
    timed_out: bool = False
    uploaded: bool = False  # its files are to be swept when it ends
    progress: Mapping[str, Any] = field(default_factory=dict)
    waiting: str | None = None
    told_at: float = 0.0
    changed: bool = False
    cancel_asked: float = 0.0
    ended: bool = False
    killed_for: str = ""

    @property
    def is_committing(self) -> bool:
        """Whether its last word was that it commits: nobody knows whether it has."""
        return self.progress.get("phase") == "committing"


class Dispatcher:
    """Claims and supervises."""

    def __init__(
        self, queue: Queue, runs: Runs, jobs: Jobs, triggers: Triggers, uploads: Uploads,
        pool: Pool, settings: Settings, ring: Callable[[], None],
    ) -> None:  # fmt: skip
        """`ring` wakes the other servers."""
        self._ring = ring
        self._claims = Role.DISPATCHER in settings.roles
        self._ticks = Role.TICKER in settings.roles
        self._drains = threading.Event()
        self._queue = queue
        self._runs = runs
        self._executions = jobs
        self._triggers = triggers
        self._uploads = uploads
        self._pool = pool
        self._settings = settings
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._jobs: dict[str, Job] = {}
        self._next_sweep = 0.0
        self._next_tick = 0.0
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._loop, name="headrace-dispatcher", daemon=True)
        self.healthy = threading.Event()

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    def stop(self) -> None:
        """Stop claiming, let what is under way end for a while, give back the rest."""
        self._drains.set()
        self._wake.set()
        if self._jobs:
            logger().info("stopping", runs=len(self._jobs), seconds=self._settings.drain_s)
        until = time.monotonic() + self._settings.drain_s
        while self._jobs and time.monotonic() < until and self._thread.is_alive():
            time.sleep(0.05)
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=30)
        with self._lock:
            for job in list(self._jobs.values()):
                job.ended = True
                job.worker.kill()
                job.worker.process.wait()
                with contextlib.suppress(LostClaim, Unavailable):
                    self._queue.give_back(job.claim, unsure=job.is_committing)
            self._jobs.clear()
        self._pool.close()

    def _loop(self) -> None:
        next_beat = last_beat = 0.0
        woken = False
        while not self._stop.is_set():
            try:
                now = time.monotonic()
                if self._ticks:
                    self._tick()
                if self._claims and not self._drains.is_set():
                    self._claim()
                if now >= next_beat or (woken and now >= last_beat + SOON_S):
                    last_beat = now  # sooner when woken: somebody may have cancelled a run
                    next_beat = now + min(BEAT_S, self._settings.lease_s / 3)
                    self._beat()
                if now >= self._next_sweep:
                    self._next_sweep = now + SWEEP_S
                    self._uploads.sweep()
                self._pool.warm()
                self.healthy.set()
            except Unavailable as error:
                self.healthy.clear()
                logger().warning("control store unavailable", error=str(error))
                self._fence_myself()
            except Exception:
                self.healthy.clear()
                logger().exception("dispatcher")
            wait_s = POLL_S
            with contextlib.suppress(Exception):
                due_ms = self._queue.next_due_ms()
                if due_ms is not None and due_ms > 0:
                    wait_s = min(POLL_S, due_ms / 1000 + 0.005)
            woken = self._wake.wait(wait_s)
            self._wake.clear()

    def _tick(self) -> None:
        """Start what is due, move executions on."""
        before = self._runs.queued
        self._executions.tick()
        self._triggers.tick()
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + BEAT_S
            self._runs.tick()
        if self._runs.queued != before:
            self._ring()

    def _claim(self) -> None:
        claimed = self._queue.claim(self._pool.free())
        if claimed:
            self._wake.set()  # their executions have begun
        for claim, run in claimed:
            faults.reach("server.claimed")
            try:
                order = self._runs.order(run)
            except Exception as error:
                self._queue.fail(claim, told(error), None, ())
                logger().exception("order", run=run.id)
                continue
            if run.kind is RunKind.PUSH and not order.pushes:
                self._queue.finish(claim)  # nothing more has come
                continue
            try:
                worker = self._pool.take()
            except OSError as error:  # no process or memory left: count it, and try again later
                logger().error("no worker", run=run.id, error=str(error))
                self._queue.died(claim, "no worker could be started")
                continue
            job = Job(claim=claim, run=run, worker=worker, uploaded=bool(order.phases))
            with self._lock:
                self._jobs[run.id] = job

            def heard(message: messages.FromChild | None, job: Job = job) -> None:
                self._heard(job, message)

            worker.work(order, self._settings.lease_s, self._queue.exclusive_of(run.id), heard)
            logger().info("run started", run=run.id, task=run.task, attempt=run.attempt)
            faults.reach("server.submitted")

    # What children say, on their listening threads.

    def _heard(self, job: Job, message: messages.FromChild | None) -> None:
        try:
            self._take(job, message)
        except LostClaim:
            logger().warning("claim lost", run=job.run.id)
            self._end(job)
            job.worker.kill()
        except Unavailable as error:
            # No acknowledgement: the child ends itself, and the commit is found by the next try.
            logger().warning("control store unavailable", run=job.run.id, error=str(error))
            job.worker.kill()
        except Exception:
            logger().exception("supervisor", run=job.run.id)
            job.worker.kill()

    def _take(self, job: Job, message: messages.FromChild | None) -> None:
        if job.ended:
            return
        match message:
            case messages.Told():
                self._progress(job, message)
            case messages.Happened():
                status = EventStatus(message.status) if message.status else None
                self._queue.record(
                    job.claim,
                    [
                        NewEvent(
                            kind=EventKind(message.kind), status=status, message=message.message,
                            rows=message.rows, data=message.data,
                        )
                    ],
                )  # fmt: skip
            case messages.Committed():
                self._queue.advance(
                    job.claim, message.token, message.receipt, message.segments, message.pushes
                )
                job.worker.say(messages.Ack())
            case messages.Skipped():
                self._queue.skip(job.claim, message.message)
                self._end(job)
            case messages.Done():
                self._done(job)
                self._end(job)
            case messages.Failed():
                self._failed(job, message)
                self._end(job)
            case None:
                self._gone(job)

    def _gone(self, job: Job) -> None:
        """Deal with a worker that has ended: killed by us, or by itself."""
        how = job.killed_for or f"its worker died (status {job.worker.process.returncode})"
        logger().warning("worker died", run=job.run.id, how=how)
        self._end(job)
        if job.timed_out:
            limit = f"{self._settings.run_max_s:g} s"
            hint = "Raise HEADRACE_RUN_MAX, or load less at a time. Nothing more was published."
            error = TimedOut(f"The run was ended after {limit}.", hint=hint)
            self._queue.fail(job.claim, told(error), None, ())
        elif job.cancel_asked and not job.is_committing:
            self._queue.cancelled(job.claim)
        else:
            self._queue.died(job.claim, how)

    def _done(self, job: Job) -> None:
        if job.run.kind is RunKind.PUSH:
            self._queue.drained(job.claim)
            return
        self._queue.finish(job.claim)
        logger().info("run succeeded", run=job.run.id)

    def _progress(self, job: Job, message: messages.Told) -> None:
        if message.phase:
            job.progress = {
                "phase": message.phase, "rows": message.rows, "done": message.done,
                "total": message.total, "message": message.message,
            }  # fmt: skip
            waiting = message.message if message.phase == "waiting" else None
            if waiting != job.waiting:
                job.waiting = waiting
                self._wake.set()
            job.changed = True

    def _failed(self, job: Job, message: messages.Failed) -> None:
        error = dict(message.error)
        if message.fault == "ours" and message.trace:
            error = dict(told(RuntimeError(), job.run.id[:8]))
            logger().error("run failed unexpectedly", run=job.run.id, trace=message.trace)
        else:
            logger().info("run ended", run=job.run.id, fault=message.fault, code=error["code"])
        match message.fault:
            case "cancelled":
                self._queue.cancelled(job.claim)
            case "outside":
                unsure = job.is_committing
                self._queue.retry(job.claim, job.run, error, message.end, unsure=unsure)
            case "lost":
                self._queue.outrun(job.claim, message.fence)
            case _:
                self._queue.fail(job.claim, error, message.receipt, message.segments)

    def _end(self, job: Job) -> None:
        job.ended = True
        if job.uploaded:
            self._next_sweep = 0.0
        with self._lock:
            self._jobs.pop(job.run.id, None)
        job.worker.let_go()
        self._wake.set()

    # Heartbeats, on the dispatcher's thread.

    def _beat(self) -> None:
        with self._lock:
            jobs = dict(self._jobs)
        told_now = {}
        for job in jobs.values():
            if job.changed:
                job.changed = False
                told_now[job.claim] = (job.progress, job.waiting)
        if not jobs:
            return
        beat = self._queue.beat([job.claim for job in jobs.values()], told_now)
        now = time.monotonic()
        for id_, job in jobs.items():
            if job.ended:
                continue
            job.told_at = now
            if id_ not in beat.held:
                self._lost(job)
            elif id_ in beat.cancelling:
                self._cancel(job, now)
            self._watch(job, now)
        self._watch_memory([job for job in jobs.values() if not job.ended])

    def _lost(self, job: Job) -> None:
        if not job.ended:
            logger().warning("claim lost", run=job.run.id)
            self._end(job)
            job.worker.kill()

    def _cancel(self, job: Job, now: float) -> None:
        if not job.cancel_asked:
            job.cancel_asked = now
            job.worker.say(messages.Cancel())
        elif now - job.cancel_asked > self._settings.grace_s:
            job.killed_for = "it did not stop when it was cancelled"
            job.worker.kill()

    def _watch(self, job: Job, now: float) -> None:
        too_long = now - job.begun > self._settings.run_max_s
        # A commit under way is not cut off: what it has done must be told.
        if too_long and job.run.kind is not RunKind.PUSH and not job.is_committing:
            job.timed_out = True
            job.worker.kill()
            return
        if now - job.worker.heard_at > self._settings.stall_s:
            job.killed_for = f"it said nothing for {self._settings.stall_s:.0f} s"
            job.worker.kill()

    def _watch_memory(self, jobs: list[Job]) -> None:
        """Keep the whole server within its memory: the run that holds most of it has to go."""
        held = {job.run.id: job.worker.memory_bytes() for job in jobs}
        total = sum(held.values()) + memory_of("self")
        share = self._settings.child_bytes
        over = [job for job in jobs if held[job.run.id] > share and not job.is_committing]
        if total <= self._settings.memory_bytes or not over:
            return
        job = max(over, key=lambda one: held[one.run.id])
        job.killed_for = (
            f"it held {held[job.run.id] >> 20} MiB of memory; its share is {share >> 20} MiB"
        )
        job.worker.kill()

    def _fence_myself(self) -> None:
        """Kill work whose lease must have ended while the store did not answer."""
        now = time.monotonic()
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            if job.told_at and now - job.told_at > 0.9 * self._settings.lease_s:
                self._lost(job)
