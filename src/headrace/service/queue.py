"""The queue from the holder's side: claim, beat, advance, finish, give back.

Only this module and `runs` change a run's state, and only along the arrows of `domain.run`.
"""

import contextlib
import heapq
import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headrace.domain.books import Receipt
from headrace.domain.clock import Millis
from headrace.domain.errors import HeadraceError
from headrace.domain.event import EventKind, EventStatus, NewEvent
from headrace.domain.ids import RunId, ServerId
from headrace.domain.run import ACTIVE, Claim, Run, RunState
from headrace.observe import faults
from headrace.service import limits, policies, pushes
from headrace.service.pushes import told_push
from headrace.store import breakers, inbox, positions, runs, triggers
from headrace.store.database import Database, Tx

DEATHS_MAX: Final = 3
REASONS_MAX: Final = 100  # of the rejected rows of a run that its event tells
ROW_CHARACTERS_MAX: Final = 1_000
TRIES_MAX: Final = 6  # of a run whose outside is down
BACKOFF_MS: Final = 1_000
BACKOFF_MAX_MS: Final = 300_000
PUSH_IDLE_MS: Final = 5_000  # a push run stays open for more
IDLE: Final = "more records"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a heartbeat found: runs that are still held, and which of them must stop."""

    held: frozenset[str]
    cancelling: frozenset[str]


class Queue:
    """One holder's view. `holder` names this server process, uniquely."""

    def __init__(
        self,
        database: Database,
        holder: str,
        lease_ms: int,
        chance: Callable[[], float] | None = None,
        quarantine: Path | None = None,
        *,
        by_mail: bool = False,
        here: ServerId | None = None,
    ) -> None:
        """`quarantine`: the folder for records that were pushed and cannot be applied.

        `here`: of several servers this one, which leaves to each what lies on its own disk.
        `by_mail`: failures are told by mail too, as each task wishes.
        """
        self._database = database
        self.holder = holder
        self._lease_ms = lease_ms
        self._quarantine = quarantine
        self._by_mail = by_mail
        self.here = here
        self._chance = chance or random.random

    def claim(self, room: int) -> list[tuple[Claim, Run]]:
        """Claim at most `room` runs that may start.

        Of the least-served tenant first; of a tenant by priority, then the oldest.
        """
        with self._database.begin() as tx:
            tx.lock_claims()
            self._bury_expired(tx)
            return self._claim(tx, room) if room > 0 else []

    def _claim(self, tx: Tx, room: int) -> list[tuple[Claim, Run]]:
        tenants = runs.waiting_tenants(tx)
        taken = limits.room(tx) if tenants else None
        if taken is None or taken.shut():
            return []
        turns = [(taken.served(tenant), place, tenant) for place, tenant in enumerate(tenants)]
        heapq.heapify(turns)
        candidates: dict[str, list[runs.Waiting]] = {}
        claimed: list[tuple[Claim, Run]] = []
        while turns and len(claimed) < room:
            _, place, tenant = heapq.heappop(turns)
            one = self._next_of(tx, tenant, candidates.setdefault(tenant, []), taken, room)
            if one is None:
                continue
            if (held := runs.claim(tx, one.id, self.holder, self._lease_ms)) is not None:
                claimed.append(held)
                taken.take(tx, one)
            heapq.heappush(turns, (taken.served(tenant), place, tenant))
        return claimed

    def _next_of(
        self, tx: Tx, tenant: str, candidates: list[runs.Waiting], taken: limits.Room, room: int
    ) -> runs.Waiting | None:
        """Return the next run of a tenant that may start; None if there is none."""
        for fresh in (False, True):
            if fresh:
                candidates += runs.eligible(tx, tenant, taken.closed(), room, self.here)
            while candidates:
                one = candidates.pop(0)
                if taken.obstacle(one) is None:
                    return one
        return None

    def _bury_expired(self, tx: Tx) -> None:
        for run in runs.expired(tx):
            self._bury(tx, run, "its server was lost")

    def take_over(self) -> int:
        """Free the runs of earlier holders: only for a server that is alone with its store."""
        with self._database.begin() as tx:
            lost = runs.held_by_others(tx, self.holder)
            for run in lost:
                self._bury(tx, run, "the server stopped under it")
        return len(lost)

    def _bury(self, tx: Tx, run: Run, how: str) -> None:
        """Count a death of a run's worker: it waits to be tried again, or has failed for good."""
        values: dict[str, Any] = {"holder": None, "lease_until": None, "deaths": run.deaths + 1}
        last = run.deaths + 1 >= DEATHS_MAX
        if run.stopping and last:
            runs.move(
                tx, run.id, tuple(ACTIVE), state=RunState.CANCELLED, finished_at=tx.now, **values
            )
            self._tell(tx, run, "cancelled", EventStatus.FAILED, {"reason": how})
            pushes.refuse(tx, run.id, "The run was cancelled.", self._quarantine)
        elif last:
            error = {
                "code": "worker_died",
                "message": f"The worker died repeatedly ({run.deaths + 1} times).",
                "hint": "Look at the server's log: memory and disk are the usual reasons.",
            }
            runs.move(
                tx, run.id, tuple(ACTIVE), state=RunState.FAILED, finished_at=tx.now, error=error,
                **values,
            )  # fmt: skip
            self._tell(tx, run, error["message"], EventStatus.CRITICAL, {"error": error})
            pushes.refuse(tx, run.id, error["message"], self._quarantine)
            self._failed(tx, run.id, error, critical=True)
        else:
            wait_ms = self._backoff(run.deaths)
            runs.move(
                tx, run.id, tuple(ACTIVE), state=RunState.QUEUED, not_before=tx.now + wait_ms,
                **values,
            )  # fmt: skip
            what = "to find out what has landed" if run.stopping else "to be tried again"
            self._tell(tx, run, f"{what}: {how}", EventStatus.RETRIED, {})

    def _backoff(self, earlier: int) -> int:
        """Return a wait with full jitter: from nothing to a limit that doubles."""
        ceiling = min(BACKOFF_MS << min(earlier, 20), BACKOFF_MAX_MS)
        return int(ceiling * self._chance())

    def beat(
        self,
        claims: Sequence[Claim],
        progress: Mapping[Claim, tuple[Mapping[str, Any], str | None]],
    ) -> Beat:
        """Renew the leases of `claims`, take progress up and cancels down.

        A run that this server claimed but does not work on is not renewed: it comes free.
        """
        with self._database.begin() as tx:
            held = runs.renew(tx, claims, self._lease_ms)
            for claim, (told, waiting) in progress.items():
                runs.tell_progress(tx, claim, told, waiting)
        return Beat(
            held=frozenset(held),
            cancelling=frozenset(
                id_ for id_, state in held.items() if state is RunState.CANCELLING
            ),
        )

    def record(self, claim: Claim, events: Sequence[NewEvent]) -> None:
        """Write events of a held run. Raises LostClaim."""
        with self._database.begin() as tx:
            runs.write(tx, claim)
            for event in events:
                runs.add_event(tx, claim.run, event)

    def advance(
        self, claim: Claim, token: str, receipt: Mapping[str, Any],
        segments: Sequence[Mapping[str, Any]], done: Sequence[Mapping[str, Any]] = (),
    ) -> None:  # fmt: skip
        """Put on record what is committed at the destination. Raises LostClaim. Safe to repeat.

        A run that drains the inbox commits many times: its receipt grows, and each of the
        pushes in `done` is told by the event that was promised.
        """
        faults.reach("server.before_advance")
        with self._database.begin() as tx:
            told_already = runs.token(tx, claim.run) == token
            if done and told_already:
                runs.write(tx, claim)
            elif done:
                self._advance_pushes(tx, claim, token, receipt, segments, done)
            else:
                runs.write(tx, claim, token=token, receipt=dict(receipt))
                if not told_already:
                    positions.moved(tx, claim.run, receipt)
                    runs.add_segments(tx, claim.run, segments)
                    self._tell_rejected(tx, claim, segments)
                    runs.add_event(tx, claim.run, _landed(receipt))
        faults.reach("server.after_advance")

    def _tell_rejected(self, tx: Tx, claim: Claim, segments: Sequence[Mapping[str, Any]]) -> None:
        """Tell how many rows were rejected, and of the first ones the reason and the row."""
        total = sum(segment["rows"] for segment in segments)
        if not total:
            return
        shown: list[dict[str, Any]] = []
        for segment in segments if self._quarantine else ():
            with contextlib.suppress(OSError), (self._quarantine / segment["name"]).open() as lines:
                for line in itertools.islice(lines, REASONS_MAX - len(shown)):
                    row = json.loads(line)
                    shown.append(
                        {
                            "file": row["file"], "record": row["record"], "line": row["line"],
                            "reason": row["message"], "row": row["raw"][:ROW_CHARACTERS_MAX],
                        }
                    )  # fmt: skip
        runs.add_event(
            tx, claim.run,
            NewEvent(
                kind=EventKind.RECORD, status=EventStatus.FAILED, rows=total,
                message=f"{total:,} rows were rejected.", data={"rejected": shown},
            ),
        )  # fmt: skip

    @staticmethod
    def _advance_pushes(
        tx: Tx, claim: Claim, token: str, receipt: Mapping[str, Any],
        segments: Sequence[Mapping[str, Any]], done: Sequence[Mapping[str, Any]],
    ) -> None:  # fmt: skip
        grown = receipt
        if so_far := runs.receipt_of(tx, claim.run):
            grown = Receipt.from_dict(so_far).with_more(Receipt.from_dict(receipt)).as_dict()
        runs.write(tx, claim, token=token, receipt=dict(grown))
        runs.add_segments(tx, claim.run, segments)
        for push in done:
            runs.add_event(tx, claim.run, told_push(push), push["id"])
        inbox.drop(tx, [push["id"] for push in done])

    def finish(self, claim: Claim) -> None:
        """End a run whose receipt is on record: it succeeded. Raises LostClaim."""
        faults.reach("server.before_finish")
        with self._database.begin() as tx:
            runs.write(
                tx, claim, _log("succeeded"), state=RunState.SUCCEEDED, finished_at=tx.now,
                **_let_go(),
            )  # fmt: skip
            policies.succeeded(tx, claim.run)
            triggers.task_succeeded(tx, claim.run)
            breakers.worked(tx, claim.run)
        faults.reach("server.after_finish")

    def skip(self, claim: Claim, reason: str) -> None:
        """End a run that had nothing to do. Raises LostClaim."""
        with self._database.begin() as tx:
            runs.write(
                tx, claim, _log(f"skipped: {reason}"), state=RunState.SKIPPED,
                finished_at=tx.now, **_let_go(),
            )  # fmt: skip
            policies.succeeded(tx, claim.run)
            breakers.worked(tx, claim.run)

    def drained(self, claim: Claim) -> None:
        """Leave a push run open for what comes, or for what has come. Raises LostClaim."""
        with self._database.begin() as tx:
            if self._cancels(tx, claim):
                return
            runs.write(tx, claim, state=RunState.QUEUED, attempt=0, deaths=0, **_let_go(IDLE))
            empty = inbox.is_empty(tx, claim.run)
            runs.move(tx, claim.run, (RunState.QUEUED,), not_before=tx.now + PUSH_IDLE_MS * empty)

    def fail(
        self, claim: Claim, error: Mapping[str, Any], receipt: Mapping[str, Any] | None,
        segments: Sequence[Mapping[str, Any]],
    ) -> None:  # fmt: skip
        """End a run that failed for good. Raises LostClaim."""
        with self._database.begin() as tx:
            runs.write(
                tx, claim, state=RunState.FAILED, finished_at=tx.now, error=dict(error),
                receipt=None if receipt is None else dict(receipt), **_let_go(),
            )  # fmt: skip
            runs.add_segments(tx, claim.run, segments)
            self._tell_rejected(tx, claim, segments)
            pushes.refuse(tx, claim.run, str(error.get("message", "")), self._quarantine)
            critical = error.get("code") not in ("too_many_errors", "differs")
            runs.add_event(
                tx,
                claim.run,
                NewEvent(
                    kind=EventKind.RECORD,
                    status=EventStatus.CRITICAL if critical else EventStatus.FAILED,
                    message=str(error.get("message", "")),
                    data={"error": dict(error)},
                ),
            )
            self._failed(tx, claim.run, error, critical=critical)

    def _failed(self, tx: Tx, id_: RunId, error: Mapping[str, Any], *, critical: bool) -> None:
        """Do what the task's policies say of a failed run."""
        reason = f"{error.get('message', '')} {error.get('hint', '')}".strip()
        policies.failed(tx, id_, reason, critical=critical, by_mail=self._by_mail)

    def cancelled(self, claim: Claim) -> None:
        """End a run whose work is gone after a cancel. Raises LostClaim."""
        with self._database.begin() as tx:
            self._cancelled(tx, claim)

    def _cancelled(self, tx: Tx, claim: Claim) -> None:
        runs.write(
            tx, claim, _log("cancelled"), state=RunState.CANCELLED, finished_at=tx.now, **_let_go()
        )
        pushes.refuse(tx, claim.run, "The run was cancelled.", self._quarantine)

    def _cancels(self, tx: Tx, claim: Claim) -> bool:
        """End a run that would go back to the queue, if somebody has cancelled it meanwhile."""
        runs.write(tx, claim)
        asked = runs.is_cancelling(tx, claim.run)
        if asked:
            self._cancelled(tx, claim)
        return asked

    def retry(
        self, claim: Claim, run: Run, error: Mapping[str, Any], end: str = "", *,
        unsure: bool = False,
    ) -> Millis | None:  # fmt: skip
        """Give back a run whose outside is down; None when that was the last try.

        `end`: whether it is its source or its destination, where that is known. `unsure`: its
        commit may have happened all the same.
        Raises LostClaim.
        """
        if end:
            with self._database.begin() as tx:
                runs.write(tx, claim)
                reason = str(error.get("message", ""))
                breakers.failed(tx, f"{end}:{runs.end_of(tx, claim.run, end)}", reason)
        if run.attempt >= TRIES_MAX:
            self.fail(claim, error, None, ())
            return None
        with self._database.begin() as tx:
            if not unsure and self._cancels(tx, claim):
                return None
            at = Millis(tx.now + self._backoff(run.attempt))
            runs.write(
                tx, claim, state=RunState.QUEUED, not_before=at,
                **_let_go(f"the next try, after: {error.get('message', '')}"),
            )  # fmt: skip
            runs.add_event(
                tx,
                claim.run,
                NewEvent(
                    kind=EventKind.LOG, status=EventStatus.RETRIED,
                    message=str(error.get("message", "")), data={"error": dict(error)},
                ),
            )  # fmt: skip
        return at

    def died(self, claim: Claim, how: str) -> None:
        """Count the death of a held run's worker. Raises LostClaim."""
        with self._database.begin() as tx:
            runs.write(tx, claim)
            if run := runs.any_tenants(tx, claim.run):
                self._bury(tx, run, how)

    def outrun(self, claim: Claim, fence: int) -> None:
        """Try again a run whose destination knows a higher fence, above that one. Raises LostClaim.

        Whoever still holds the claim is outrun only where this store is an older copy of itself
        (restored, or failed over to): its fences go on above all that were given before.
        """
        with self._database.begin() as tx:
            runs.write(tx, claim)
            runs.raise_fences(tx, fence)
            if run := runs.any_tenants(tx, claim.run):
                self._bury(tx, run, "its destination knows a newer attempt: an older copy?")

    def give_back(self, claim: Claim, *, unsure: bool = False) -> None:
        """Give back a run because this server stops: not its fault, no wait. Raises LostClaim.

        `unsure`: its commit may have happened all the same.
        """
        with self._database.begin() as tx:
            if not unsure and self._cancels(tx, claim):
                return
            run = runs.any_tenants(tx, claim.run)
            runs.write(
                tx, claim, state=RunState.QUEUED, not_before=tx.now,
                attempt=run.attempt - 1 if run else 0, **_let_go(),
            )  # fmt: skip
            runs.add_event(tx, claim.run, _log("given back: the server stops"))

    def exclusive_of(self, id_: str) -> str | None:
        """Return the name of what the run holds alone, such as a DuckDB file."""
        with self._database.read() as tx:
            return runs.exclusive_of(tx, id_)

    def next_due_ms(self) -> int | None:
        """Return how long the dispatcher may sleep before a queued run is due."""
        with self._database.read() as tx:
            return runs.next_due_in_ms(tx)

    @staticmethod
    def _tell(tx: Tx, run: Run, message: str, status: EventStatus, data: Mapping[str, Any]) -> None:
        runs.add_event(
            tx, run.id, NewEvent(kind=EventKind.LOG, status=status, message=message, data=data)
        )


