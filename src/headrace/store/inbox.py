"""The inbox: what was pushed, kept before it is answered, until it is in its destination."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from headrace.domain.clock import Millis
from headrace.domain.ids import EventId, RunId, TaskId, TenantId, new_id
from headrace.store import tables
from headrace.store.database import Tx
from headrace.store.runs import next_number

inbox: Final = tables.inbox
BATCH_BYTES_MAX: Final = 8 << 20  # of what is committed together, but for a single larger push


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """One push. `payload` is a JSON array of `records` objects; `batch` goes into one commit."""

    id: EventId
    batch: int
    action: str
    records: int
    payload: bytes


def add(tx: Tx, run: RunId, action: str, records: int, payload: bytes) -> tuple[EventId, Millis]:
    """Keep a push behind all earlier ones; return its id and moment."""
    number = next_number(tx, "push")
    id_ = EventId(new_id())
    tx.add(
        inbox, id=id_, number=number, run=run, action=action, records=records, payload=payload,
        at=tx.now,
    )  # fmt: skip
    return id_, tx.now


def taken(tx: Tx, run: RunId, bytes_max: int) -> list[Pushed]:
    """Return the oldest pushes of a run, at most `bytes_max` but one at least.

    Neighbours with one action get a batch number, once and for all: a commit that is tried again
    must hold the same pushes as before.
    """
    size = sa.func.length(inbox.c.payload)
    heads = tx.all(
        sa.select(inbox.c.id, inbox.c.number, inbox.c.batch, inbox.c.action, size.label("bytes"))
        .where(inbox.c.run == run)
        .order_by(inbox.c.number)
    )
    wanted: list[str] = []
    total = batch = batch_bytes = 0
    last: Any = None
    for head in heads:
        total += head.bytes
        if wanted and total > bytes_max:
            break
        if head.batch is not None:
            batch, batch_bytes = head.batch, 0
        else:
            # A batch that was made up before is never added to.
            fits = (
                last is not None and last.batch is None and last.action == head.action
                and batch_bytes + head.bytes <= BATCH_BYTES_MAX
            )  # fmt: skip
            batch, batch_bytes = (batch if fits else head.number), (batch_bytes if fits else 0)
            batch_bytes += head.bytes
            tx.change(inbox, {"id": head.id}, batch=batch)
        last = head
        wanted.append(head.id)
    rows = tx.all(sa.select(inbox).where(inbox.c.id.in_(wanted)).order_by(inbox.c.number))
    return [
        Pushed(
            id=EventId(row.id), batch=row.batch, action=row.action, records=row.records,
            payload=bytes(row.payload),
        )
        for row in rows
    ]  # fmt: skip


def is_empty(tx: Tx, run: RunId) -> bool:
    """Tell whether nothing is left to be applied."""
    return tx.get(inbox.c.id, run=run) is None


def drop(tx: Tx, ids: Sequence[str]) -> None:
    """Forget pushes that are told of by events."""
    tx.run(sa.delete(inbox).where(inbox.c.id.in_(ids)))


def heads(tx: Tx, run: RunId) -> list[tuple[str, int]]:
    """Return id and number of records of what is left."""
    query = sa.select(inbox.c.id, inbox.c.records).where(inbox.c.run == run)
    return [(row.id, row.records) for row in tx.all(query.order_by(inbox.c.number))]


def push_tasks(tx: Tx, tenant: TenantId, index: str) -> list[TaskId]:
    """Return the tasks that take pushes for an index."""
    task, source, destination = tables.task, tables.source, tables.destination
    query = (
        sa.select(task.c.id)
        .join(source, source.c.id == task.c.source)
        .join(destination, destination.c.id == task.c.destination)
        .where(
            task.c.tenant == tenant,
            source.c.type == "push",
            destination.c.input["indexName"].as_string() == index,
        )
        .order_by(task.c.created_at)
    )
    return [TaskId(row.id) for row in tx.all(query)]