def _let_go(waiting_for: str | None = None) -> dict[str, Any]:
    return {"holder": None, "lease_until": None, "waiting_for": waiting_for}


def _landed(receipt: Mapping[str, Any]) -> NewEvent:
    books = receipt["books"]
    if not receipt["tables"] and "verification" in receipt:
        return NewEvent(
            kind=EventKind.RECORD, status=EventStatus.SUCCEEDED,
            message="The table is as its source.", data={"verification": receipt["verification"]},
        )  # fmt: skip
    landed = books["inserted"] + books["updated"]
    return NewEvent(
        kind=EventKind.RECORD, status=EventStatus.SUCCEEDED, rows=landed,
        message=f"{landed:,} rows are in the destination.", data={"books": dict(books)},
    )  # fmt: skip


def _log(message: str) -> NewEvent:
    return NewEvent(kind=EventKind.LOG, status=EventStatus.SUCCEEDED, message=message)


def told(error: BaseException, report: str = "") -> dict[str, str]:
    """Return an error as it is kept and shown; nothing of an unexpected one but its report id."""
    if isinstance(error, HeadraceError):
        return error.as_dict()
    return {
        "code": "internal",
        "message": "Something unexpected happened in the server.",
        "hint": f"Its log has the details under report {report}.",
    }
